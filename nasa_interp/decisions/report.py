"""Every decision of a run, and the measures of them overall, per group and per candidate order."""

import html
import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float, Int

from ..bootstrap import DRAWS, cluster_index, cluster_interval, draw_weights, scatters
from ..errors import ResultError
from ..heads import Side
from ..measures import Measures, measure, measure_draws
from ..prompts import ORDERS, Order
from ..questions import BinaryQuestion
from ..results import parsing_result, read_result, write_result
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


@dataclass(frozen=True, repr=False)
class BinaryReport:
    """Every decision, and from them the measures overall, per group and per candidate order.

    Args:
        logit_differences: d = logit(No) - logit(Yes) for each decision; below 0 the answer is Yes.
        answer_masses: P(Yes) + P(No) for each decision.
        order: the candidate order of each decision.
        questions: the question of each decision (each occurs once an order).
        run: where it came from.
        unsure: where there is a third candidate ("I don't know"), for which decisions it is the likeliest. They are
            counted apart: no measure is over them, and what d would say is never guessed from.
    """

    logit_differences: Float[np.ndarray, " decision"]
    answer_masses: Float[np.ndarray, " decision"]
    order: tuple[Order, ...]
    questions: tuple[BinaryQuestion, ...]
    run: RunInfo = field(repr=False)
    unsure: Bool[np.ndarray, " decision"] | None = None

    @cached_property
    def label(self) -> Bool[np.ndarray, " decision"] | None:
        """True where the yes candidate is the right word; None where nobody knows."""
        if any(q.label is None for q in self.questions):
            return None
        return np.array([bool(q.label) != self.reversed for q in self.questions])

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

    @cached_property
    def clusters(self) -> Int[np.ndarray, " decision"]:
        """The number of each decision's cluster: what the bootstrap draws together, twins and both orders."""
        return cluster_index([q.id for q in self.questions], [q.pair for q in self.questions])

    @cached_property
    def weights(self) -> Float[np.ndarray, "draw decision"]:
        """How often each decision counts in each draw of the bootstrap."""
        return draw_weights(self.clusters, self.run.draws or DRAWS, self.run.seed)

    def estimate(self, group: str | None = None, order: Order | None = None) -> Estimates:
        """Measures with intervals over the decisions of a group, an order, both, or all.

        Raises:
            ResultError: where there are no such decisions.
        """
        rows = np.array(
            [group in (None, q.group) and order in (None, o) for q, o in zip(self.questions, self.order, strict=True)]
        )
        if not rows.any():
            groups = ", ".join(dict.fromkeys(q.group for q in self.questions))
            raise ResultError(f"no decisions in group {group!r}, order {order!r}; the groups: {groups}")
        return self._estimate(rows)

    def _estimate(self, rows: Bool[np.ndarray, " decision"]) -> Estimates:
        """Measures with intervals over these decisions; NaN where the third candidate leads in all of them."""
        if self.unsure is not None:
            rows = rows & ~self.unsure
        if not rows.any():
            nothing = Measures(**dict.fromkeys(Measures.names(), math.nan))
            return Estimates(**nothing.numbers(), low=nothing, high=nothing, n=0)
        d, label, mass = self.logit_differences[rows], self.labels_of(rows), self.answer_masses[rows]
        weights = self.weights[:, rows]
        # A draw may miss a small group altogether.
        samples = measure_draws(d, label, mass, weights[weights.sum(1) > 0])
        clusters = self.clusters[rows]
        ends = {name: cluster_interval(values, clusters) for name, values in samples.items()}
        low, high = (Measures(**{name: float(ends[name][i]) for name in ends}) for i in (0, 1))
        return Estimates(**measure(d, label, mass).numbers(), low=low, high=high, n=int(rows.sum()))

    def select(self, rows: Sequence[int]) -> "BinaryReport":
        """The report of these decisions alone, in this order."""
        rows = list(rows)
        return replace(
            self,
            logit_differences=self.logit_differences[rows],
            answer_masses=self.answer_masses[rows],
            order=tuple(self.order[row] for row in rows),
            questions=tuple(self.questions[row] for row in rows),
            unsure=None if self.unsure is None else self.unsure[rows],
        )

    def calibrated(self, calibration: Any) -> "BinaryReport":
        """The decisions less a calibration's offsets; CalibrationError where it is of another model or wording."""
        return calibration.apply(self)

    @cached_property
    def overall(self) -> Estimates:
        """Over all decisions, one threshold for all."""
        return self.estimate()

    @cached_property
    def groups(self) -> dict[str, Estimates]:
        """Per group of questions, both orders together."""
        return {g: self.estimate(group=g) for g in dict.fromkeys(q.group for q in self.questions)}

    @cached_property
    def made(self) -> dict[str, Estimates]:
        """Per rule that made wrong candidates ("digit", "entity"): each beside its twin, which holds the right one.

        Empty where nothing is proposed. Questions without a twin count under their own `made`.
        """
        rules = {q.pair: q.made for q in self.questions if q.pair is not None and q.label is False}
        of = [q.made if q.pair is None else rules.get(q.pair, q.made) for q in self.questions]
        return {rule: self._estimate(np.array([each == rule for each in of])) for rule in dict.fromkeys(of) if rule}

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
                f"{len(set(self.questions))}, and the "
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

    def to_dataframe(self) -> pd.DataFrame:
        """One row a decision: id, group, pair, order, label, logit_difference, answer_mass, answer, right.

        Where answers are proposed there is a column `made`, too.
        """
        yes = self.logit_differences < 0
        known = self.label is not None
        apart = {} if self.unsure is None else {"unsure": self.unsure}
        frame = pd.DataFrame(
            {
                "id": [q.id for q in self.questions],
                "group": [q.group for q in self.questions],
                "pair": [q.pair for q in self.questions],
                "order": self.order,
                "label": self.label if known else None,
                "logit_difference": self.logit_differences,
                "answer_mass": self.answer_masses,
                "answer": yes,
                "right": yes == self.label if known else None,
                **apart,
            }
        )
        return frame.assign(made=[q.made for q in self.questions]) if any(q.made for q in self.questions) else frame

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
        named = [part in ("all", f"order {o}", q.group) for q, o in zip(self.questions, self.order, strict=True)]
        return {"unsure": float(self.unsure[named].mean())}

    def save(self, path: str | Path) -> Path:
        """Writes JSON: the measures for readers, the decisions for `load`; raises as `write_result` does."""
        decisions = self.to_dataframe().drop(columns=["answer", "right"])
        decisions["question"] = [q.question for q in self.questions]
        decisions["label"] = [q.label for q in self.questions]
        # Each context once, as twins and orders share it.
        contexts = list(dict.fromkeys(q.context for q in self.questions if q.context is not None))
        place = {text: number for number, text in enumerate(contexts)}
        if contexts:
            decisions["context"] = [None if q.context is None else place[q.context] for q in self.questions]
        return write_result(
            path,
            {
                "kind": "binary_report",
                "verdict": self.verdict,
                "warnings": self.warnings,
                "overall": self.overall.to_dict(),
                "orders": {name: e.to_dict() for name, e in self.orders.items()},
                "groups": {name: e.to_dict() for name, e in self.groups.items()},
                "cells": {name: {o: e.to_dict() for o, e in cell.items()} for name, cell in self.cells.items()},
                **({"made": {name: e.to_dict() for name, e in self.made.items()}} if self.made else {}),
                **({"contexts": contexts} if contexts else {}),
                "run": self.run.to_dict(),
                "decisions": decisions.astype(object).where(decisions.notna(), None).to_dict(orient="records"),
            },
        )

    @classmethod
    def load(cls, path: str | Path) -> "BinaryReport":
        """Reads what `save` wrote; the measures are computed again from the decisions."""
        content = read_result(path, "binary_report", "a report of decisions", "write one with `nasa-interp decide`")
        with parsing_result(path, "decide again"):
            rows = content["decisions"]
            if bad := [row["id"] for row in rows if row["order"] not in ORDERS or row["logit_difference"] is None]:
                raise ValueError(f"no decision on {bad[0]!r}")
            return cls(
                np.array([row["logit_difference"] for row in rows], dtype=np.float64),
                np.array([row["answer_mass"] for row in rows], dtype=np.float64),
                tuple(row["order"] for row in rows),
                tuple(_question(row, content.get("contexts", [])) for row in rows),
                RunInfo.from_dict(content["run"]),
                np.array([bool(row["unsure"]) for row in rows]) if "unsure" in rows[0] else None,
            )

    def __repr__(self) -> str:
        e = self.overall
        shown = ", ".join(f"{name} {e.text(name)}" for name in ("accuracy", "precision", "recall", "imbalance", "auc"))
        return f"BinaryReport({self.run.summary()}; {shown})"

    def _repr_html_(self) -> str:
        table = self.summary_dataframe().to_html(index=False, float_format="%.3f")
        return "".join(f"<p>{html.escape(line)}</p>" for line in [self.verdict, *self.warnings]) + table


def _question(row: dict[str, Any], contexts: list[str]) -> BinaryQuestion:
    """The question of a saved decision."""
    context = None if row.get("context") is None else contexts[int(row["context"])]
    return BinaryQuestion(row["question"], row["label"], row["id"], row["group"], row["pair"], context, row.get("made"))
