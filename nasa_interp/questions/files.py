"""Questions from the user's own file: JSON lines or CSV with the columns `question` and `label`."""

import csv
import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ..errors import QuestionError
from .labels import parse_label
from .question import BinaryQuestion


def load_file(path: str, split: str | None = None) -> list[BinaryQuestion]:
    """Reads a `.jsonl` or `.csv` file.

    Each row has `question` and `label`, and may have `id`, `group`, `pair` and `split`.

    Args:
        path: the file; the ending says which format.
        split: keep only the rows whose `split` is this.

    Returns:
        The questions in the file's order.

    Raises:
        QuestionError: naming file and row, for a missing field, a wrong label or a row that can't be read.
    """
    rows = list(_rows(Path(path)))
    if split is not None:
        known = sorted({str(row["split"]) for _, row in rows if _given(row, "split")})
        rows = [(place, row) for place, row in rows if str(row.get("split")) == split]
        if not rows:
            raise QuestionError(f"{path} has no rows of split {split!r}; its splits: {', '.join(known) or 'none'}")
    return [_question(place, row) for place, row in rows]


def _rows(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """(place, row) pairs, the place as "file, line 3"."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise QuestionError(f"{path} is not UTF-8 text ({error.reason} at byte {error.start}); convert it") from error
    except OSError as error:
        raise QuestionError(f"{path} can't be read ({error.strerror}); check the path") from error
    if path.suffix == ".csv":
        reader = csv.DictReader(io.StringIO(text, newline=""))
        try:
            for row in reader:
                yield f"{path}, line {reader.line_num}", row
        except csv.Error as error:
            raise QuestionError(
                f"{path}, line {reader.line_num} is not CSV ({error}); is a quote left open?"
            ) from error
        return
    for number, line in enumerate(text.split("\n"), start=1):
        place = f"{path}, line {number}"
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            raise QuestionError(f"{place} is not JSON ({error}); write one JSON object a line") from error
        if not isinstance(row, dict):
            raise QuestionError(f"{place} is {type(row).__name__}, not an object with 'question' and 'label'")
        yield place, row


def _question(place: str, row: dict[str, Any]) -> BinaryQuestion:
    for name in ("question", "label"):
        if row.get(name) is None:
            raise QuestionError(f"{place}: no field {name!r} (found: {', '.join(map(str, row)) or 'nothing'}); add it")
    question = row["question"]
    if not isinstance(question, str) or not question.strip():
        raise QuestionError(f"{place}: the question is {question!r}, not a text; fill it in or drop the row")
    number = place.rpartition(" ")[2]
    return BinaryQuestion(
        question=question.strip(),
        label=parse_label(row["label"], place),
        id=str(row["id"]) if _given(row, "id") else number,
        group=str(row["group"]) if _given(row, "group") else "all",
        pair=str(row["pair"]) if _given(row, "pair") else None,
    )


def _given(row: dict[str, Any], name: str) -> bool:
    """Whether the field holds something; 0 is something."""
    return row.get(name) not in (None, "")
