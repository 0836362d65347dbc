"""Every decision of a run, and the measures of them overall, per group and per candidate order."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float, Int

from ..bootstrap import DRAWS, cluster_index, draw_weights
from ..prompts import ORDERS, Order
from ..questions import BinaryQuestion
from ..results import parsing_result, read_result, write_result
from ..run import RunInfo
from .measured import MeasuredDecisions, Measuring, Rows


@dataclass(frozen=True, repr=False)
class BinaryReport(MeasuredDecisions):
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

    @cached_property
    def clusters(self) -> Int[np.ndarray, " decision"]:
        """The number of each decision's cluster: what the bootstrap draws together, twins and both orders."""
        return cluster_index([q.id for q in self.questions], [q.pair for q in self.questions])

    @cached_property
    def group_of(self) -> pd.Categorical:
        """The group of each decision's question."""
        return _categories([q.group for q in self.questions])

    @cached_property
    def rule_of(self) -> pd.Categorical:
        """By which rule each decision's wrong candidate was made; of a right one, its twin's."""
        rules = {q.pair: q.made for q in self.questions if q.pair is not None and q.label is False}
        return _categories([q.made if q.pair is None else rules.get(q.pair, q.made) for q in self.questions])

    @property
    def n_questions(self) -> int:
        """How many questions were asked."""
        return len(set(self.questions))

    @cached_property
    def weights(self) -> Float[np.ndarray, "draw decision"]:
        """How often each decision counts in each draw of the bootstrap."""
        return draw_weights(self.clusters, self.run.draws or DRAWS, self.run.seed)

    def drawn(self, rows: Rows, found: Measuring) -> dict[str, Float[np.ndarray, " draw"]]:
        """What `found` makes of these decisions' weights in every draw of the bootstrap."""
        return found(self.weights[:, rows])

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
                **self.measures(),
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


def _categories(values: Sequence[str | None]) -> pd.Categorical:
    """The values as categories, in the order of their appearance; None is missing."""
    return pd.Categorical(values, list(dict.fromkeys(value for value in values if value)))


def _question(row: dict[str, Any], contexts: list[str]) -> BinaryQuestion:
    """The question of a saved decision."""
    context = None if row.get("context") is None else contexts[int(row["context"])]
    return BinaryQuestion(row["question"], row["label"], row["id"], row["group"], row["pair"], context, row.get("made"))
