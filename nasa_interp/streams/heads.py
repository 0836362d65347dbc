"""Means by head over parts on disk, with intervals: only sums are held."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float

from ..bootstrap import DRAWS, cluster_keys, interval, poisson_weights
from ..head_table import HeadTable
from ..run import RunInfo
from .parts import Parts


@dataclass(frozen=True, eq=False)
class MeanByHead:
    """The mean over all prompts, and in each draw of a Poisson bootstrap, by candidate order.

    Args:
        means: the first row over all prompts as they are, then one row a draw.
        n_clusters: how many pairs and single questions there are; one alone gives no interval.
        run: where they came from.
    """

    means: dict[str, Float[np.ndarray, "row layer head"]]
    n_clusters: int
    run: RunInfo

    @classmethod
    def over(cls, parts: Parts, run: RunInfo, shape: tuple[int, int]) -> "MeanByHead":
        """The means of the columns "nas_ORDER" of these parts, which are added up in their order."""
        draws, n_heads = run.draws or DRAWS, shape[0] * shape[1]
        sums = {order: np.zeros((2, draws + 1, n_heads)) for order in run.orders}
        first, several = None, False
        for part in parts:
            keys = cluster_keys(part.table["id"].to_pylist(), part.table["pair"].to_pylist())
            first = keys[0] if first is None else first
            several = several or bool((keys != first).any())
            weights = np.concatenate([np.ones((1, len(keys))), poisson_weights(keys, range(draws), run.seed)])
            for order, (totals, counts) in sums.items():
                numbers = _numbers(part.table[f"nas_{order}"], n_heads)
                measured = ~np.isnan(numbers)
                totals += weights @ np.where(measured, numbers, 0.0)
                counts += weights @ measured
        with np.errstate(invalid="ignore", divide="ignore"):
            means = {o: np.where(c > 0, t / c, np.nan).reshape(-1, *shape) for o, (t, c) in sums.items()}
        return cls(means, 2 if several else 1, run)

    def columns(self, kind: type[HeadTable]) -> dict[str, Float[np.ndarray, "layer head"]]:
        """The columns of a kind of table."""
        return {name: grids[0] for name, grids in kind.combine(self.means).items()}

    def intervals(self, kind: type[HeadTable]) -> dict[str, Float[np.ndarray, "2 layer head"]]:
        """Their intervals; NaN where all prompts are of one cluster."""
        drawn = {name: grids[1:] for name, grids in kind.combine(self.means).items()}
        ends = {name: interval(grids) for name, grids in drawn.items()}
        return ends if self.n_clusters > 1 else {name: np.full_like(each, np.nan) for name, each in ends.items()}


def _numbers(column: Any, n_heads: int) -> Float[np.ndarray, "prompt head"]:
    lists = column.combine_chunks()
    flat = (lists.chunk(0) if hasattr(lists, "chunk") else lists).flatten()
    return flat.to_numpy(zero_copy_only=False).astype(np.float64).reshape(-1, n_heads)
