"""Intervals by resampling questions, twins and both orders of a question always drawn together."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, Int

from .errors import ResultError

DRAWS = 1000
LEVEL = 0.95


def cluster_index(ids: Sequence[str], pairs: Sequence[str | None]) -> Int[np.ndarray, " question"]:
    """The number of each question's cluster: twins (`pair`) share one, a question without a twin is its own.

    Args:
        ids, pairs: each question's id, and the pair that it belongs to, None without a twin.
    """
    keys = [("pair", pair) if pair is not None else ("id", id_) for id_, pair in zip(ids, pairs, strict=True)]
    numbers = {key: number for number, key in enumerate(dict.fromkeys(keys))}
    return np.array([numbers[key] for key in keys], dtype=np.int64)


def draw_weights(
    clusters: Int[np.ndarray, " item"], draws: int = DRAWS, seed: int = 0
) -> Float[np.ndarray, "draw item"]:
    """How often each item occurs in each bootstrap draw: clusters are drawn with replacement, items follow theirs.

    One cluster alone doesn't show how others would scatter; see `scatters`.
    """
    if draws < 1:
        raise ResultError(f"{draws} bootstrap draws give no interval; ask for 1 or more")
    n = int(clusters.max()) + 1
    counts = np.random.default_rng(seed).multinomial(n, np.full(n, 1 / n), size=draws)
    return counts[:, clusters].astype(np.float32)


def scatters(clusters: Int[np.ndarray, " item"]) -> bool:
    """Whether there is more than one cluster; with one alone, an interval would have no width and mislead."""
    return len(np.unique(clusters)) > 1


def interval(samples: Float[np.ndarray, "draw *rest"], level: float = LEVEL) -> Float[np.ndarray, "2 *rest"]:
    """Percentile interval over the draws (95%); draws that are NaN are left out, and with none left it is NaN."""
    if not len(samples):
        return np.full((2, *samples.shape[1:]), np.nan)
    tail = (1 - level) / 2
    undefined = np.isnan(samples)
    if not undefined.any():
        return np.quantile(samples, [tail, 1 - tail], axis=0)
    all_undefined = undefined.all(0)
    low, high = np.nanquantile(np.where(all_undefined, 0.0, samples), [tail, 1 - tail], axis=0)
    return np.stack([np.where(all_undefined, np.nan, low), np.where(all_undefined, np.nan, high)])


def cluster_interval(
    samples: Float[np.ndarray, "draw *rest"], clusters: Int[np.ndarray, " item"]
) -> Float[np.ndarray, "2 *rest"]:
    """`interval`, or NaN where all items are one cluster."""
    return interval(samples) if scatters(clusters) else np.full((2, *samples.shape[1:]), np.nan)
