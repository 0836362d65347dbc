"""Do two data sets name the same heads? Rank overlap against chance."""

from dataclasses import dataclass

import numpy as np
from scipy.stats import hypergeom, spearmanr

from ..errors import ResultError
from ..heads import Head, Toward
from .scores import HeadScores


@dataclass(frozen=True)
class RankOverlap:
    """How far two rankings agree.

    Args:
        k: heads taken from the top of each.
        shared: heads in both tops, in the order of the first.
        expected: how many two random rankings would share on average.
        p: probability that random rankings share as many or more (hypergeometric).
        spearman: rank correlation over all heads measured in both.
        by: what was ranked.
        toward: to which side the heads look.
    """

    k: int
    shared: tuple[Head, ...]
    expected: float
    p: float
    spearman: float
    by: str
    toward: Toward = "no"

    def __str__(self) -> str:
        return (
            f"{len(self.shared)} of the top {self.k} by {self.by} are shared (chance {self.expected:.1f}, "
            f"p = {self.p:.1e}); rank correlation over all heads {self.spearman:.2f}"
        )


def chance_overlap(n: int, first: int, second: int, shared: int) -> tuple[float, float]:
    """How many of n heads two random lists of these lengths share on average, and how likely they share as many."""
    return first * second / n, float(hypergeom.sf(shared - 1, n, first, second))


def rank_overlap(a: HeadScores, b: HeadScores, k: int = 10, by: str = "values", toward: Toward = "no") -> RankOverlap:
    """Compares the rankings of the same model's heads on two data sets; `k`, `by` and `toward` as for `top`.

    Raises:
        ResultError: where the two have another number of heads.

    Source: the paper reports that the top heads are largely the same across data sets; the test is ours.
    """
    if a.shape != b.shape:
        raise ResultError(
            f"rankings of {a.shape} and {b.shape} heads are of two models; compare one model's on two data sets"
        )
    measured = ~np.isnan(a.get(by)) & ~np.isnan(b.get(by))
    top_a, top_b = (scores.top(k, by, toward=toward) for scores in (a, b))
    shared = tuple(head for head in top_a if head in top_b)
    n = int(measured.sum())
    expected, p = chance_overlap(n, len(top_a), len(top_b), len(shared))
    rho = np.asarray(spearmanr(a.get(by)[measured], b.get(by)[measured]))[0]
    return RankOverlap(k, shared, expected, p, float(rho), by, toward)
