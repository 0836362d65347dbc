"""Every head for itself: the answer's logit difference under an intervention on one head at a time.

What lies below a head's layer is the same with and without the intervention: it is computed once, and each layer's
variants restart there. The heads of a layer are rows of one batch, each behind its own variant of the shared prefix.
"""

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from tqdm.auto import tqdm

from ..attention import Edit, ScaleHeads, instrumented
from ..batches import batch_size_for, free_memory, in_batches, longest_first, model_batches
from ..bootstrap import DRAWS
from ..decisions import compare_answers
from ..forward import Prefix, answer_logits, cache_prefix, intervenable, shared_prefix_length
from ..head_table import HeadTable
from ..heads import Head, HeadList
from ..models import Model, as_model
from ..prompts import Orders, PromptBatch, PromptStyle
from ..reference import check_plain
from ..restart import residuals_entering, restart_at
from ..session import describe_run, resolve_prompts
from ..torch_defaults import under_torch_defaults

RowEdits = Callable[[int, Sequence[int], PromptBatch, range], Sequence[Edit]]
"""Called with a layer, each row's head in it, each row's prompt and the positions that run: the layer's edits."""


@dataclass(frozen=True)
class SweptAnswers:
    """The logit difference d = logit(No) - logit(Yes) at the answer, for each head changed alone.

    Args:
        heads: the heads that were changed, in the order of the rows of `d`.
        d: under the intervention on that head.
        base: of the model as it is.
    """

    heads: tuple[Head, ...]
    d: Float[np.ndarray, "head prompt"]
    base: Float[np.ndarray, " prompt"]

    def changes(self, n_layers: int, n_heads: int) -> Float[np.ndarray, "prompt layer head"]:
        """d - base by prompt, NaN for heads that were not changed."""
        grids = np.full((len(self.base), n_layers, n_heads), np.nan)
        for head, d in zip(self.heads, self.d, strict=True):
            grids[:, head.layer, head.index] = d - self.base
        return grids


@under_torch_defaults
def sweep_heads(
    model: Any,
    data: Any,
    heads: HeadList | Iterable[Any] | None = None,
    factor: float = 0.0,
    order: Orders = "both",
    style: PromptStyle | None = None,
    *,
    limit: int | None = None,
    batch_size: int | None = None,
    share_prefix: bool = True,
    seed: int = 0,
    draws: int = DRAWS,
    progress: bool = False,
) -> HeadTable:
    """What scaling each head alone, at all positions, does to the answer: one pass a head, exact.

    Args:
        model: a Model, or what `load_model` accepts besides names.
        data: prompts (a PromptBatch, or one an order), questions, or a data specification.
        heads: heads, pairs or names; None takes all.
        factor: what the head's output is multiplied by; 0 is zero ablation.
        order, style, limit, seed, draws: as for `decide`; prompts that are handed over keep theirs.
        batch_size, share_prefix: as for `sweep`.
        progress: a bar over heads.

    Returns:
        The change of d = logit(No) - logit(Yes), in logits, the same as from one whole pass a head (to rounding, which
        is that of bfloat16 for a model loaded as "mixed"); below 0: the head made the model say No. NaN for heads that
        were not named.

    Raises:
        HeadError: a head outside the model.
        ModelError: as for `sweep`.

    Source: ours.
    """
    model, start = as_model(model), time.perf_counter()
    chosen = None if heads is None else HeadList.of(heads)
    asked = resolve_prompts(model, data, order, style, limit, seed, draws)
    model = intervenable(model, asked.batches[0])
    options: dict[str, Any] = {"batch_size": batch_size, "share_prefix": share_prefix, "progress": progress}
    per_prompt = {}
    for prompts in asked:
        answers = sweep(model, prompts, chosen, scale_rows(factor), **options)
        per_prompt[prompts.order] = answers.changes(model.n_layers, model.n_heads)
    run = describe_run(model, asked, start, model.engine, deciding=True)
    quantity = f"scaling by {factor:g}" if factor else "zero ablation"
    return HeadTable.from_prompts(per_prompt, asked.questions, run, quantity=quantity, sign=-1)


