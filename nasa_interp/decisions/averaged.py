"""Decisions made of several passes: each question by the mean over both candidate orders."""

from dataclasses import replace

import numpy as np
from jaxtyping import Float

from ..errors import ResultError
from .report import BinaryReport


def average_orders(report: BinaryReport) -> BinaryReport:
    """Each question decided by the mean of its d in both candidate orders: two passes, and no order to depend on.

    Raises:
        ResultError: a question that wasn't asked in both orders.

    Source: ours; averaging over permutations of the options is a common remedy.
    """
    by_id: dict[str, list[int]] = {}
    for row, q in enumerate(report.questions):
        by_id.setdefault(q.id, []).append(row)
    if once := next((name for name, rows in by_id.items() if len(rows) < 2), None):
        raise ResultError(f"question {once!r} was asked in one order only; decide with order='both'")
    means = {name: report.logit_differences[rows].mean() for name, rows in by_id.items()}
    return without_mass(report, np.array([means[q.id] for q in report.questions]), "mean over both orders")


def without_mass(report: BinaryReport, d: Float[np.ndarray, " decision"], note: str) -> BinaryReport:
    """The report with other d, which are no model's own and so have no answer mass; the run notes why."""
    run = replace(report.run, notes=(*report.run.notes, note))
    return replace(report, logit_differences=d, answer_masses=np.full(len(d), np.nan), run=run)
