"""What the follow-up's claims come to on a model: differences between cells, with intervals over questions."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from ..bootstrap import interval
from ..decisions import BinaryReport, MeasuredDecisions
from ..measures import measure_draws

Reports = Mapping[tuple[str, str], MeasuredDecisions]


@dataclass(frozen=True)
class Claim:
    """A claim on one data set.

    Args:
        claim: in words.
        data: where it was looked for.
        compared: which cells.
        value: above 0 it holds.
        low, high: the 95% interval, over questions.
        n: questions.
    """

    claim: str
    data: str
    compared: str
    value: float
    low: float
    high: float
    n: int

    @property
    def told(self) -> str:
        """The claim, the number, and whether it stands."""
        stands = "stands" if self.low > 0 else "is refuted" if self.high < 0 else "is not shown"
        numbers = f"{self.value:+.2f} [{self.low:+.2f}, {self.high:+.2f}], {self.n} questions"
        return f"{self.claim} ({self.data}; {self.compared}): {numbers}; it {stands}."


def claims_of(reports: Reports) -> tuple[Claim, ...]:
    """Each of the follow-up's claims on every data set that was asked in the forms it takes.

    - *Format over meaning*: with the meaning of the words turned around, the imbalance of words is the mean over both
      forms, that of meaning half their difference. The claim is that the first is the larger by size.
    - *Context helps*, *"I don't know" helps*: the imbalance by size falls.
    - *Chain of thought hurts*: it rises.

    Sizes are taken within each candidate order and then averaged: opposite leanings don't cancel.

    Source: the claims are the follow-up's (arXiv 2511.10881), the measures ours. That No is a shortcut without
    knowledge takes what the model knows: `ni.knowledge.shortcut`.
    """
    found = []
    for data in dict.fromkeys(data for data, _ in reports):
        found += [_compared(claim, reports, (data, a), (data, b), value) for claim, a, b, value in _BETWEEN_FORMS]
        closed, _, context = data.partition("#")
        if context and (closed, "yes-no") in reports:
            found.append(_compared("context reduces the bias", reports, (closed, "yes-no"), (data, "yes-no"), _fallen))
    return tuple(claim for claim in found if claim is not None)


Imbalance = Float[np.ndarray, "order draw"]
Value = Float[np.ndarray, " draw"]


def _words(straight: Imbalance, turned: Imbalance) -> Value:
    """By how much the words' part of the imbalance exceeds the meaning's."""
    return (np.abs(straight + turned) / 2 - np.abs(straight - turned) / 2).mean(0)


def _fallen(before: Imbalance, after: Imbalance) -> Value:
    return (np.abs(before) - np.abs(after)).mean(0)


_BETWEEN_FORMS = (
    ("the bias belongs to the words more than to their meaning", "meaning", "reversed", _words),
    ('"I don\'t know" reduces the bias', "yes-no", "unsure", _fallen),
    ("chain of thought amplifies the bias", "think", "yes-no", _fallen),
)


def _compared(
    claim: str,
    reports: Reports,
    first: tuple[str, str],
    second: tuple[str, str],
    value: Callable[[Imbalance, Imbalance], Value],
) -> Claim | None:
    """The claim on the questions that both cells asked; None where one of them is missing."""
    if first not in reports or second not in reports:
        return None
    pair = _alike(reports[first], reports[second])
    if pair is None:
        return None

    def found(weights: Float[np.ndarray, "draw row"]) -> dict[str, Float[np.ndarray, " kept"]]:
        return {"value": value(*(_imbalance(report, weights) for report in pair))}

    n = len(pair[0].order)
    (now,) = found(np.ones((1, n), dtype=np.float32))["value"]
    low, high = interval(pair[0].drawn(np.ones(n, dtype=bool), found)["value"])
    compared = f"{first[1]} against {second[1]}" if first[0] == second[0] else f"{first[0]} against {second[0]}"
    return Claim(claim, second[0], compared, float(now), float(low), float(high), pair[0].n_questions)


def _alike(one: MeasuredDecisions, other: MeasuredDecisions) -> tuple[MeasuredDecisions, MeasuredDecisions] | None:
    """Both reports on the decisions that they share, in one order; None where there are none or no labels."""
    if one.label is None or other.label is None:
        return None
    if not (isinstance(one, BinaryReport) and isinstance(other, BinaryReport)):
        # Streams are asked whole: they are alike or not.
        same = one.order == other.order and np.array_equal(one.clusters, other.clusters)
        return (one, other) if same else None
    places = [{(q.id, o): i for i, (q, o) in enumerate(zip(r.questions, r.order, strict=True))} for r in (one, other)]
    shared = [key for key in places[0] if key in places[1]]
    if not shared:
        return None
    first, second = (
        report.select([at[key] for key in shared]) for report, at in zip((one, other), places, strict=True)
    )
    return first, second


def _imbalance(report: MeasuredDecisions, weights: Float[np.ndarray, "draw decision"]) -> Imbalance:
    """In each order, of the decisions that are none of the third candidate's."""
    label, order = report.label, np.array(report.order)
    assert label is not None
    decided = np.ones(len(label), dtype=bool) if report.unsure is None else ~report.unsure
    found = []
    for each in dict.fromkeys(report.order):
        rows = decided & (order == each)
        if not rows.any():
            found.append(np.full(len(weights), np.nan))
            continue
        d, mass = report.logit_differences[rows], report.answer_masses[rows]
        found.append(measure_draws(d, label[rows], mass, weights[:, rows])["imbalance"])
    return np.stack(found)
