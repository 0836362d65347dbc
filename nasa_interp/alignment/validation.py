"""What validation sees of a model under tuning, when training stops, and which checkpoint is kept."""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float
from scipy.special import expit
from scipy.stats import rankdata

from ..bootstrap import DRAWS
from ..decisions import BinaryReport
from ..heads import HeadList
from ..measures import measure
from ..models import Model
from ..restartable import Answers, Entering, RestartablePrompts
from ..session import PromptSet, describe_run
from .recipe import Limits, Recipe
from .targets import own_decisions, strata_of

# Prompts of which the log gives the tuned heads' NAS.
NAS_PROMPTS = 32


@dataclass(frozen=True)
class ValidationMetrics:
    """The validation questions' answers in numbers.

    Args:
        imbalance: by order: rate of true yes (without labels: the prior) - rate of answered yes.
        soft_imbalance: by order: rate of true yes (or the prior) - mean P(yes) = sigmoid(-d). It moves before any
            answer flips, so it can steer where the model says the same to everything.
        auc: by order, over all questions; NaN without labels.
        answer_mass: mean over all.
        mean_logit_difference: by order.
        accuracy: over both orders; NaN without labels.
        loss: cross-entropy of the right candidate against the other one, both labels weighing the same; what early
            stopping goes by, as it falls with the bias and rises where the model sorts worse. Without labels the
            squared distance from the untuned model's own decisions less their lean, of which the same is true.
        nas: mean over orders and heads of the tuned heads' NAS, their polarity; NaN where it was not read.
        ranks: by order: rank correlation of d with the untuned model's own decisions less their lean; empty where these
            aren't known.
        agreement: share of the questions with one answer in both orders.
    """

    imbalance: Mapping[str, float]
    soft_imbalance: Mapping[str, float]
    auc: Mapping[str, float]
    answer_mass: float
    mean_logit_difference: Mapping[str, float]
    accuracy: float
    loss: float
    nas: float = math.nan
    ranks: Mapping[str, float] = field(default_factory=dict)
    agreement: float = math.nan

    @classmethod
    def of(
        cls,
        labels: Bool[np.ndarray, " question"] | None,
        answers: Mapping[str, Answers],
        nas: float = math.nan,
        untuned: "Untuned | None" = None,
    ) -> "ValidationMetrics":
        """From the answers in each order; without labels, `untuned` stands in for them."""
        expected = untuned.prior if labels is None and untuned else np.mean(labels) if labels is not None else math.nan
        yes = {order: answered.d < 0 for order, answered in answers.items()}
        measures = {order: measure(a.d, labels, a.mass) for order, a in answers.items()}
        return cls(
            {order: float(expected - rate.mean()) for order, rate in yes.items()},
            {order: float(expected - expit(-a.d).mean()) for order, a in answers.items()},
            {order: m.auc for order, m in measures.items()},
            float(np.mean([m.answer_mass for m in measures.values()])),
            {order: m.mean_logit_difference for order, m in measures.items()},
            float(np.mean([m.accuracy for m in measures.values()])),
            _loss(labels, answers, untuned),
            nas,
            {order: _rank_correlation(untuned.own[order], a.d) for order, a in answers.items()} if untuned else {},
            float(np.all(list(yes.values()) == next(iter(yes.values())), axis=0).mean()),
        )

    def to_dict(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)

    @classmethod
    def from_dict(cls, content: dict[str, Any]) -> "ValidationMetrics":
        """The inverse of `to_dict`."""
        known: dict[str, Any] = {name: math.nan if value is None else value for name, value in content.items()}
        for name in ("auc", "ranks"):
            known[name] = {o: math.nan if v is None else v for o, v in content.get(name, {}).items()}
        return cls(**known)

    def summary(self) -> dict[str, float]:
        """What the log tells of each moment, over both orders."""
        return {
            "imbalance": self.worst_imbalance,
            "soft_imbalance": self.distance,
            "auc": self.mean_auc,
            "accuracy": self.accuracy,
            "answer_mass": self.answer_mass,
            "nas": self.nas,
            "ranks": self.least_rank,
            "agreement": self.agreement,
        }

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

    @property
    def least_rank(self) -> float:
        """The smallest rank correlation with the untuned d of any order; NaN where it is not known."""
        return min(self.ranks.values(), default=math.nan)

    def within(self, limits: Limits) -> bool:
        """Whether the target is reached: every order's imbalance within the limit."""
        return abs(self.worst_imbalance) <= limits.imbalance

    def refusal(self, before: "ValidationMetrics", base: "ValidationMetrics", limits: Limits) -> str | None:
        """Why a change from `before` to this isn't kept, or None; `base` is the model before any tuning.

        The perplexity is another check, of the text.
        """
        if not self.distance < before.distance:
            return f"the imbalance didn't shrink ({before.distance:.3f} to {self.distance:.3f})"
        for order, now in self.imbalance.items():
            was = before.imbalance[order]
            if now * was < 0 and abs(now) >= abs(was):
                return f"the imbalance of order {order} only changed its side ({was:+.2f} to {now:+.2f})"
        if math.isnan(base.mean_auc) and not self.least_rank >= limits.ranks:
            return f"rank correlation with the untuned d {self.least_rank:.2f}, below {limits.ranks}"
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


