"""What validation sees of a model under tuning: imbalance, sorting power and answer mass, order by order."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float
from scipy.special import expit

from ..heads import HeadList
from ..measures import measure
from ..models import Model
from ..prompts import PromptBatch
from .recipe import Limits
from .restarted import Answers, Entering, Restarted

# Prompts of which the log gives the tuned heads' NAS.
LOOK = 32


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
        loss: cross-entropy of the right candidate against the other one, both labels weighing the same; what early
            stopping goes by, as it falls with the bias and rises where the model sorts worse.
        nas: mean over orders and heads of the tuned heads' NAS, their polarity; NaN where it was not read.
    """

    imbalance: Mapping[str, float]
    soft_imbalance: Mapping[str, float]
    auc: Mapping[str, float]
    answer_mass: float
    mean_logit_difference: Mapping[str, float]
    accuracy: float
    loss: float
    nas: float = math.nan

    @classmethod
    def of(
        cls, labels: Bool[np.ndarray, " question"], answers: Mapping[str, Answers], nas: float = math.nan
    ) -> "Check":
        """From the answers in each order."""
        found = {order: measure(a.d, labels, a.mass) for order, a in answers.items()}
        return cls(
            {order: m.imbalance for order, m in found.items()},
            {order: float(labels.mean() - expit(-a.d).mean()) for order, a in answers.items()},
            {order: m.auc for order, m in found.items()},
            float(np.mean([m.answer_mass for m in found.values()])),
            {order: m.mean_logit_difference for order, m in found.items()},
            float(np.mean([m.accuracy for m in found.values()])),
            float(np.mean([_balanced_loss(a.d, labels) for a in answers.values()])),
            nas,
        )

    def to_dict(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)

    @classmethod
    def from_dict(cls, content: dict[str, Any]) -> "Check":
        """The inverse of `to_dict`."""
        return cls(**{**content, "nas": math.nan if content["nas"] is None else content["nas"]})

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


def perplexity_refusal(ratio: float, limits: Limits) -> str | None:
    """Why a change that multiplies the perplexity by this isn't kept, or None."""
    if ratio <= limits.perplexity:
        return None
    return f"perplexity x {ratio:.4f}, over the limit of {limits.perplexity}"


def _balanced_loss(d: Float[np.ndarray, " question"], labels: Bool[np.ndarray, " question"]) -> float:
    with np.errstate(invalid="ignore"):  # a model that blew up: its look is refused
        losses = np.logaddexp(0, np.where(labels, d, -d))
    return float((losses[labels].mean() + losses[~labels].mean()) / 2)


class Validation:
    """The validation questions, asked again and again from the tuned layer on."""

    def __init__(self, model: Model, batches: Sequence[PromptBatch], layers: Sequence[int]):
        self.orders = {batch.order: Restarted(model, batch, layers) for batch in batches}
        self.labels = batches[0].labels.numpy()

    def check(self, heads: HeadList, layer: int = 0, reference: bool = False) -> tuple[Check, Mapping[str, Answers]]:
        """Asks from this layer on; hand the answers to `keep` where the weights stay as they are now.

        `reference` holds the answers to the plain model: for the first look, at the model as it was handed over.
        """
        answers = {order: restarted.decide(layer, reference) for order, restarted in self.orders.items()}
        return Check.of(self.labels, answers, self.nas(heads, answers)), answers

    def nas(self, heads: HeadList, answers: Mapping[str, Answers] | None = None) -> float:
        """Mean NAS of these heads over orders, with the weights as they are now.

        What enters their layers is taken from the answers, or from those that were kept last.
        """
        kept = {order: restarted.entering for order, restarted in self.orders.items()}
        entering = kept if answers is None else {order: found.entering for order, found in answers.items()}
        return float(np.mean([_mean_nas(self.orders[order], found, heads) for order, found in entering.items()]))

    def keep(self, answers: Mapping[str, Answers]) -> None:
        """Later checks restart from these."""
        for order, restarted in self.orders.items():
            restarted.keep(answers[order])


@torch.no_grad()
def _mean_nas(restarted: Restarted, entering: Mapping[int, Entering], heads: HeadList) -> float:
    """Mean NAS of these heads over at most so many prompts: a look for the log, which decides nothing."""
    rows = range(min(LOOK, len(restarted.prompts)))
    found = {layer: restarted.attention(layer, rows, entering[layer])[0] for layer in {h.layer for h in heads}}
    return float(torch.stack([found[head.layer][:, head.index] for head in heads]).nanmean())
