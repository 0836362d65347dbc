"""The fused engine: exact NAS of every head from fused attention, without any attention matrix."""

import torch
from jaxtyping import Float
from torch import Tensor

from ..attention import CandidateAttention
from ..forward import EditsOf, run_fused
from ..models import Model
from ..prompts import PromptBatch
from .formula import negative_attention_score


@torch.no_grad()
def score_fused(
    model: Model,
    prompts: PromptBatch,
    batch_size: int | None = None,
    progress: bool = True,
    *,
    edits: EditsOf | None = None,
    share_prefix: bool = True,
    reference: bool = False,
) -> tuple[Float[Tensor, "prompt layer head"], Float[Tensor, "prompt layer"]]:
    """NAS of every head on every prompt.

    Args:
        model: with a plain view whose attention goes through transformers' interface.
        prompts: what `build_prompts` made.
        batch_size: prompts in a batch; None takes it from a memory estimate; changes nothing but time and memory.
        progress: show a bar.
        edits, share_prefix, reference: as for `run_fused`.

    Returns:
        The scores (NaN where no query counts), and how many queries counted.

    Raises:
        FusedRefusedError: where fused attention isn't exact for the model or on these prompts.
    """
    scores = torch.full((len(prompts), model.n_layers, model.n_heads), torch.nan)
    counts = torch.zeros(len(prompts), model.n_layers)
    batches = run_fused(
        model,
        prompts,
        read=True,
        logits=False,
        edits=edits,
        batch_size=batch_size,
        share_prefix=share_prefix,
        reference=reference,
        bar=f"scoring, {prompts.order}" if progress else None,
    )
    for batch in batches:
        selected = prompts.select(batch.places)
        inside = (batch.queries >= selected.first_query[:, None]) & (batch.queries <= selected.last_pos[:, None])
        for layer, reading in batch.readings.items():
            nas, counted = _score(reading, inside.to(reading.visible.device))
            scores[batch.places, layer], counts[batch.places, layer] = nas.cpu(), counted.cpu()
    return scores, counts


def _score(reading: CandidateAttention, inside: Tensor) -> tuple[Float[Tensor, "batch head"], Float[Tensor, " batch"]]:
    counted = reading.visible & inside[:, None]
    nas = negative_attention_score(reading.log_yes, reading.log_no, counted)
    # An edge cut in one head is there in the others: a layer counts the queries of its least cut head.
    return nas, counted.sum(-1).amax(1).float()