@dataclass(frozen=True, eq=False)
class Untuned:
    """What the untuned model decided on the validation questions, and how often yes is expected.

    Args:
        d: by order.
        own: the same without its lean, as `own_decisions` gives it.
        prior: the expected rate of yes.
    """

    d: Mapping[str, Float[np.ndarray, " question"]]
    own: Mapping[str, Float[np.ndarray, " question"]]
    prior: float

    @classmethod
    def of(cls, asked: PromptSet, answers: Mapping[str, Answers], recipe: Recipe) -> "Untuned":
        """From the untuned model's answers to these questions."""
        prior = recipe.prior
        d = {order: answered.d for order, answered in answers.items()}
        return cls(d, own_decisions(d, strata_of(asked, recipe.recentre), prior), prior)


def _loss(
    labels: Bool[np.ndarray, " question"] | None, answers: Mapping[str, Answers], untuned: Untuned | None
) -> float:
    if labels is not None:
        return float(np.mean([_balanced_loss(a.d, labels) for a in answers.values()]))
    if untuned is None:
        return math.nan
    return float(np.mean([np.square(a.d - untuned.own[order]).mean() for order, a in answers.items()]))


def _rank_correlation(one: Float[np.ndarray, " question"], other: Float[np.ndarray, " question"]) -> float:
    """Spearman's; NaN where either is constant or holds what is no number."""
    if not np.isfinite([one, other]).all() or not np.ptp(one) > 0 or not np.ptp(other) > 0:
        return math.nan
    return float(np.corrcoef(rankdata(one), rankdata(other))[0, 1])


def _balanced_loss(d: Float[np.ndarray, " question"], labels: Bool[np.ndarray, " question"]) -> float:
    with np.errstate(invalid="ignore"):  # a model that blew up: its checkpoint is refused
        losses = np.logaddexp(0, np.where(labels, d, -d))
    return float((losses[labels].mean() + losses[~labels].mean()) / 2)


@dataclass(frozen=True, eq=False)
class Checkpoint:
    """What is tuned, after some steps, as validation sees it.

    Args:
        step, loss: how many steps were taken, and the loss of the last.
        metrics: of the answers to the validation questions.
        state: the tuned tensors, to go back to.
        reason: why the questions forbid it, or None.
        answers: what `Validation.restart_from` takes; of several the best alone holds them: they are large.
        perplexity_ratio: on the validation text, as a multiple of the base model's; None where it was not read.
        rate: the learning rate that it was reached with; NaN where several were not tried.
    """

    step: int
    loss: float
    metrics: ValidationMetrics
    state: Any
    reason: str | None
    answers: Any = None
    perplexity_ratio: float | None = None
    rate: float = math.nan

    def refusal(self, limits: Limits) -> str | None:
        """Why it can't be kept, by what has been asked and read so far, or None."""
        if self.reason is not None or self.perplexity_ratio is None:
            return self.reason
        return perplexity_refusal(self.perplexity_ratio, limits)

    def verdict(self, limits: Limits) -> str:
        """Why it was kept, or why not."""
        return self.refusal(limits) or "imbalance shrank within the limits"

    def rank(self, limits: Limits) -> tuple[bool, int, float]:
        """Smaller is better: what the questions allow, then how near to balance, then the smaller loss.

        Near is within the target, or within twice the target: finer steps would follow the questions' luck.
        """
        off = abs(self.metrics.worst_imbalance)
        tier = sum(not off <= times * limits.imbalance for times in (1, 2))
        return (self.reason is not None, tier, self.metrics.loss)


