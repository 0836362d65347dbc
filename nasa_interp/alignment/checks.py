"""What validation sees of a model under tuning: imbalance, sorting power and answer mass, order by order."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from jaxtyping import Bool
from scipy.special import expit

from ..measures import measure
from ..models import Model
from ..prompts import PromptBatch
from .recipe import Limits
from .restarted import Answers, Restarted


@dataclass(frozen=True)
class Check:
    """The validation questions' answers in numbers.

    Args:
        imbalance: by order: rate of true yes - rate of answered yes.
        soft_imbalance: by order: rate of true yes - mean P(yes) = sigmoid(-d). It moves before any answer flips, so it
            can steer where the model says No to everything.
        auc: by order, over all questions.
        answer_mass: mean over all.
        mean_logit_difference: by order.
        accuracy: over both orders.
    """

    imbalance: Mapping[str, float]
    soft_imbalance: Mapping[str, float]
    auc: Mapping[str, float]
    answer_mass: float
    mean_logit_difference: Mapping[str, float]
    accuracy: float

    @classmethod
    def of(cls, labels: Bool[np.ndarray, " question"], answers: Mapping[str, Answers]) -> "Check":
        """From the answers in each order."""
        found = {order: measure(a.d, labels, a.mass) for order, a in answers.items()}
        return cls(
            {order: m.imbalance for order, m in found.items()},
            {order: float(labels.mean() - expit(-a.d).mean()) for order, a in answers.items()},
            {order: m.auc for order, m in found.items()},
            float(np.mean([m.answer_mass for m in found.values()])),
            {order: m.mean_logit_difference for order, m in found.items()},
            float(np.mean([m.accuracy for m in found.values()])),
        )

    def to_dict(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)

    @classmethod
    def from_dict(cls, content: dict[str, Any]) -> "Check":
        """The inverse of `to_dict`."""
        return cls(**content)

    @property
    def distance(self) -> float:
        """How far from balance: the mean over orders of the soft imbalance's size."""
        return float(np.mean([abs(value) for value in self.soft_imbalance.values()]))

    @property
    def worst_imbalance(self) -> float:
        """The largest imbalance of any order, by size."""
        return max(self.imbalance.values(), key=abs)

    @property
    def mean_auc(self) -> float:
        """Mean over orders of the AUC within an order."""
        return float(np.mean(list(self.auc.values())))

    def within(self, limits: Limits) -> bool:
        """Whether the target is reached: every order's imbalance within the limit."""
        return abs(self.worst_imbalance) <= limits.imbalance

    def refusal(self, before: "Check", base: "Check", limits: Limits) -> str | None:
        """Why a change from `before` to this isn't kept, or None; `base` is the model before any tuning.

        The perplexity is another check, of the text.
        """
        if not self.distance < before.distance:
            return f"the imbalance didn't shrink ({before.distance:.3f} to {self.distance:.3f})"
        if self.mean_auc < base.mean_auc - limits.auc:
            return f"AUC {self.mean_auc:.3f}, more than {limits.auc} below {base.mean_auc:.3f}"
        if self.answer_mass < base.answer_mass - limits.answer_mass:
            return f"answer mass {self.answer_mass:.2f}, more than {limits.answer_mass} below {base.answer_mass:.2f}"
        return None


class Validation:
    """The validation questions, asked again and again from the tuned layer on."""

    def __init__(self, model: Model, batches: Sequence[PromptBatch], layers: Sequence[int]):
        self.orders = {batch.order: Restarted(model, batch, layers) for batch in batches}
        self.labels = batches[0].labels.numpy()

    def check(self, layer: int = 0) -> tuple[Check, Mapping[str, Answers]]:
        """Asks from this layer on; hand the answers to `keep` where the weights stay as they are now."""
        answers = {order: restarted.decide(layer) for order, restarted in self.orders.items()}
        return Check.of(self.labels, answers), answers

    def keep(self, answers: Mapping[str, Answers]) -> None:
        """Later checks restart from these."""
        for order, restarted in self.orders.items():
            restarted.keep(answers[order])
