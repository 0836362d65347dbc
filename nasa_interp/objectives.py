"""What tuning pulls toward: small losses over what a step sees, and weighted sums of them."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from .errors import HeadError


@dataclass(frozen=True, eq=False)
class Step:
    """What a step of tuning sees of some questions, in each candidate order, in the graph of the tuned weights.

    Args:
        labels: True where yes is right; None where nobody knows.
        wording: which of the style's instructions each question got.
        d: logit(No) - logit(Yes); empty where no objective asked for answers.
        d_before: d of the model as it was handed over; empty as `d`.
        own: `d_before` less what it is on average in that order and wording, so that yes is decided as often as it is
            expected: the model's own decisions without its lean; empty as `d`.
        log_mass: logarithm of the answer mass; empty as `d`.
        nas, mass: NAS of the tuned heads and the mean attention that they pay to both candidates; empty where no
            objective asked for attention.
        log_mass_before, mass_before: what `log_mass` and `mass` were before these heads were tuned.
    """

    labels: Bool[Tensor, " question"] | None
    wording: Int[Tensor, " question"]
    d: Mapping[str, Float[Tensor, " question"]]
    d_before: Mapping[str, Float[Tensor, " question"]]
    own: Mapping[str, Float[Tensor, " question"]]
    log_mass: Mapping[str, Float[Tensor, " question"]]
    log_mass_before: Mapping[str, Float[Tensor, " question"]]
    nas: Mapping[str, Float[Tensor, "question head"]]
    mass: Mapping[str, Float[Tensor, "question head"]]
    mass_before: Mapping[str, Float[Tensor, "question head"]]


@runtime_checkable
class Objective(Protocol):
    """A loss over a step; `reads` says what of the step it needs.

    An objective that reads attention alone is local: only the tuned heads' own layer runs.
    """

    @property
    def reads(self) -> frozenset[str]:
        """ "answer", "attention", or both; and "labels", where it needs the right answers."""
        ...

    def __call__(self, step: Step) -> Float[Tensor, ""]:
        """The loss."""
        ...


class Summable:
    """Gives an objective its algebra: `0.3 * Answer() + Balance()` is an objective again."""

    def __add__(self, other: "Objective") -> "WeightedSum":
        return WeightedSum((*_terms(self), *_terms(other)))  # type: ignore[arg-type]

    def __rmul__(self, weight: int | float) -> "WeightedSum":
        return WeightedSum(tuple((weight * w, o) for w, o in _terms(self)))  # type: ignore[arg-type]


@dataclass(frozen=True)
class NegativeAttention(Summable):
    """The tuned heads' own NAS toward 0, with the attention that they pay to the candidates kept.

    Args:
        by: "polarity" pulls the mean over both candidate orders to 0 and lets a head follow the order of the
            candidates; "values" pulls each order's NAS to 0.
        keep_mass: weight of the squared change of the attention to both candidates, so that a head doesn't get rid of
            its NAS by looking elsewhere.

    Source: the paper tunes toward smaller NAS (section on NASA); this loss is ours.
    """

    by: str = "polarity"
    keep_mass: int | float = 1.0

    reads = frozenset({"attention"})

    def __post_init__(self):
        if self.by not in ("polarity", "values"):
            raise HeadError(f"NAS can't be pulled to 0 by {self.by!r}; use 'polarity' or 'values'")

    def __call__(self, step: Step) -> Float[Tensor, ""]:
        """See `Objective`."""
        scores = torch.stack(list(step.nas.values()))
        pulled = scores.mean(0) if self.by == "polarity" else scores
        mass = torch.stack([step.mass[order] - step.mass_before[order] for order in step.mass])
        return pulled.square().nanmean() + self.keep_mass * mass.square().nanmean()


@dataclass(frozen=True)
class Answer(Summable):
    """Cross-entropy of the right candidate against the other one, both labels weighing the same, in every order.

    Args:
        keep_mass: weight of the squared change of ln(answer mass). Without it, tuning is free to make both candidates
            unlikely, and on the embedded model it does; the cross-entropy over the whole vocabulary spends its steps
            on making them likely instead.

    Source: ours.
    """

    keep_mass: int | float = 2.0

    reads = frozenset({"answer", "labels"})

    def __call__(self, step: Step) -> Float[Tensor, ""]:
        """See `Objective`."""
        assert step.labels is not None
        weight = torch.where(step.labels, 0.5 / step.labels.sum(), 0.5 / (~step.labels).sum())
        losses = []
        for order, d in step.d.items():
            moved = (step.log_mass[order] - step.log_mass_before[order]).square().mean()
            losses.append((F.softplus(torch.where(step.labels, d, -d)) * weight).sum() + self.keep_mass * moved)
        return torch.stack(losses).mean()


@dataclass(frozen=True)
class Balance(Summable):
    """The squared mean logit difference in every order: no labels, only as much Yes as No.

    Source: ours.
    """

    reads = frozenset({"answer"})

    def __call__(self, step: Step) -> Float[Tensor, ""]:
        """See `Objective`."""
        return torch.stack([d.mean().square() for d in step.d.values()]).mean()


@dataclass(frozen=True)
class OwnDecisions(Summable):
    """The model's own decisions without their lean, as targets: no labels, and the ranking of each order kept.

    Args:
        keep_mass: as for `Answer`.
        average: take the mean over both orders as the target of either, so that the order matters less.

    Caveat: where the model doesn't sort right from wrong, neither do its own decisions.

    Source: ours.
    """

    keep_mass: int | float = 2.0
    average: bool = False

    reads = frozenset({"answer"})

    def __call__(self, step: Step) -> Float[Tensor, ""]:
        """See `Objective`."""
        mean = torch.stack(list(step.own.values())).mean(0)
        losses = []
        for order, d in step.d.items():
            moved = (step.log_mass[order] - step.log_mass_before[order]).square().mean()
            target = mean if self.average else step.own[order]
            losses.append((d - target).square().mean() + self.keep_mass * moved)
        return torch.stack(losses).mean()


OBJECTIVES: dict[str, type[Objective]] = {
    "answer": Answer,
    "balance": Balance,
    "nas": NegativeAttention,
    "own": OwnDecisions,
}
"""What `align --objective` takes by name. To add an objective, add a line."""


@dataclass(frozen=True)
class WeightedSum(Summable):
    """Several objectives at once, each with its weight."""

    terms: tuple[tuple[float, Objective], ...]

    @property
    def reads(self) -> frozenset[str]:
        """See `Objective`."""
        return frozenset().union(*(objective.reads for _, objective in self.terms))

    def __call__(self, step: Step) -> Float[Tensor, ""]:
        """See `Objective`."""
        return torch.stack([weight * objective(step) for weight, objective in self.terms]).sum()


def _terms(objective: Objective) -> tuple[tuple[float, Objective], ...]:
    return objective.terms if isinstance(objective, WeightedSum) else ((1.0, objective),)
