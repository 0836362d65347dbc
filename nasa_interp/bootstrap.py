"""Intervals by resampling questions, twins and both orders of a question always drawn together."""

import math
from collections.abc import Iterable, Sequence
from hashlib import blake2b

import numpy as np
from jaxtyping import Float, Int, UInt64

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


# Poisson(1) as thresholds on 64 random bits: a draw is the number of thresholds at or below them.
_POISSON = np.array(
    [int(sum(math.exp(-1) / math.factorial(k) for k in range(n + 1)) * 2**64) for n in range(16)], dtype=np.uint64
)


def cluster_keys(ids: Sequence[str], pairs: Sequence[str | None]) -> UInt64[np.ndarray, " question"]:
    """A number for each question's cluster that depends on the cluster's name alone, as `cluster_index` groups them."""
    names = [f"id {id_}" if pair is None else f"pair {pair}" for id_, pair in zip(ids, pairs, strict=True)]
    return _hashes(names)


def poisson_weights(keys: UInt64[np.ndarray, " item"], draws: range, seed: int = 0) -> Float[np.ndarray, "draw item"]:
    """How often each item counts in these draws of a Poisson bootstrap: Poisson(1), whatever the other items are.

    Unlike `draw_weights` it needs neither the number of clusters nor all of them at once: a weight follows from the
    cluster's key, the draw and the seed alone, so that parts of a sample can be weighted in any order and place.

    Args:
        keys: of the items' clusters, from `cluster_keys`.
        draws: which draws.

    Source: the Poisson bootstrap of Hanley and MacGibbon (2006); the bits are mixed as in SplitMix64 (Steele et al.
    2014).
    """
    own = _hashes(f"draw {draw} of seed {seed}" for draw in draws)
    bits = _mixed(keys[None] ^ own[:, None])
    return np.searchsorted(_POISSON, bits, side="right").astype(np.float32)


def _hashes(texts: Iterable[str]) -> UInt64[np.ndarray, " text"]:
    """The first 64 bits of each text's BLAKE2b."""
    whole = (blake2b(text.encode(), digest_size=8).digest() for text in texts)
    return np.array([int.from_bytes(digest) for digest in whole], dtype=np.uint64)


def _mixed(bits: UInt64[np.ndarray, "*rest"]) -> UInt64[np.ndarray, "*rest"]:
    """Each number's bits mixed, so that neighbours have nothing in common."""
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        bits = (bits ^ (bits >> np.uint64(shift))) * np.uint64(factor)
    return bits ^ (bits >> np.uint64(31))


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