def scale_rows(factor: float) -> RowEdits:
    """Edits for `sweep` that multiply each row's head by a factor, at all positions."""

    def scale(layer: int, row_heads: Sequence[int], rows: PromptBatch, positions: range) -> Sequence[Edit]:
        some = sorted(set(row_heads))
        own = torch.tensor(row_heads)[:, None] == torch.tensor(some)
        return [ScaleHeads(tuple(some), torch.where(own, factor, 1.0))]

    return scale


@under_torch_defaults
@torch.no_grad()
def sweep(
    model: Any,
    prompts: PromptBatch,
    heads: HeadList | Iterable[Any] | None,
    edits: RowEdits,
    *,
    batch_size: int | None = None,
    share_prefix: bool = True,
    progress: bool = False,
) -> SweptAnswers:
    """Changes one head after another by any edit.

    Args:
        model, heads: as for `sweep_heads`.
        prompts: what `build_prompts` made.
        edits: the edits of one layer in a batch whose rows are pairs of a head and a prompt: each row's edit must
            change that row's head alone. For the shared prefix the rows are heads, each with the first prompt; no
            edits there leave the prefix as it is. Edits that may differ from prompt to prompt say so by
            `forward.SharesUpTo`.
        batch_size: rows in a batch; None takes it from a memory estimate. Out of memory, a batch is halved.
        share_prefix: False runs every prompt whole.
        progress: a bar over heads.

    Raises:
        HeadError: a head outside the model.
        ModelError: where fused attention isn't exact for the model, or one prompt alone doesn't fit into memory.
    """
    model = intervenable(as_model(model), prompts)
    everything = [Head(layer, index) for layer in range(model.n_layers) for index in range(model.n_heads)]
    chosen = HeadList.of(everything if heads is None else heads).check(model.n_layers, model.n_heads).heads
    layers: dict[int, list[int]] = {}
    for head in sorted(chosen):
        layers.setdefault(head.layer, []).append(head.index)
    d, base = torch.full((len(chosen), len(prompts)), torch.nan), torch.full((len(prompts),), torch.nan)
    length = shared_prefix_length(prompts, edits) if share_prefix and model.has_hf else 0
    places = torch.tensor(longest_first(prompts))
    with tqdm(total=len(chosen), desc="sweeping heads", unit="head", disable=not progress) as bar:
        for some in places.split(_prompts_at_once(model, prompts, length, max(len(layers), 1))):
            with model.deciding():
                base_pass = _BasePass.of(model, prompts.select(some), length, sorted(layers), batch_size)
            check_plain(model, base_pass.prompts, base_pass.d)
            base[some] = base_pass.d
            for layer, indices in layers.items():
                with model.deciding():
                    for index, differences in _sweep_layer(model, base_pass, layer, indices, edits, batch_size):
                        d[chosen.index(Head(layer, index)), some] = differences
                bar.update(len(indices) * len(some) / len(prompts))
    return SweptAnswers(chosen, d.double().numpy(), base.double().numpy())


