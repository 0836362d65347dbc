"""The untuned model's own decisions without their lean: what tuning without labels pulls toward."""

from collections.abc import Mapping

import numpy as np
from jaxtyping import Float, Int

from ..calibration.fit import offset_of
from ..prompts.rendering import turns_of
from ..session import PromptSet


def wordings_of(asked: PromptSet) -> Int[np.ndarray, " question"]:
    """Which of the style's instructions each question got."""
    return np.array(turns_of(asked.questions, len(asked.batches[0].style.instructions)), dtype=np.int64)


def own_decisions(
    d: Mapping[str, Float[np.ndarray, " question"]], wording: Int[np.ndarray, " question"], prior: float
) -> dict[str, Float[np.ndarray, " question"]]:
    """d in each order, less what a calibration takes off, fitted for every wording and order by itself.

    Args:
        d: of the untuned model, by order.
        wording: as `wordings_of`.
        prior: how often yes is expected.
    """
    own = {order: values.copy() for order, values in d.items()}
    for values in own.values():
        for instruction in np.unique(wording):
            rows = wording == instruction
            values[rows] -= offset_of(values[rows], np.ones((1, int(rows.sum()))), prior, "mean")[0]
    return own
