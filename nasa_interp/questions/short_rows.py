"""The rows of a data set with short answers: as yes-no questions, or as the short questions themselves."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from ..errors import QuestionError
from .reading_rows import Item, read_each
from .short import ShortQuestion


@dataclass(frozen=True)
class ShortRows:
    """Rows that are read one by one.

    Args:
        rows: pairs of place and row; an error in the row's stead makes it a bad one.
        read: the question of one row; raises QuestionError for a bad row.
        seed: of wrong answers.
    """

    rows: Iterable[tuple[str, Any]]
    read: Callable[[str, Any], ShortQuestion]
    seed: int = 0

    def twins(self) -> list[Item]:
        """Two questions a row, one proposing the right answer, one a wrong one; and what gave none."""
        return read_each(self.rows, lambda place, row: self.read(place, row).twins(place, self.seed))

    def questions(self) -> list[ShortQuestion]:
        """The short questions; raises the first bad row's error."""
        found = []
        for place, row in self.rows:
            if isinstance(row, QuestionError):
                raise row
            found.append(self.read(place, row))
        return found
