"""Measures of decisions, overall and by part, wherever the decisions lie: in memory or in a folder of parts."""

import html
import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float, Int

from ..bootstrap import cluster_interval, scatters
from ..errors import ResultError
from ..heads import Side
from ..measures import Measures, measure, measure_draws
from ..prompts import Order
from ..run import RunInfo

LOW_MASS = 0.5


@dataclass(frozen=True)
class Estimates(Measures):
    """Measures of a set of decisions, each by its name, with their bootstrap intervals (95%, over questions).

    Args:
        low, high: ends of each measure's interval.
        n: number of decisions.
    """

    low: Measures
    high: Measures
    n: int

    def text(self, name: str) -> str:
        """A measure as "0.50 [0.44, 0.56]", or "undefined"."""
        value, low, high = (getattr(measures, name) for measures in (self, self.low, self.high))
        if math.isnan(value):
            return "undefined"
        return f"{value:.2f} (no interval)" if math.isnan(low) else f"{value:.2f} [{low:.2f}, {high:.2f}]"

    def to_dict(self) -> dict[str, Any]:
        """n, and for each measure its value and interval, as files hold them."""
        rows = {
            name: {"value": getattr(self, name), "interval": [getattr(self.low, name), getattr(self.high, name)]}
            for name in Measures.names()
        }
        return {"n": self.n, **rows}


Rows = Bool[np.ndarray, " decision"]
Measuring = Callable[[Float[np.ndarray, "draw row"]], dict[str, Float[np.ndarray, " kept"]]]