@dataclass(frozen=True)
class _BasePass:
    """Prompts run once as they are: their logit differences, and what entered each layer, prefix and rest apart."""

    prompts: PromptBatch
    d: Float[Tensor, " prompt"]
    prefix: Prefix
    entering_prefix: dict[int, Float[Tensor, "1 pos d_model"]]
    entering: dict[int, Float[Tensor, "prompt rest d_model"]]

    @classmethod
    def of(
        cls, model: Model, prompts: PromptBatch, length: int, layers: Sequence[int], batch_size: int | None
    ) -> "_BasePass":
        hf, prefix, entering_prefix = model.network, Prefix(0), {}
        if length:
            with residuals_entering(hf, layers) as entering_prefix:
                prefix = cache_prefix(hf, prompts.tokens[:1, :length].to(model.device))
        shape = (len(prompts), prompts.tokens.shape[1] - length, model.config.hidden_size)
        entering = {layer: torch.zeros(shape, dtype=model.dtype, device=model.device) for layer in layers}
        d = torch.full((len(prompts),), torch.nan)

        def run(rows: list[int]) -> None:
            batch = prompts.select(rows)
            with residuals_entering(hf, layers) as found, instrumented(hf):
                logits = answer_logits(hf, batch, length, prefix.cache())
            d[rows] = compare_answers(logits, prompts)[0]
            for layer, hidden in found.items():
                entering[layer][rows, : hidden.shape[1]] = hidden.to(model.device)

        rest = (prompts.last_pos + 1 - length).tolist()
        batches = model_batches(
            model, range(len(prompts)), rest, lambda n: batch_size or batch_size_for(model, n, length)
        )
        for _ in in_batches(batches, run):
            pass
        return cls(prompts, d, prefix, entering_prefix, entering)


def _sweep_layer(
    model: Model, base: _BasePass, layer: int, indices: list[int], edits: RowEdits, batch_size: int | None
) -> Iterator[tuple[int, Float[Tensor, " prompt"]]]:
    """The logit differences of all prompts under each of these heads of a layer."""
    hf, prompts, length = model.network, base.prompts, base.prefix.length
    at_once = batch_size or batch_size_for(model, length, length) if length else len(indices)
    for start in range(0, len(indices), at_once):
        group = indices[start : start + at_once]
        prefix = _variants(hf, base, layer, group, edits)
        d = torch.full((len(group), len(prompts)), torch.nan)

        def run(rows: list[tuple[int, int]], prefix: Prefix = prefix, group: list[int] = group, d: Tensor = d) -> None:
            variant, places = (torch.tensor(column) for column in zip(*rows, strict=True))
            batch = prompts.select(places)
            end = batch.tokens.shape[1]
            changes = {layer: edits(layer, [group[i] for i in variant.tolist()], batch, range(length, end))}
            hidden = base.entering[layer][places, : end - length]
            with restart_at(hf, layer, hidden), instrumented(hf, edits=changes, layers=range(layer, model.n_layers)):
                logits = answer_logits(hf, batch, length, prefix.cache(variant))
            d[variant, places] = compare_answers(logits, prompts)[0]

        # by prompt, so that the rows of a batch are of similar length
        pairs = [(variant, place) for place in range(len(prompts)) for variant in range(len(group))]
        rest = [int(prompts.last_pos[place]) + 1 - length for _, place in pairs]
        batches = model_batches(model, pairs, rest, partial(_rows_at_once, model, length, batch_size))
        for _ in in_batches(batches, run):
            pass
        yield from zip(group, d, strict=True)


def _rows_at_once(model: Model, prefix: int, batch_size: int | None, length: int) -> int:
    return batch_size or batch_size_for(model, length, prefix)


def _variants(hf: Any, base: _BasePass, layer: int, group: list[int], edits: RowEdits) -> Prefix:
    """The shared prefix from this layer on, once for each head."""
    length = base.prefix.length
    if not length:
        return base.prefix
    rows = base.prompts.select([0] * len(group))
    changes = edits(layer, group, rows, range(length))
    if not changes:
        return base.prefix
    hidden = base.entering_prefix[layer].expand(len(group), -1, -1)
    running = range(layer, len(base.prefix.keys_values))
    with restart_at(hf, layer, hidden):
        return cache_prefix(hf, rows.tokens[:, :length].to(hidden.device), {layer: changes}, base.prefix, running)


def _prompts_at_once(model: Model, prompts: PromptBatch, prefix: int, layers: int) -> int:
    """How many prompts' residual streams, entering so many layers, may be kept at a time."""
    rest = prompts.tokens.shape[1] - prefix
    return max(1, free_memory(model) // (rest * model.config.hidden_size * model.dtype.itemsize * layers))
