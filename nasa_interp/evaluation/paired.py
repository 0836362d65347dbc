"""Decisions before and after a change, compared question by question, in all bootstrap draws at once."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from jaxtyping import Bool, Float

from ..bootstrap import DRAWS, cluster_index, draw_weights, interval
from ..decisions import BinaryReport
from ..errors import ResultError
from ..measures import measure, measure_draws
from .options import Change

# KNOWN: the oracle accuracy from which a group counts as known. ROOM: the least to recover, else it is undefined.
KNOWN, ROOM = 0.65, 0.05

Samples = Float[np.ndarray, " draw"]
"""A measure: first on the questions themselves, then on each bootstrap draw."""


def groups_above_chance(report: BinaryReport, least: float = KNOWN) -> tuple[str, ...]:
    """The groups of questions whose answers the model's logit difference can tell apart.

    Args:
        report: of the base model on validation questions, never on those used for a result.
        least: the oracle accuracy (best single threshold, both orders together) from which a group counts.

    Raises:
        ResultError: where no group reaches it.

    Caveat: with few questions a group may pass by luck: of 40 questions, a useless score reaches 0.65 in 15% of draws.

    Source: ours.
    """
    groups = np.array([q.group for q in report.questions])
    measures = {}
    for group in dict.fromkeys(groups.tolist()):
        rows = groups == group
        measures[group] = measure(report.logit_differences[rows], report.labels_of(rows), report.answer_masses[rows])
    known = tuple(group for group, measured in measures.items() if measured.oracle_accuracy >= least)
    if not known:
        best = max(measures, key=lambda group: measures[group].oracle_accuracy)
        raise ResultError(
            f"in no group of {report.run.data} does the model reach an oracle accuracy of {least} (best: {best!r} with "
            f"{measures[best].oracle_accuracy:.2f}): there is nothing that it knows and doesn't say; "
            f"give groups yourself"
        )
    return known


@dataclass(frozen=True, eq=False)
class Paired:
    """The base model's decisions, as the baseline for others on the same questions.

    Args:
        base: the decisions of the model as it was.
        groups: the groups over which recovered accuracy is pooled; all where empty.

    Raises:
        ResultError: a group that has no questions.
    """

    base: BinaryReport
    groups: tuple[str, ...] = ()

    def __post_init__(self):
        groups = dict.fromkeys(q.group for q in self.base.questions)
        if unknown := [group for group in self.groups if group not in groups]:
            raise ResultError(
                f"no questions of group {unknown[0]!r} in {self.base.run.data}; its groups: {list(groups)}"
            )

    @cached_property
    def weights(self) -> Float[np.ndarray, "draw decision"]:
        """How often each decision counts: once in the first row, then as often as each draw has its question."""
        return question_weights(self.base.questions, self.base.run.draws, self.base.run.seed)

    def measures(self, report: BinaryReport) -> dict[str, Samples]:
        """The measures of a comparison's table: some over both orders together, others order by order."""
        self.check(report)
        orders = {order: self._measured(report, order=order) for order in dict.fromkeys(report.order)}
        both = self._measured(report)
        return {
            "accuracy": both["accuracy"],
            "recovered": self.recovered(report),
            **{f"imbalance {order}": values["imbalance"] for order, values in orders.items()},
            "auc_within_orders": np.mean([values["auc"] for values in orders.values()], axis=0),
            **{f"auc {order}": values["auc"] for order, values in orders.items()},
            **{name: both[name] for name in ("ece", "false_yes_rate", "answer_mass", "mean_logit_difference")},
        }

    def group_aucs(self, report: BinaryReport) -> dict[str, Samples]:
        """The AUC of each group, averaged over the orders: within an order nothing else shifts the threshold."""
        self.check(report)
        orders, aucs = dict.fromkeys(report.order), {}
        for group in dict.fromkeys(q.group for q in report.questions):
            aucs[group] = np.mean([self._measured(report, (group,), order)["auc"] for order in orders], axis=0)
        return aucs

    def recovered(self, report: BinaryReport) -> Samples:
        """The recovered share of the accuracy lost to the threshold, pooled over the known groups and both orders.

        One threshold for all of them: 1 is the base model's oracle accuracy. NaN where that is less than 0.05 above
        the base model's accuracy; draws in which it is don't enter the interval.
        """
        base, now = self._measured(self.base, self.groups), self._measured(report, self.groups)
        room = base["oracle_accuracy"] - base["accuracy"]
        return np.where(room >= ROOM, now["accuracy"] - base["accuracy"], np.nan) / np.where(room >= ROOM, room, 1.0)

    def check(self, report: BinaryReport) -> None:
        """Raises ResultError where the report is on other questions."""
        if report.questions != self.base.questions or report.order != self.base.order:
            raise ResultError(
                f"the reports are on other questions ({len(report.questions)} decisions on {report.run.data} and "
                f"{len(self.base.questions)} on {self.base.run.data}); ask both the same ones"
            )

    def _measured(
        self, report: BinaryReport, groups: Sequence[str] = (), order: str | None = None
    ) -> dict[str, Samples]:
        rows = self._rows(groups, order)
        weights, label = self.weights[:, rows], report.labels_of(rows)
        return measure_draws(report.logit_differences[rows], label, report.answer_masses[rows], weights)

    def _rows(self, groups: Sequence[str], order: str | None) -> Bool[np.ndarray, " decision"]:
        decisions = zip(self.base.questions, self.base.order, strict=True)
        return np.array([(not groups or q.group in groups) and order in (None, asked) for q, asked in decisions])


def question_weights(questions: Sequence, draws: int, seed: int) -> Float[np.ndarray, "draw decision"]:
    """A row of ones, then how often each bootstrap draw has each question, twins and orders together."""
    clusters = cluster_index([q.id for q in questions], [q.pair for q in questions])
    weights = draw_weights(clusters, draws or DRAWS, seed)
    return np.concatenate([np.ones_like(weights[:1]), weights])


def estimate(samples: Samples) -> Change:
    """The value and the ends of its bootstrap interval (95%); no interval where the value is undefined."""
    value = float(samples[0])
    if np.isnan(value):
        return Change(value, np.nan, np.nan)
    low, high = interval(samples[1:])
    return Change(value, float(low), float(high))


def average(runs: Sequence[Samples], rng: np.random.Generator) -> Samples:
    """The mean over several runs of one method; every draw of questions also draws as many runs anew.

    So its interval covers questions and runs (seeds, sets): the two-level bootstrap. One run keeps its own interval.
    """
    stacked = np.stack(runs)
    drawn = rng.integers(len(runs), size=stacked.shape)
    drawn[:, 0] = np.arange(len(runs))
    return np.take_along_axis(stacked, drawn, axis=0).mean(axis=0)
