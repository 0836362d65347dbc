"""The untuned model's own decisions without their lean: what tuning without labels pulls toward."""

from collections import Counter
from collections.abc import Mapping

import numpy as np
from jaxtyping import Float, Int

from ..calibration.fit import offset_of
from ..prompts.rendering import turns_of
from ..session import PromptSet

# Questions of a kind from which its own offset is fitted.
LEAST = 8


def wordings_of(asked: PromptSet) -> Int[np.ndarray, " question"]:
    """Which of the style's instructions each question got."""
    return np.array(turns_of(asked.questions, len(asked.batches[0].style.instructions)), dtype=np.int64)


def strata_of(asked: PromptSet, by: str) -> Int[np.ndarray, " question"]:
    """The number of each question's stratum: its wording, or by "kind" its wording and kind (group) together.

    A kind of fewer than `LEAST` questions with a wording counts with the wording's others.
    """
    wording = wordings_of(asked)
    if by != "kind":
        return wording
    keys = [(int(w), q.group) for w, q in zip(wording, asked.questions, strict=True)]
    counted = Counter(keys)
    kept = [key if counted[key] >= LEAST else (key[0], None) for key in keys]
    names = list(dict.fromkeys(kept))
    return np.array([names.index(key) for key in kept], dtype=np.int64)


def own_decisions(
    d: Mapping[str, Float[np.ndarray, " question"]], stratum: Int[np.ndarray, " question"], prior: float
) -> dict[str, Float[np.ndarray, " question"]]:
    """d in each order, less what a calibration takes off, fitted for every stratum and order by itself.

    Args:
        d: of the untuned model, by order.
        stratum: as `strata_of`.
        prior: how often yes is expected, in every stratum.
    """
    own = {order: values.copy() for order, values in d.items()}
    for values in own.values():
        for each in np.unique(stratum):
            rows = stratum == each
            values[rows] -= offset_of(values[rows], np.ones((1, int(rows.sum()))), prior, "mean")[0]
    return own
