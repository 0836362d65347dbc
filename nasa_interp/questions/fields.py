"""Fields of a data set's rows: text where text must be, or one line that says what is there instead."""

import unicodedata
from collections.abc import Mapping
from typing import Any

from ..errors import QuestionError
from ..reading import shown

LONGEST = 100_000  # characters of a field; a whole paragraph of any of the data sets has a few thousand
_LINES = "\n\r\t"


def text_field(place: str, row: Any, name: str, source: str) -> str:
    """A field that must be a text, stripped of white space around it.

    Args:
        place: of the row, for errors.
        row: its fields by name.
        name: of the field.
        source: the data set, for the question that errors ask ("is it GSM8K?").

    Raises:
        QuestionError: naming place and field, where it is missing, null, no text, empty, over `LONGEST` characters, or
            holds control characters.
    """
    value = field_of(place, row, name, source)
    if not isinstance(value, str) or not value.strip():
        raise QuestionError(f"{place}: the {name} is {shown(value)}, not a text; fill it in or drop the row")
    return checked_text(place, name, value)


def checked_text(place: str, name: str, text: str) -> str:
    """The text without white space around it; raises QuestionError where it is too long, or no readable text."""
    if len(text) > LONGEST:
        raise QuestionError(
            f"{place}: the {name} has {len(text):,} characters, more than {LONGEST:,}; cut it or drop the row"
        )
    # Cs are halves of surrogate pairs, which are no text.
    control = next((c for c in text if unicodedata.category(c) in ("Cc", "Cs") and c not in _LINES), None)
    if control is not None:
        raise QuestionError(f"{place}: the {name} holds the control character {control!r}; take it out or drop the row")
    return text.strip()


def field_of(place: str, row: Any, name: str, source: str) -> Any:
    """A field's value; raises QuestionError where the row is no object, or has no such field, or null in it."""
    if not isinstance(row, Mapping):
        raise QuestionError(f"{place} is {type(row).__name__}, not an object with fields; is it {source}?")
    if name not in row:
        found = ", ".join(map(shown, row)) or "nothing"
        raise QuestionError(f"{place}: no field {name!r} (found: {found}); is it {source}?")
    if row[name] is None:
        raise QuestionError(f"{place}: the {name} is missing; fill it in or drop the row")
    return row[name]


def list_field(place: str, row: Any, name: str, source: str) -> list[Any]:
    """A field that must be a list with something in it; raises QuestionError where it is missing or something else."""
    value = field_of(place, row, name, source)
    if not isinstance(value, list) or not value:
        raise QuestionError(f"{place}: the {name} is {shown(value)}, not a list of some; is it {source}?")
    return value
