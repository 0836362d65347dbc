"""Plain text on which the model should go on predicting what it did, while its heads are tuned."""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ..evaluation.likelihood import leading_tokens, unembed_at
from ..evaluation.text import plain_text
from ..models import Model
from ..models.model import device_of
from .recipe import Recipe

# One of this many positions is compared.
EVERY = 8


class KeptText:
    """The built-in passages for tuning, and what the model predicts in them before it is tuned.

    They are others than those that decide what is kept and those that say what it cost.

    Args:
        model: as it was handed over.

    Source: ours; a divergence from the untuned model on plain text is the usual anchor of fine-tuning.
    """

    def __init__(self, model: Model):
        lead, room = leading_tokens(model.tokenizer), model.context_length
        encoded = model.tokenizer(plain_text("probe"), add_special_tokens=False)["input_ids"]
        rows = [torch.tensor([[*lead, *row][:room]]) for row in encoded]
        self.rows = [row for row in rows if row.shape[1] > 1]
        with torch.no_grad():
            self.before = [self._predicted(model, row).cpu() for row in self.rows]

    @classmethod
    def of(cls, model: Model, recipe: Recipe) -> "KeptText | None":
        """What this recipe's steps keep; None where it keeps no text, or its objective runs no answers."""
        return cls(model) if recipe.keep_text and "answer" in recipe.loss().reads else None

    def divergence(self, model: Model, turn: int) -> Float[Tensor, ""]:
        """KL(before || now) in nats, the mean over the positions of one passage, in the graph; passages take turns."""
        number = turn % len(self.rows)
        now = self._predicted(model, self.rows[number])
        before = self.before[number].to(now.device)
        return (before.exp() * (before - now)).sum(-1).mean()

    def _predicted(self, model: Model, row: Int[Tensor, "1 pos"]) -> Float[Tensor, "at d_vocab"]:
        hf, at = model.network, torch.arange(0, row.shape[1] - 1, EVERY)
        with unembed_at(hf, torch.zeros_like(at), at):
            logits = hf(row.to(device_of(hf)), use_cache=False).logits
        return logits[0].float().log_softmax(-1)
