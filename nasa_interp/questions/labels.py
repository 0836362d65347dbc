"""Reads the right decision in any of the ways that data files write it."""

from typing import Any

import numpy as np

from ..errors import QuestionError
from ..reading import shown

_LABELS: dict[str | float, bool] = {
    **dict.fromkeys(("true", "yes", "1", "1.0", 1), True),
    **dict.fromkeys(("false", "no", "0", "0.0", 0), False),
}


def parse_label(value: Any, location: str) -> bool:
    """True for yes: accepts true/false, yes/no and 1/0 in any case, as text, number or boolean, NumPy's included.

    Raises QuestionError naming `location` (file and row) for anything else.
    """
    if isinstance(value, np.generic):
        value = value.item()
    # True, 1 and 1.0 are one key.
    key = value.strip().lower() if isinstance(value, str) else value
    label = _LABELS.get(key) if isinstance(key, (str, int, float)) else None
    if label is None:
        raise QuestionError(f"{location}: label {shown(value)} is none of true/false, yes/no, 1/0; correct that row")
    return label
