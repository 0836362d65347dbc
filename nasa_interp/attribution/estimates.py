"""First-order estimates: what an intervention on each head would do to the answer, for all heads from one gradient."""

import time
from typing import Any

import torch
from einops import rearrange, reduce
from jaxtyping import Float
from torch import Tensor

from ..attention import instrumented
from ..bootstrap import DRAWS
from ..errors import PromptError
from ..forward import answer_logits, intervenable
from ..head_table import HeadTable
from ..models import Model, as_model
from ..prompts import Orders, PromptBatch, PromptStyle
from ..reference import check_plain
from ..session import describe_run, resolve_prompts
from ..torch_defaults import under_torch_defaults
from .gradients import difference, frozen_weights, run_rows, tracked_embeddings


@under_torch_defaults
def estimate_zero_ablation(
    model: Any,
    data: Any,
    order: Orders = "both",
    style: PromptStyle | None = None,
    *,
    limit: int | None = None,
    batch_size: int | None = None,
    seed: int = 0,
    draws: int = DRAWS,
    progress: bool = False,
) -> HeadTable:
    """What zero ablation of each head would do to the answer, to first order: -(output . gradient of d), summed.

    Args:
        model: a Model, or what `load_model` accepts besides names.
        data: prompts (a PromptBatch, or one an order), questions, or a data specification.
        order, style, limit, seed, draws: as for `decide`; prompts that are handed over keep theirs.
        batch_size: prompts in a batch; None takes it from a memory estimate. Out of memory, a batch is halved.
        progress: show a bar.

    Returns:
        The estimated change of d = logit(No) - logit(Yes), in logits; below 0: without the head, the answer moves
        toward Yes. The model's weights and what takes gradients are as before.

    Caveat: exact only where the model is linear in the head. `rank_correlation` with the table of `sweep_heads` says
    how far the ranking is that of the exact sweep.

    Raises:
        ModelError: where fused attention isn't exact for the model, or one prompt alone doesn't fit into memory.

    Source: ours; the estimate is that of attribution patching, with zero as the patch.
    """
    model, start = as_model(model), time.perf_counter()
    asked = resolve_prompts(model, data, order, style, limit, seed, draws)
    model = intervenable(model, asked.batches[0])
    per_prompt = {}
    for prompts in asked:
        estimates = torch.empty(len(prompts), model.n_layers, model.n_heads)

        def run(rows: list[int], prompts: PromptBatch = prompts, into: Tensor = estimates) -> Float[Tensor, " row"]:
            outputs, gradients, d = _outputs_and_gradients(model, prompts.select(rows))
            into[rows] = _products([-output for output in outputs], gradients)
            return d

        bar = f"gradients, {prompts.order}" if progress else None
        compared = prompts.order == asked.compared_order
        run_rows(model, prompts, run, graph=True, reference=compared, batch_size=batch_size, bar=bar)
        per_prompt[prompts.order] = estimates.numpy()
    info = describe_run(model, asked, start, model.engine)
    return HeadTable.from_prompts(per_prompt, asked.questions, info, quantity="first-order zero", sign=-1)


@under_torch_defaults
def attribution_patching(
    model: Any,
    clean: PromptBatch,
    corrupted: PromptBatch,
    style: PromptStyle | None = None,
    *,
    batch_size: int | None = None,
    seed: int = 0,
    draws: int = DRAWS,
    progress: bool = False,
) -> HeadTable:
    """What patching each head's output from the clean into the corrupted run would do to the answer, to first order.

    Args:
        model: as for `estimate_zero_ablation`.
        clean, corrupted: prompts row by row of equal length; d and its gradient are those of the corrupted run.
        style: how the prompts were written, for the run's details.
        batch_size, seed, draws, progress: as for `estimate_zero_ablation`.

    Returns:
        (clean output - corrupted output) . gradient of d, summed over all positions.

    Raises:
        PromptError: where the two aren't of equal shape.

    Source: attribution patching, as in the field; not in the paper.
    """
    model, start = as_model(model), time.perf_counter()
    _check_alike(clean, corrupted)
    asked = resolve_prompts(model, corrupted, "both", style, None, seed, draws)
    model = intervenable(model, corrupted)
    estimates, of_clean = torch.empty(len(corrupted), model.n_layers, model.n_heads), torch.empty(len(clean))

    def run(rows: list[int]) -> Float[Tensor, " row"]:
        with torch.no_grad():
            wanted, of_clean[rows] = _outputs(model, clean.select(rows))
        outputs, gradients, d = _outputs_and_gradients(model, corrupted.select(rows))
        estimates[rows] = _products([new - old for new, old in zip(wanted, outputs, strict=True)], gradients)
        return d

    bar = "attribution patching" if progress else None
    run_rows(model, corrupted, run, graph=True, reference=True, batch_size=batch_size, bar=bar)
    check_plain(model, clean, of_clean)
    notes = (f"patched from {clean.order} into {corrupted.order} prompts",)
    info = describe_run(model, asked, start, model.engine, notes)
    per_prompt = {corrupted.order: estimates.numpy()}
    return HeadTable.from_prompts(per_prompt, asked.questions, info, quantity="first-order patch", sign=-1)


def _check_alike(clean: PromptBatch, corrupted: PromptBatch) -> None:
    if clean.tokens.shape == corrupted.tokens.shape and torch.equal(clean.last_pos, corrupted.last_pos):
        return
    shapes = f"{tuple(clean.tokens.shape)} and {tuple(corrupted.tokens.shape)}"
    raise PromptError(
        f"clean and corrupted prompts must be of equal length row by row, and are of {shapes}; pair them with "
        f"instruction_pairs"
    )


def _outputs(model: Model, batch: PromptBatch) -> tuple[list[Tensor], Tensor]:
    """Every layer's head outputs [batch, pos, head, d_value], and d."""
    layers = range(model.n_layers)
    with instrumented(model.network, outputs_of=layers) as recording:
        logits = answer_logits(model.network, batch, 0, None)
    return [recording.outputs[layer] for layer in layers], difference(logits, batch)


def _outputs_and_gradients(model: Model, batch: PromptBatch) -> tuple[list[Tensor], list[Tensor], Tensor]:
    """Every layer's head outputs, the gradient of d by each, and d."""
    with frozen_weights(model.network), tracked_embeddings(model.network):
        outputs, d = _outputs(model, batch)
        gradients = torch.autograd.grad(d.sum(), outputs)
    return [output.detach() for output in outputs], list(gradients), d.detach()


def _products(values: list[Tensor], gradients: list[Tensor]) -> Float[Tensor, "batch layer head"]:
    """value . gradient over positions and the head's dimensions, layer by layer."""
    pairs = zip(values, gradients, strict=True)
    products = [
        reduce(value.float() * gradient.float(), "batch pos head d_value -> batch head", "sum")
        for value, gradient in pairs
    ]
    return rearrange(products, "layer batch head -> batch layer head").cpu()
