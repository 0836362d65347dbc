"""Reading the right decision from whatever a data file calls it."""

from typing import Any

from ..errors import QuestionError

_LABELS = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}


def parse_label(value: Any, place: str) -> bool:
    """True for yes: accepts true/false, yes/no and 1/0 in any case, as text, number or boolean.

    Raises QuestionError naming `place` (file and row) for anything else.
    """
    text = str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)
    label = _LABELS.get(text.strip().lower())
    if label is None:
        raise QuestionError(f"{place}: label {value!r} is none of true/false, yes/no, 1/0; correct that row")
    return label