class MeasuredDecisions:
    """Decisions as arrays, and from them the measures overall, per group and per candidate order.

    A kind of decisions says where these arrays come from: `logit_differences`, `answer_masses`, `order`, `unsure` and
    `run` as in a `BinaryReport`; `label`, `clusters`, `group_of` and `rule_of`, one each a decision; `n_questions`; and
    `drawn`, which measures every draw of its bootstrap.
    """

    logit_differences: Float[np.ndarray, " decision"]
    answer_masses: Float[np.ndarray, " decision"]
    order: tuple[Order, ...]
    run: RunInfo
    unsure: Bool[np.ndarray, " decision"] | None

    @property
    def label(self) -> Bool[np.ndarray, " decision"] | None:
        """True where the yes candidate is the right word; None where nobody knows."""
        raise NotImplementedError

    @property
    def clusters(self) -> Int[np.ndarray, " decision"]:
        """The number of each decision's cluster: what the bootstrap draws together, twins and both orders."""
        raise NotImplementedError

    @property
    def group_of(self) -> pd.Categorical:
        """The group of each decision's question; its categories are the groups, in the order of their appearance."""
        raise NotImplementedError

    @property
    def rule_of(self) -> pd.Categorical:
        """By which rule each decision's wrong candidate was made, its twin's where it has one; missing without any."""
        raise NotImplementedError

    @property
    def n_questions(self) -> int:
        """How many questions were asked, in one order or both."""
        raise NotImplementedError

    def drawn(self, rows: Rows, found: Measuring) -> dict[str, Float[np.ndarray, " draw"]]:
        """What `found` makes of these decisions' weights in every draw of the bootstrap."""
        raise NotImplementedError

    @property
    def reversed(self) -> bool:
        """Whether the yes candidate stood for no, and the no candidate for yes."""
        return bool(self.run.template.get("reversed", False))

    @property
    def meaning_imbalance(self) -> float:
        """Rate of questions whose answer is yes - rate of answers that mean yes, whichever word says so.

        The imbalance is about the words; with the candidates' meaning reversed, this is its opposite.
        """
        return -self.imbalance if self.reversed else self.imbalance

    @property
    def unsure_rate(self) -> float:
        """How often the third candidate was the likeliest; NaN where there was none."""
        return math.nan if self.unsure is None else float(self.unsure.mean())

    def labels_of(self, rows: Any) -> Bool[np.ndarray, " row"] | None:
        """`label` of these decisions."""
        return None if self.label is None else self.label[rows]

    def estimate(self, group: str | None = None, order: Order | None = None) -> Estimates:
        """Measures with intervals over the decisions of a group, an order, both, or all.

        Raises:
            ResultError: where there are no such decisions.
        """
        rows = self.rows_of(group, order)
        if not rows.any():
            groups = ", ".join(self.group_of.categories)
            raise ResultError(f"no decisions in group {group!r}, order {order!r}; the groups: {groups}")
        return self._estimate(rows)

    def rows_of(self, group: str | None = None, order: str | None = None) -> Rows:
        """Which decisions are of a group, an order, or both; None takes all."""
        of_group = np.ones(len(self.order), dtype=bool) if group is None else np.asarray(self.group_of == group)
        return of_group if order is None else of_group & np.array([o == order for o in self.order])

    def _estimate(self, rows: Bool[np.ndarray, " decision"]) -> Estimates:
        """Measures with intervals over these decisions; NaN where the third candidate leads in all of them."""
        if self.unsure is not None:
            rows = rows & ~self.unsure
        if not rows.any():
            nothing = Measures(**dict.fromkeys(Measures.names(), math.nan))
            return Estimates(**nothing.numbers(), low=nothing, high=nothing, n=0)
        d, label, mass = self.logit_differences[rows], self.labels_of(rows), self.answer_masses[rows]

        def found(weights: Float[np.ndarray, "draw row"]) -> dict[str, Float[np.ndarray, " kept"]]:
            # A draw may miss a small group altogether.
            return measure_draws(d, label, mass, weights[weights.sum(1) > 0])

        samples, clusters = self.drawn(rows, found), self.clusters[rows]
        ends = {name: cluster_interval(values, clusters) for name, values in samples.items()}
        low, high = (Measures(**{name: float(ends[name][i]) for name in ends}) for i in (0, 1))
        return Estimates(**measure(d, label, mass).numbers(), low=low, high=high, n=int(rows.sum()))

    @cached_property
    def overall(self) -> Estimates:
        """Over all decisions, one threshold for all."""
        return self.estimate()

    @cached_property
    def groups(self) -> dict[str, Estimates]:
        """Per group of questions, both orders together."""
        return {g: self.estimate(group=g) for g in self.group_of.categories}

    @cached_property
    def made(self) -> dict[str, Estimates]:
        """Per rule that made wrong candidates ("digit", "entity"): each beside its twin, which holds the right one.

        Empty where nothing is proposed. Questions without a twin count under their own `made`.
        """
        return {rule: self._estimate(np.asarray(self.rule_of == rule)) for rule in self.rule_of.categories}

    @cached_property
    def orders(self) -> dict[Order, Estimates]:
        """Per candidate order, all groups together."""
        return {o: self.estimate(order=o) for o in dict.fromkeys(self.order)}

    @cached_property
    def cells(self) -> dict[str, dict[Order, Estimates]]:
        """Per group and candidate order: what a group's AUC is where nothing else shifts the threshold."""
        return {group: {order: self.estimate(group, order) for order in self.orders} for group in self.groups}

    @property
    def parts(self) -> dict[str, Estimates]:
        """All, then each order, then each group, then each rule that made wrong candidates, where there are several."""
        rules = {f"made by {rule}": e for rule, e in self.made.items()} if len(self.made) > 1 else {}
        return {"all": self.overall, **{f"order {o}": e for o, e in self.orders.items()}, **self.groups, **rules}

    accuracy = property(lambda self: self.overall.accuracy, doc="Rate of right decisions.")
    precision = property(lambda self: self.overall.precision, doc="Of the answers Yes; NaN without any.")
    recall = property(lambda self: self.overall.recall, doc="Rate of true yes that are answered Yes.")
    gap = property(lambda self: self.overall.gap, doc="Precision - recall.")
    imbalance = property(lambda self: self.overall.imbalance, doc="Rate of true yes - rate of answered Yes.")
    f1 = property(lambda self: self.overall.f1, doc="F1 of the answer Yes.")
    auc = property(lambda self: self.overall.auc, doc="How well d sorts right from wrong.")
    ece = property(lambda self: self.overall.ece, doc="Expected calibration error.")
    yes_rate = property(lambda self: self.overall.yes_rate, doc="Rate of answers Yes.")
    oracle_accuracy = property(lambda self: self.overall.oracle_accuracy, doc="Of the best single threshold.")
    answer_mass = property(lambda self: self.overall.answer_mass, doc="Mean of P(Yes) + P(No).")
    mean_logit_difference = property(lambda self: self.overall.mean_logit_difference, doc="Mean of d.")

    @property
    def toward(self) -> Side:
        """Which answer is given too often: "yes" where the imbalance is below 0, else "no" (also where it is 0 or NaN).

        Without labels: which is given more often. The heads behind the bias are sought on this side. Whether there is a
        bias at all is what `bias` says.
        """
        if self.label is None:
            return "yes" if self.overall.yes_rate > 0.5 else "no"
        return "yes" if self.overall.imbalance < 0 else "no"

    @property
    def bias(self) -> Literal["negative", "positive", ""]:
        """The bias that is shown: "negative" toward No, "positive" toward Yes; "" where 0 is in the interval, or where
        questions are too few, or all of one label, to tell."""
        e = self.overall
        if not scatters(self.clusters) or e.base_rate in (0, 1):
            return ""
        return "negative" if e.low.imbalance > 0 else "positive" if e.high.imbalance < 0 else ""

    @property
    def warnings(self) -> list[str]:
        """What a reader must know before believing the measures."""
        low = {g: e.answer_mass for g, e in self.groups.items() if e.answer_mass < LOW_MASS}
        if not low:
            return []
        listed = ", ".join(f"{group} {mass:.2f}" for group, mass in low.items())
        return [
            f"answer mass under {LOW_MASS}: {listed}. The model meant to say something else than either candidate; "
            f"its decisions there are a preference between two unlikely words."
        ]

    @property
    def verdict(self) -> str:
        """The base-rate line: is the model one-sided, or are the data? Then a third candidate, and turned words."""
        told = [] if self.unsure is not None and self.unsure.all() else [self._verdict]
        if self.unsure is not None:
            told.append(f"It takes the third candidate on {self.unsure_rate:.0%} of the decisions, counted apart.")
        if self.reversed:
            told.append(
                f"The words are turned around: of what they mean, the imbalance is {self.meaning_imbalance:+.2f}."
            )
        return " ".join(told)

    @property
    def _verdict(self) -> str:
        e = self.overall
        if self.label is None:
            return (
                f"Bias can't be told without labels: the model says Yes to {e.text('yes_rate')} of the questions (mean "
                f"d {e.text('mean_logit_difference')}); whether that is too often, only right answers could say."
            )
        if not scatters(self.clusters):
            return f"Bias can't be told from one question or pair (imbalance {e.text('imbalance')}); ask more."
        if e.base_rate in (0, 1):
            right, missing = ("yes", "no") if e.base_rate == 1 else ("no", "yes")
            return (
                f"Bias can't be told from these questions: {right} is right for all "
                f"{self.n_questions}, and the "
                f"model says Yes to {e.yes_rate:.0%} of them. One that always gives the same answer and one that "
                f"knows, or doesn't, look alike here; add questions whose right answer is {missing}."
            )
        answers = f"says Yes to {e.yes_rate:.0%}, and yes is right for {e.base_rate:.0%} of the questions"
        numbers = f"imbalance {e.text('imbalance')}, AUC {e.text('auc')}"
        if self.bias:
            return f"{self.bias.capitalize()} bias: the model {answers} ({numbers})."
        if e.base_rate < 0.4:
            return f"No bias shown: the data are mostly No, and the model {answers} ({numbers})."
        return f"No bias shown: the model {answers} ({numbers})."

    def measures(self) -> dict[str, Any]:
        """The verdict, the warnings, and the measures of all parts, as files hold them."""
        return {
            "verdict": self.verdict,
            "warnings": self.warnings,
            "overall": self.overall.to_dict(),
            "orders": {name: e.to_dict() for name, e in self.orders.items()},
            "groups": {name: e.to_dict() for name, e in self.groups.items()},
            "cells": {name: {o: e.to_dict() for o, e in cell.items()} for name, cell in self.cells.items()},
            **({"made": {name: e.to_dict() for name, e in self.made.items()}} if self.made else {}),
        }

    def summary_dataframe(self) -> pd.DataFrame:
        """One row for each of `parts`; one column a measure, and the AUC within each order.

        The pooled AUC asks for one threshold in both orders; where the orders shift d apart, the AUC within an order
        tells better what the model knows.
        """
        rows = []
        for name, e in self.parts.items():
            within = {f"auc_{order}": cell.auc for order, cell in self.cells.get(name, {}).items()}
            rows.append({"part": name, "n": e.n, **e.numbers(), **within, **self._unsure(name)})
        return pd.DataFrame(rows)

    def _unsure(self, part: str) -> dict[str, float]:
        """How often the third candidate was the likeliest in a part, where there is one."""
        if self.unsure is None:
            return {}
        rows = {"all": self.rows_of()}
        rows |= {f"order {o}": self.rows_of(order=o) for o in self.orders}
        rows |= {f"made by {rule}": np.asarray(self.rule_of == rule) for rule in self.made}
        return {"unsure": float(self.unsure[rows[part] if part in rows else self.rows_of(part)].mean())}

    def __repr__(self) -> str:
        e = self.overall
        shown = ", ".join(f"{name} {e.text(name)}" for name in ("accuracy", "precision", "recall", "imbalance", "auc"))
        return f"{type(self).__name__}({self.run.summary()}; {shown})"

    def _repr_html_(self) -> str:
        table = self.summary_dataframe().to_html(index=False, float_format="%.3f")
        return "".join(f"<p>{html.escape(line)}</p>" for line in [self.verdict, *self.warnings]) + table
