"""The plain reference: what the unmodified model says of a prompt by itself; every fused computation is held to it.

A fused pass shares a prefix, pads, and runs prompts side by side; whatever of that changed an answer would change it
silently. So the shortest and the longest prompt of a run are asked again, each alone, through the model as it is.
"""

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from .errors import DisagreementError, ModelError
from .models import Model
from .models.check import TOLERANCE
from .models.ready import check_ready
from .prompts import Order, PromptBatch

# How many steps of a narrow dtype an answer in a batch may be off the one alone. Tiny models of all families came to
# 0.4 (bf16) and 1.1 (fp16), SmolLM2 and Gemma 3 270M to 0.5 and 0.8 (bf16).
NARROW_STEPS = 4


def agreement(dtype: torch.dtype) -> float:
    """How far two computations of one logit difference may be apart, as a share of the range of the logits.

    1e-4 in fp32 and wider, some of its own steps in a narrower dtype.
    """
    return max(TOLERANCE, NARROW_STEPS * torch.finfo(dtype).eps)


def reference_order(orders: Sequence[Order], seed: int) -> Order:
    """The candidate order whose prompts are asked again; orders take turns by seed."""
    return orders[seed % len(orders)]


class PlainReference:
    """Holds a computation in batches to the plain model on its shortest, its longest and its most padded prompt.

    The longest prompt of a batch has no pads and is its first row, so what goes wrong in the others may not show in it.

    Args:
        model: any.
        prompts: all that the computation runs, of one candidate order.
        batches: rows of the prompts in each batch; without them a prompt of middle length is the third.

    Source: ours.
    """

    def __init__(self, model: Model, prompts: PromptBatch, batches: Sequence[Sequence[int]] = ()):
        self.model, self.prompts = model, prompts
        lengths = prompts.last_pos
        pads = {row: int(lengths[list(batch)].max() - lengths[row]) for batch in batches for row in batch}
        third = max(pads, key=lambda row: (pads[row], row)) if pads else int(lengths.argsort()[len(lengths) // 2])
        self.waiting = {int(lengths.argmin()), int(lengths.argmax()), third}

    def first(self, batches: list[list[int]]) -> list[list[int]]:
        """The batches, those that hold the sample before the others, so that a fault shows at the start."""
        return sorted(batches, key=lambda batch: self.waiting.isdisjoint(batch))

    def waits_for(self, rows: Sequence[int]) -> bool:
        """Whether a sampled prompt is among these and was not compared yet."""
        return not self.waiting.isdisjoint(rows)

    def compare(self, rows: Sequence[int], d: Float[Tensor, " batch"]) -> None:
        """Compares what a batch gave for the sampled prompts in it.

        Args:
            rows: which prompts the batch held.
            d: their logit differences.

        Raises:
            DisagreementError: a difference apart by more than `agreement` of that prompt's range of logits.
            ModelError: a model that draws at random, whose answers can't be compared.
        """
        for i, row in enumerate(rows):
            if row in self.waiting:
                self._compare(row, float(d[i].detach()))
                self.waiting.discard(row)

    def _compare(self, row: int, found: float) -> None:
        question, allowed = self.prompts.questions[row].id, agreement(self.model.arithmetic)
        alone, reach = plain_difference(self.model, self.prompts, row)
        off = abs(found - alone) / reach
        # NaN compares as apart.
        if off <= allowed:
            return
        again, _ = plain_difference(self.model, self.prompts, row)
        if not abs(again - alone) <= allowed * reach:
            raise ModelError(
                f"question {question!r}: the same prompt through {self.model.name} gives {alone:.4f} and then "
                f"{again:.4f} "
                f"as logit(No) - logit(Yes), so it draws at random; switch that off (model.eval())"
            )
        raise DisagreementError(
            f"question {question!r}: logit(No) - logit(Yes) is {found:.4f} in a batch with others and "
            f"{alone:.4f} for the "
            f"prompt alone through {self.model.name} as it is, {off:.1e} of the range of its logits apart; "
            f"take off what reads other positions or prompts, or report the model"
        )


def check_plain(model: Model, prompts: PromptBatch, d: Float[Any, " prompt"]) -> None:
    """Holds the logit differences of all these prompts to the plain model, as `PlainReference` does."""
    reference = PlainReference(model, prompts)
    reference.compare(range(len(prompts)), torch.as_tensor(d))


@torch.no_grad()
def plain_difference(model: Model, prompts: PromptBatch, row: int) -> tuple[float, float]:
    """One prompt through the unmodified model: d = logit(No) - logit(Yes), and the range of its logits."""
    tokens = prompts.tokens[row : row + 1, : int(prompts.last_pos[row]) + 1].to(model.device)
    if model.handed_hooked:
        logits = model.answer_logits(tokens, torch.ones_like(tokens, dtype=torch.bool))[0].double()
    else:
        check_ready(model.hf)
        logits = model.hf(tokens, use_cache=False, logits_to_keep=1).logits[0, -1].double()
    d, reach = logits[prompts.no_token] - logits[prompts.yes_token], logits.max() - logits.min()
    return float(d), max(float(reach), torch.finfo(logits.dtype).tiny)
