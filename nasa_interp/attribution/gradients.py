"""Gradients with respect to activations: the weights frozen meanwhile, batches sized for a whole backward pass."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from tqdm.auto import tqdm

from ..batches import batch_size_for, free_memory, in_batches, longest_first, model_batches
from ..models import Model
from ..prompts import PromptBatch
from ..reference import PlainReference

# A graph also keeps what attention and norms save for the way back.
GRAPH = 1.5


@contextmanager
def frozen_weights(hf: Any) -> Iterator[None]:
    """Inside, gradients are computed, and no parameter takes any; then each requires them or not as before."""
    trained = [parameter for parameter in hf.parameters() if parameter.requires_grad]
    try:
        for parameter in trained:
            parameter.requires_grad_(False)
        with torch.enable_grad():
            yield
    finally:
        for parameter in trained:
            parameter.requires_grad_(True)


@contextmanager
def tracked_embeddings(hf: Any) -> Iterator[None]:
    """Inside, the token embeddings begin a graph, which frozen weights alone would not."""

    def track(module: nn.Module, inputs: Any, output: Tensor) -> Tensor:
        return output.detach().requires_grad_()

    handle = hf.get_input_embeddings().register_forward_hook(track)
    try:
        yield
    finally:
        handle.remove()


def difference(logits: Float[Tensor, "batch d_vocab"], prompts: PromptBatch) -> Float[Tensor, " batch"]:
    """d = logit(No) - logit(Yes), in the graph."""
    return logits[:, prompts.no_token] - logits[:, prompts.yes_token]


def run_rows(
    model: Model,
    prompts: PromptBatch,
    run: Callable[[list[int]], Float[Tensor, " row"] | None],
    *,
    graph: bool,
    reference: bool = False,
    batch_size: int | None = None,
    bar: str | None = None,
) -> None:
    """Calls `run` with the places of each batch of prompts, longest first; `graph` keeps all layers' activations.

    `run` returns the logit differences; with `reference` those of the shortest and the longest prompt, which come first
    then, are held to the plain model. `bar` is the title of a bar over prompts.
    """
    places = longest_first(prompts)
    lengths = (prompts.last_pos[places] + 1).tolist()

    def size(length: int) -> int:
        if batch_size is not None:
            return batch_size
        return min(batch_size_for(model, length), _graphs_that_fit(model, length) if graph else len(places))

    batches = list(model_batches(model, places, lengths, size))
    plain = PlainReference(model, prompts, batches)
    with tqdm(total=len(prompts), desc=bar, unit="prompt", disable=bar is None) as shown:
        for rows, d in in_batches(plain.first(batches) if reference else batches, lambda rows: (rows, run(rows))):
            if reference and d is not None:
                plain.compare(rows, d)
            shown.update(len(rows))


def _graphs_that_fit(model: Model, length: int) -> int:
    config = model.config
    width = 8 * config.hidden_size + 4 * (getattr(config, "intermediate_size", None) or 4 * config.hidden_size)
    bytes_each = int(GRAPH * width * length * model.n_layers * model.dtype.itemsize) + 8 * config.vocab_size
    return max(1, free_memory(model) // bytes_each)
