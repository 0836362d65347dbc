"""A calibration at work while a model generates: at the answer's first token, and nowhere else."""

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformers import LogitsProcessor

from ..errors import CalibrationError
from ..prompts import Order
from .value import Calibration


class AnswerOffset(LogitsProcessor):
    """Raises the candidate that the model leans away from, in all its spellings, at the answer's first token.

    Made for `model.generate(..., logits_processor=[AnswerOffset(calibration, "yes_no", prompt_length)])`.

    Args:
        calibration: for this model, wording and pair of candidates.
        order: the candidate order of the prompts.
        prompt_length: tokens of the prompts (padded on the left, all are as long).

    Raises:
        CalibrationError: no offset for the order.

    Caveat: of candidates that begin with the same tokens, the prompt must end with those, as `build_prompts` writes it.
    """

    def __init__(self, calibration: Calibration, order: Order, prompt_length: int):
        if order not in calibration.offsets:
            raise CalibrationError(f"there is no offset for order {order!r}; it has {', '.join(calibration.offsets)}")
        self.prompt_length = prompt_length
        self.raised = calibration.raised(order)

    def __call__(
        self, input_ids: Int[Tensor, "batch pos"], scores: Float[Tensor, "batch d_vocab"]
    ) -> Float[Tensor, "batch d_vocab"]:
        """The logits of the next token."""
        if input_ids.shape[1] != self.prompt_length or not self.raised:
            return scores
        tokens = torch.tensor(list(self.raised), device=scores.device)
        added = torch.tensor(list(self.raised.values()), dtype=scores.dtype, device=scores.device)
        return scores.index_add(1, tokens, added.expand(len(scores), -1))
