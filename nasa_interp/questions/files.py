"""Questions from the user's own file: JSON lines or CSV with the columns `question` and, where it is known, `label`."""

import io
import json
from pathlib import Path
from typing import Any

from ..errors import QuestionError
from ..reading import parse_json, read_table, read_text
from .question import BinaryQuestion
from .rows import questions_of, text_of

SUFFIXES = (".jsonl", ".csv")


def load_file(path: str, split: str | None = None, unlabeled: bool = False) -> list[BinaryQuestion]:
    """Reads a `.jsonl` or `.csv` file.

    Each row has `question`, has `label` unless no row has one, and may have `id`, `group`, `pair` and `split`.

    Args:
        path: the file; its suffix says which format.
        split: keep only the rows with this `split`.
        unlabeled: leave the labels out, whatever the rows have.

    Returns:
        The questions in the file's order.

    Raises:
        QuestionError: naming file and row, for a missing field, a wrong label or a row that can't be read.
    """
    rows = _rows(Path(path))
    splits = [text_of(location, row, "split") for location, row in rows]
    if split is not None and split not in splits:
        known = ", ".join(sorted({name for name in splits if name}))
        told = f"it has {known}" if known else f"no row says its split; leave '#{split}' out, or add a column 'split'"
        raise QuestionError(f"{path} has no rows of split {split!r}; {told}")
    return questions_of([row for row, own in zip(rows, splits, strict=True) if split in (None, own)], unlabeled)


def _rows(path: Path) -> list[tuple[str, dict[str, Any]]]:
    """Pairs of location and row, the location written as "file, line 3"."""
    if path.suffix.lower() == ".csv":
        return list(read_table(path, QuestionError)[1])
    # Universal newlines: inside a JSON string, a line break is always escaped.
    lines = enumerate(io.StringIO(read_text(path, QuestionError), newline=None), start=1)
    return [_object(f"{path}, line {number}", line) for number, line in lines if line.strip()]


def _object(location: str, line: str) -> tuple[str, dict[str, Any]]:
    row = parse_at(location, line, "write one JSON object a line")
    if not isinstance(row, dict):
        raise QuestionError(f"{location} is {type(row).__name__}; write an object with 'question' and 'label'")
    return location, row


def parse_at(location: str, text: str, wanted: str) -> Any:
    """The value of a JSON text; raises QuestionError with its location and what is wanted there."""
    try:
        return parse_json(text)
    except json.JSONDecodeError as error:
        raise QuestionError(f"{location} is not JSON ({error}); {wanted}") from error
    except ValueError as error:
        raise QuestionError(f"{location}: {error}") from error
