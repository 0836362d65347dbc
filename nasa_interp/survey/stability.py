"""How many questions it takes until the leading heads settle."""

from collections.abc import Sequence

import numpy as np
import pandas as pd

from ..errors import ResultError
from ..scoring import HeadScores

SIZES = (4, 8, 16, 32, 64, 128, 256)


def settling(
    scores: HeadScores, k: int = 10, sizes: Sequence[int] = SIZES, draws: int = 200, seed: int = 0
) -> pd.DataFrame:
    """How many of the top heads two disjoint draws of n questions share, against chance.

    Args:
        scores: with each prompt's numbers, in both orders.
        k: heads at the top, by polarity.
        sizes: numbers of questions; those over half of the questions are left out.
        draws: pairs of draws for each size. seed: of them.

    Returns:
        One row a size: n, shared (mean), low and high (95% of the draws), k, chance.

    Raises:
        ResultError: without each prompt's numbers, or with fewer than twice the smallest size.

    Source: ours; twins aren't kept together, so that few questions are as different as they can be.
    """
    if len(scores.per_prompt) < 2:
        raise ResultError("scores of both orders with each prompt's numbers are needed; score again, in both orders")
    polarity = np.mean([values for values in scores.per_prompt.values()], axis=0)
    n, n_heads = len(polarity), int(np.isfinite(np.nanmean(polarity, axis=0)).sum())
    fitting = [size for size in sizes if 2 * size <= n]
    if not fitting:
        raise ResultError(f"{n} questions can't be parted into two draws of {min(sizes)}; score more")
    rng, rows = np.random.default_rng(seed), []
    flat = polarity.reshape(n, -1)
    for size in fitting:
        shared = [_shared(flat, rng.permutation(n)[: 2 * size], k) for _ in range(draws)]
        low, high = np.quantile(shared, [0.025, 0.975])
        mean = float(np.mean(shared))
        rows.append({"n": size, "shared": mean, "low": low, "high": high, "k": k, "chance": k * k / n_heads})
    return pd.DataFrame(rows)


def _shared(flat: np.ndarray, drawn: np.ndarray, k: int) -> int:
    """How many of the top k are the same in both halves of these prompts; heads that are NaN come last."""
    halves = np.split(drawn, 2)
    tops = [set(np.argsort(-np.nan_to_num(flat[half].mean(0), nan=-np.inf), kind="stable")[:k]) for half in halves]
    return len(tops[0] & tops[1])
