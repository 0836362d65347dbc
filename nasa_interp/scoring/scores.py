"""The scores of all heads: a table whose columns part what a head does in each candidate order."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from jaxtyping import Float

from ..head_table import HeadTable


@dataclass(frozen=True, repr=False)
class HeadScores(HeadTable):
    """A score for every head, averaged over prompts; NaN means not measured.

    The columns are "values", the mean NAS in the yes_no order; "polarity", (yes_no + no_yes) / 2; and "recency",
    (yes_no - no_yes) / 2. The fields are those of a `HeadTable`.

    Source: values as in the paper; polarity, recency and intervals are ours.
    """

    quantity: str = "NAS"
    unit: str = "nats, summed over queries"

    KIND: ClassVar[str] = "head_scores"
    EARLIER_KINDS: ClassVar[tuple[str, ...]] = ()
    COLUMNS: ClassVar[Mapping[str, Mapping[str, float]]] = {
        "values": {"yes_no": 1.0},
        "polarity": {"yes_no": 0.5, "no_yes": 0.5},
        "recency": {"yes_no": 0.5, "no_yes": -0.5},
    }
    OWN_SIDES: ClassVar[Mapping[str, str]] = {"recency": "later"}
    LEADS: ClassVar[tuple[str, ...]] = ("polarity", "values")
    WRITER: ClassVar[str] = "`nasa-interp score`"

    @property
    def polarity(self) -> Float[np.ndarray, "layer head"]:
        """What attends to the negative candidate wherever it stands."""
        return self.columns["polarity"]

    @property
    def recency(self) -> Float[np.ndarray, "layer head"]:
        """Above 0, the head attends to the later candidate."""
        return self.columns["recency"]

    def _ranked_by(self, by: str) -> str:
        return by
