"""What one would do without tuning heads: shift the answer, average both orders, turn the heads down."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Bool, Float
from tqdm.auto import tqdm

from ..decisions import BinaryReport, without_mass
from ..deltas.delta import HeadDelta
from ..errors import AlignmentError
from ..heads import HeadList
from ..measures import measure
from ..models import Model
from ..models.slice_values import read_slices, write_slices
from ..prompts import labels_of
from ..restartable import RestartablePrompts
from ..session import PromptSet

FACTORS = (0.0, 0.25, 0.5, 0.75, 1.0)


def best_offset(d: Float[np.ndarray, " decision"], label: Bool[np.ndarray, " decision"]) -> float:
    """The number to add to d that makes the most decisions right.

    Args:
        d: logit(No) - logit(Yes).
        label: True where yes is right.

    Returns:
        The offset. Thresholds lie halfway between neighbouring values of d; of equally good ones the middle one is
        taken (the lower of two), as the ends of a plateau are the least sure.

    Raises:
        AlignmentError: without decisions.

    Source: ours; after contextual calibration, which fits an offset to what a model says without a question.
    """
    if not len(d):
        raise AlignmentError("an offset can't be fitted to no decisions; give validation questions")
    values = np.unique(d.astype(np.float64))
    cuts = np.concatenate([values[:1], (values[:-1] + values[1:]) / 2, values[-1:] + 1])
    # below a cut is Yes; the first cut has no value below it, the last one all
    yes_below = np.searchsorted(np.sort(d[label]), cuts)
    no_above = (~label).sum() - np.searchsorted(np.sort(d[~label]), cuts)
    best = np.flatnonzero(yes_below + no_above == (yes_below + no_above).max())
    return -float(cuts[best[(len(best) - 1) // 2]])


@dataclass(frozen=True)
class Offset:
    """Adds a constant to d: another threshold, and so another trade of Yes for No, with the sorting as it was.

    Args:
        offsets: in each candidate order.
    """

    offsets: Mapping[str, float]

    @classmethod
    def fit(cls, report: BinaryReport, by_order: bool = False) -> "Offset":
        """The offset with the best accuracy on validation decisions: one for all, or one for each order."""
        label = report.label
        if label is None:
            raise AlignmentError("the best threshold can't be fitted without labels; calibrate instead")
        orders, one = np.array(report.order), best_offset(report.logit_differences, label)
        if not by_order:
            return cls(dict.fromkeys(report.order, one))
        masks = {order: orders == order for order in dict.fromkeys(report.order)}
        return cls({order: best_offset(report.logit_differences[rows], label[rows]) for order, rows in masks.items()})

    def apply(self, report: BinaryReport) -> BinaryReport:
        """The decisions under the offset; without an answer mass, unless all offsets are 0: it isn't a model's.

        Raises:
            AlignmentError: decisions in an order that the offset wasn't fitted to.
        """
        if missing := set(report.order) - set(self.offsets):
            raise AlignmentError(f"there is no offset for order {missing.pop()!r}; fit it on decisions in both orders")
        if not any(self.offsets.values()):
            return report
        d = report.logit_differences + np.array([self.offsets[order] for order in report.order])
        return without_mass(report, d, f"offset {self}")

    def __str__(self) -> str:
        values = dict.fromkeys(f"{value:+.3f}" for value in self.offsets.values())
        by_order = ", ".join(f"{order} {value:+.3f}" for order, value in self.offsets.items())
        return next(iter(values)) if len(values) == 1 else by_order


def scaled_heads(
    model: Model, heads: HeadList | Iterable[Any], factor: float, base_hash: str | None = None
) -> HeadDelta:
    """The heads' outputs times a factor, as a change of their own columns of the output projection; 0 removes them.

    Args:
        model: any.
        heads: heads, pairs or names.
        factor: what their outputs are multiplied by.
        base_hash: the model's `weights_hash()`, where it is known.

    Raises:
        HeadError: a head outside the model. DeltaError, ModelError: a model whose heads' weights can't be told apart.
    """
    chosen = HeadList.of(heads).check(model.n_layers, model.n_heads)
    slices = [piece for head in chosen for piece in model.head_slices(head.layer, head.index, "o")]
    values = read_slices(model, slices)
    after = tuple((value.double() * factor).to(value.dtype) for value in values.values())
    digest = model.weights_hash() if base_hash is None else base_hash
    log = {"kind": "scaled heads", "factor": factor}
    return HeadDelta(digest, model.name, chosen, tuple(values), tuple(values.values()), after, log)


def best_factor(
    model: Model,
    heads: HeadList | Iterable[Any],
    asked: PromptSet,
    factors: Sequence[float] = FACTORS,
    progress: bool = False,
) -> tuple[float, dict[float, float]]:
    """The factor for these heads' outputs with the best accuracy on validation prompts, both orders together.

    Args:
        model: with a plain view whose attention is fused; it is left as it was.
        heads: heads, pairs or names.
        asked: the validation prompts.
        factors: to choose from; of equally good ones the one nearest to 1, which changes least.
        progress: a bar over factors.

    Returns:
        The factor, and the accuracy of each.
    """
    accuracies, label = {}, np.concatenate([labels_of(prompts).numpy() for prompts in asked])
    lowest = min((head.layer for head in HeadList.of(heads)), default=0)
    orders = [RestartablePrompts(model, prompts, [lowest]) for prompts in asked]
    for order in orders:
        order.restart_from(order.decide())
    for factor in tqdm(factors, desc="scaling heads", disable=not progress):
        delta = scaled_heads(model, heads, factor, base_hash="")
        try:
            write_slices(model, dict(zip(delta.slices, delta.after, strict=True)))
            answers = [order.decide(lowest) for order in orders]
        finally:
            write_slices(model, dict(zip(delta.slices, delta.before, strict=True)))
        d, mass = np.concatenate([a.d for a in answers]), np.concatenate([a.mass for a in answers])
        accuracies[factor] = measure(d, label, mass).accuracy
    return max(accuracies, key=lambda factor: (accuracies[factor], -abs(1 - factor))), accuracies
