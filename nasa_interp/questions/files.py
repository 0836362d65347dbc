"""Questions from the user's own file: JSON lines or CSV with the columns `question` and, where it is known, `label`."""

import io
import json
from pathlib import Path
from typing import Any

from ..errors import QuestionError
from ..reading import parse_json, read_table, read_text
from .reading_rows import Item
from .rows import questions_of, text_of

SUFFIXES = (".jsonl", ".csv")


def load_file(path: str, split: str | None = None, unlabeled: bool = False) -> list[Item]:
    """Reads a `.jsonl` or `.csv` file.

    Each row has `question`, has `label` unless no row has one, and may have `id`, `group`, `pair`, `context` and
    `split`.

    Args:
        path: the file; its suffix says which format.
        split: keep only the rows with this `split`.
        unlabeled: leave the labels out, whatever the rows have.

    Returns:
        The questions in the file's order, with the bad rows among them: a missing field, a wrong label, no JSON.

    Raises:
        QuestionError: naming the file, where it can't be read, is no CSV, or has no rows of this split.
    """
    rows = _rows(Path(path))
    splits = [None if isinstance(row, QuestionError) else text_of(location, row, "split") for location, row in rows]
    if split is not None and split not in splits:
        known = ", ".join(sorted({name for name in splits if name}))
        told = f"it has {known}" if known else f"no row says its split; leave '#{split}' out, or add a column 'split'"
        raise QuestionError(f"{path} has no rows of split {split!r}; {told}")
    # A row that can't be read may be of any split.
    pairs = zip(rows, splits, strict=True)
    return questions_of([r for r, own in pairs if split in (None, own) or isinstance(r[1], QuestionError)], unlabeled)


def _rows(path: Path) -> list[tuple[str, Any]]:
    """Pairs of location and row, or the error in its stead."""
    if path.suffix.lower() == ".csv":
        return list(read_table(path, QuestionError)[1])
    return [(location, checked_row(location, row)) for location, row in json_lines(path)]


def checked_row(location: str, row: Any) -> Any:
    if isinstance(row, (dict, QuestionError)):
        return row
    return QuestionError(f"{location} is {type(row).__name__}; write an object with 'question' and 'label'")


def json_lines(path: str | Path) -> list[tuple[str, Any]]:
    """Pairs of location ("file, line 3") and value of a file with one JSON value a line.

    A line that is no JSON has its error in the value's stead; raises QuestionError where the file can't be read.
    """
    # Universal newlines: inside a JSON string, a line break is always escaped.
    lines = enumerate(io.StringIO(read_text(path, QuestionError), newline=None), start=1)
    placed = [(f"{path}, line {number}", line) for number, line in lines if line.strip()]
    return [(place, json_value(place, line)) for place, line in placed]


def json_value(location: str, line: str) -> Any:
    try:
        return parse_at(location, line, "write one JSON object a line")
    except QuestionError as error:
        return error


def parse_at(location: str, text: str, wanted: str) -> Any:
    """The value of a JSON text; raises QuestionError with its location and what is wanted there."""
    try:
        return parse_json(text)
    except json.JSONDecodeError as error:
        raise QuestionError(f"{location} is not JSON ({error}); {wanted}") from error
    except ValueError as error:
        raise QuestionError(f"{location}: {error}") from error
