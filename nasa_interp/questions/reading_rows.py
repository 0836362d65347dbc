"""Rows of a data set one by one: each gives questions, is left out with its reason, or is bad; none vanishes."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from ..errors import QuestionError
from .question import BinaryQuestion, Skipped


@dataclass(frozen=True)
class BadRow:
    """A row that can't be read: its place ("file, row 3") and the error that says why."""

    place: str
    error: QuestionError

    @property
    def skipped(self) -> Skipped:
        """The row as one that is left out; the place stands once."""
        return Skipped(self.place, str(self.error).removeprefix(self.place).lstrip(":, "))


Item = BinaryQuestion | Skipped | BadRow
"""What a source returns for its rows, in their order."""


class NamedRows(list[Item]):
    """What a source returns where the data specification alone doesn't say which data these are."""

    def __init__(self, items: Iterable[Item], name: str):
        super().__init__(items)
        self.name = name


def read_each(
    rows: Iterable[tuple[str, Any]], read: Callable[[str, Any], Sequence[BinaryQuestion] | Skipped]
) -> list[Item]:
    """Reads row after row, and keeps going behind a bad one.

    Args:
        rows: pairs of place and row; an error in the row's stead makes it a bad one.
        read: the questions of one row, or why it has none; raises QuestionError for a bad row.

    Returns:
        Questions, rows left out and bad rows, in order. A row with an id that an earlier one has is bad.
    """
    items: list[Item] = []
    places: dict[str, str] = {}
    for place, row in rows:
        try:
            if isinstance(row, QuestionError):
                raise row
            found = read(place, row)
            if not isinstance(found, Skipped):
                _check_new(place, found, places)
        except QuestionError as error:
            where = str(error).startswith(place)
            items.append(BadRow(place, error if where else QuestionError(f"{place}: {error}")))
            continue
        items += [found] if isinstance(found, Skipped) else found
    return items


def _check_new(place: str, questions: Sequence[BinaryQuestion], places: dict[str, str]) -> None:
    """Raises QuestionError where an earlier row has one of these ids; else remembers them."""
    for question in questions:
        if question.id in places:
            raise QuestionError(
                f"{place} and {places[question.id]} share the id {question.id!r}; give each its own, or drop one"
            )
    places.update({question.id: place for question in questions})


def sort_items(items: Iterable[Item], skip_bad: bool) -> tuple[list[BinaryQuestion], list[Skipped]]:
    """The questions, and the rows that are left out.

    Raises:
        QuestionError: the first bad row's own, unless bad rows are skipped.
    """
    questions: list[BinaryQuestion] = []
    skipped: list[Skipped] = []
    for item in items:
        if isinstance(item, BadRow):
            if not skip_bad:
                raise item.error
            skipped.append(item.skipped)
        elif isinstance(item, Skipped):
            skipped.append(item)
        else:
            questions.append(item)
    return questions, skipped