def train_until_no_better(
    losses: Iterable[float],
    evaluate: Callable[[int, float], Checkpoint],
    recipe: Recipe,
    limits: Limits,
    steps: int,
) -> list[Checkpoint]:
    """Takes steps, evaluates every few, and stops at `steps` or once `recipe.patience` in a row were no better.

    Better is what ranks before all others, or has a smaller loss: a model may be near balance early and by chance, long
    before it sorts as well as it can.
    """
    checkpoints, waited = [], 0
    for step, loss in enumerate(losses, start=1):
        if step % recipe.check_every and step < steps:
            continue
        checkpoint = evaluate(step, loss)
        falling = all(checkpoint.metrics.loss < other.metrics.loss for other in checkpoints)
        if better := all(checkpoint.rank(limits) < other.rank(limits) for other in checkpoints):
            checkpoints = [replace(other, answers=None) for other in checkpoints]
        checkpoints.append(checkpoint if better else replace(checkpoint, answers=None))
        waited = 0 if better or falling else waited + 1
        if waited >= recipe.patience or step >= steps:
            break
    return checkpoints


def select_checkpoint(checkpoints: Sequence[Checkpoint], limits: Limits) -> Checkpoint:
    """The best checkpoint that may be kept; where there is none, the best of the refused."""
    ranked = sorted(checkpoints, key=lambda checkpoint: checkpoint.rank(limits))
    return next((checkpoint for checkpoint in ranked if checkpoint.refusal(limits) is None), ranked[0])


def read_text(
    checkpoints: Sequence[Checkpoint], limits: Limits, ratio_of: Callable[[Checkpoint], float]
) -> list[Checkpoint]:
    """The checkpoints, with the validation text read for only as many as the selection needs, as reading is costly.

    Args:
        checkpoints, limits: as for `select_checkpoint`.
        ratio_of: the perplexity with a checkpoint's tensors, as a multiple of the base model's.
    """
    known = list(checkpoints)
    best = select_checkpoint(known, limits)
    while best.refusal(limits) is None and best.perplexity_ratio is None:
        read = replace(best, perplexity_ratio=ratio_of(best))
        known = [read if checkpoint is best else checkpoint for checkpoint in known]
        best = select_checkpoint(known, limits)
    return known


class Validation:
    """The validation questions, asked again and again from the tuned layer on."""

    def __init__(self, model: Model, asked: PromptSet, layers: Sequence[int], recipe: Recipe):
        self.asked, self.recipe = asked, recipe
        # What the first answers are, which are the untuned model's.
        self.untuned: Untuned | None = None
        self.model = model
        self.orders = {prompts.order: RestartablePrompts(model, prompts, layers) for prompts in asked}
        labels = asked.batches[0].labels
        self.labels = None if labels is None else labels.numpy()

    def measure(
        self, heads: HeadList, layer: int = 0, reference: bool = False
    ) -> tuple[ValidationMetrics, Mapping[str, Answers]]:
        """Asks from this layer on; later passes may restart from the answers where the weights stay as they are now.

        `reference` holds the answers to the plain model: for the first time, of the model as it was handed over.
        """
        answers = {order: restarted.decide(layer, reference) for order, restarted in self.orders.items()}
        self.untuned = self.untuned or Untuned.of(self.asked, answers, self.recipe)
        return ValidationMetrics.of(self.labels, answers, self.nas(heads, answers), self.untuned), answers

    def report(self, answers: Mapping[str, Answers], start: float, model_hash: str) -> BinaryReport:
        """The decisions that these answers are, by passes that began at `start` (time.perf_counter())."""
        asked = replace(self.asked, draws=DRAWS)
        run = describe_run(self.model, asked, start, self.model.engine, model_hash=model_hash)
        return BinaryReport(
            np.concatenate([answers[order].d for order in asked.orders]),
            np.concatenate([answers[order].mass for order in asked.orders]),
            *asked.each,
            run,
        )

    def nas(self, heads: HeadList, answers: Mapping[str, Answers] | None = None) -> float:
        """Mean NAS of these heads over orders, with the weights as they are now.

        What enters their layers is taken from the answers, or from those that passes restart from.
        """
        sources = self.orders if answers is None else answers
        means = [_mean_nas(self.orders[o], source.entering, heads) for o, source in sources.items()]
        with np.errstate(invalid="ignore"):  # a model that blew up
            return float(np.mean(means))

    def restart_from(self, answers: Mapping[str, Answers]) -> None:
        """Later passes restart from these answers."""
        for order, restarted in self.orders.items():
            restarted.restart_from(answers[order])


@torch.no_grad()
def _mean_nas(restarted: RestartablePrompts, entering: Mapping[int, Entering], heads: HeadList) -> float:
    """Mean NAS of these heads over the first prompts: for the log alone, it decides nothing."""
    rows = range(min(NAS_PROMPTS, len(restarted.prompts)))
    nas = {layer: restarted.attention(layer, rows, entering[layer])[0] for layer in {h.layer for h in heads}}
    return float(torch.stack([nas[head.layer][:, head.index] for head in heads]).nanmean())
