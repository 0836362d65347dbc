"""Is No a shortcut where knowledge is missing? The imbalance there, less that where the model knows."""

from dataclasses import dataclass

import numpy as np

from ..bootstrap import DRAWS, draw_weights, interval
from ..decisions import BinaryReport
from ..errors import ResultError
from ..measures import measure_draws
from .value import Knowledge, State

# Questions that a side needs for an interval over them to mean something.
FEWEST = 8


@dataclass(frozen=True)
class Shortcut:
    """How much more often No is said where the model doesn't know.

    Args:
        missing: the state that is compared with "knows".
        change: imbalance there - imbalance where the model knows.
        low, high: its 95% interval, over questions.
        n_missing, n_known: short questions on either side; twins are of one.
        data: what was asked, form: how.
    """

    missing: State
    change: float
    low: float
    high: float
    n_missing: int
    n_known: int
    data: str = ""
    form: str = ""

    @property
    def few(self) -> bool:
        """Whether a side has too few questions to tell."""
        return min(self.n_missing, self.n_known) < FEWEST

    @property
    def told(self) -> str:
        """The claim, what was found, and what would refute it."""
        numbers = f"{self.change:+.2f} [{self.low:+.2f}, {self.high:+.2f}]"
        asked = ", ".join(filter(None, (self.data, self.form)))
        n = f"{asked}; {self.missing} against knows, {self.n_missing} and {self.n_known} questions"
        if self.few:
            verdict = f"too few to tell: either side needs {FEWEST}"
        elif np.isnan(self.low) or self.low <= 0 <= self.high:
            verdict = "not shown: the interval holds 0"
        else:
            verdict = "shown" if self.low > 0 else "refuted: Yes is said more often there"
        return f"No is a shortcut where knowledge is missing ({n}): imbalance {numbers}; {verdict}."


def shortcut(report: BinaryReport, knowledge: Knowledge, missing: State = "doesn't know") -> Shortcut:
    """The imbalance where the model doesn't know less that where it knows, drawn together.

    Args:
        report: decisions on the yes-no questions of those that were asked openly.
        knowledge: what the model knows of them.
        missing: which state is compared with "knows".

    Raises:
        ResultError: no decisions on either side, or no labels.

    Source: the claim is the follow-up's (arXiv 2511.10881); the measure is ours. It is refuted by an interval that lies
    below 0, and not shown by one that holds it.
    """
    if report.label is None:
        raise ResultError("the imbalance takes labels; ask labeled questions")
    states = [knowledge.of(question) for question in report.questions]
    sides = [np.array([state == wanted for state in states]) for wanted in (missing, "knows")]
    if not all(side.any() for side in sides):
        counts = ", ".join(
            f"{int(side.sum())} of {name!r}" for side, name in zip(sides, (missing, "knows"), strict=True)
        )
        raise ResultError(f"the decisions can't be compared: {counts}; ask more questions")
    weights = draw_weights(report.clusters, report.run.draws or DRAWS, report.run.seed)
    once = np.ones((1, len(states)), dtype=np.float32)
    (now,), drawn = (_difference(report, sides, w) for w in (once, weights))
    low, high = interval(drawn)
    n_missing, n_known = (len(np.unique(report.clusters[side])) for side in sides)
    return Shortcut(missing, float(now), float(low), float(high), n_missing, n_known, report.run.data)


def _difference(report: BinaryReport, sides: list[np.ndarray], weights: np.ndarray) -> np.ndarray:
    label = report.label
    assert label is not None
    values = [
        measure_draws(report.logit_differences[s], label[s], report.answer_masses[s], weights[:, s])["imbalance"]
        for s in sides
    ]
    return values[0] - values[1]
