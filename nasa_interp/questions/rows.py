"""One row, from a file or from Python, as a question."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from ..errors import QuestionError
from ..reading import shown
from .labels import parse_label
from .question import BinaryQuestion
from .reading_rows import Item, read_each, sort_items


def read_rows(data: Any) -> list[BinaryQuestion]:
    """Questions from a list of dicts or a pandas DataFrame, in its order.

    Each row has `question`, has `label` unless no row has one, and may have `id`, `group`, `pair` and `context`; None,
    NaN and NA count as missing.

    Raises:
        QuestionError: naming the row, counted from 1; or saying which types are accepted, for any other type.
    """
    import pandas as pd  # imported here, as few callers need it

    if isinstance(data, pd.DataFrame):
        if not data.columns.is_unique:
            twice = data.columns[data.columns.duplicated()][0]
            raise QuestionError(f"the DataFrame has the column {shown(twice)} twice; keep one")
        data = data.to_dict("records")
    wanted = (
        "give BinaryQuestions, dicts or a DataFrame with question and label, "
        "or a specification such as 'builtin:verify#test'"
    )
    if not isinstance(data, Sequence):
        raise QuestionError(f"{type(data).__name__} is not data; {wanted}")
    rows = []
    for number, row in enumerate(data, start=1):
        if not isinstance(row, Mapping):
            raise QuestionError(f"row {number} is of type {type(row).__name__}; {wanted}")
        given = {name: None if pd.api.types.is_scalar(cell) and pd.isna(cell) else cell for name, cell in row.items()}
        rows.append((f"row {number}", given))
    return sort_items(questions_of(rows), skip_bad=False)[0]


def questions_of(rows: Sequence[tuple[str, Any]], unlabeled: bool = False) -> list[Item]:
    """The question of each row, or what is wrong with it, in their order; where no row has a label, all are without.

    Args:
        rows: pairs of location, such as "file, line 3", and fields by name, or an error in their stead.
        unlabeled: leave the labels out, whatever the rows have; else a row without one, where others have one, is bad.
    """
    labeled = not unlabeled and any(_has_label(row) for _, row in rows)
    return read_each(rows, lambda location, row: [read_row(location, row, labeled)])


def _has_label(row: Any) -> bool:
    return isinstance(row, Mapping) and row.get("label") not in (None, "")


def read_row(location: str, row: Mapping[Any, Any], labeled: bool = True) -> BinaryQuestion:
    """The question of one row; white space around its texts is stripped.

    Args:
        location: where the row is, such as "file, line 3", for errors; its number is the id of a row without one.
        row: its fields by name; None and "" count as missing.
        labeled: False makes a question without a label.

    Raises:
        QuestionError: naming the location, for a missing field, a wrong label or a value that is not text.
    """
    for name in ("question", "label") if labeled else ("question",):
        way_out = ", or take all rows as unlabeled (--unlabeled)" if name == "label" else ""
        if name not in row:
            raise QuestionError(
                f"{location}: no field {name!r} (found: {', '.join(map(shown, row)) or 'nothing'}); add it{way_out}"
            )
        if row[name] is None:
            raise QuestionError(f"{location}: the {name} is missing; fill it in or drop the row{way_out}")
    question = row["question"]
    if not isinstance(question, str) or not question.strip():
        raise QuestionError(f"{location}: the question is {shown(question)}, not a text; fill it in or drop the row")
    label, group, pair = (
        parse_label(row["label"], location) if labeled else None,
        text_of(location, row, "group"),
        text_of(location, row, "pair"),
    )
    identifier = text_of(location, row, "id") or location.rpartition(" ")[2]
    try:
        return BinaryQuestion(
            question.strip(), label, identifier, group or "all", pair, text_of(location, row, "context")
        )
    except QuestionError as error:
        raise QuestionError(f"{location}: {error}") from None


def text_of(location: str, row: Mapping[Any, Any], name: str) -> str | None:
    """A field as text; None where it is missing. 0 is a value, and 7.0 becomes 7."""
    value = row.get(name)
    if isinstance(value, float) and value.is_integer():
        value = int(value)  # pandas makes 7.0 of a 7 in a column with gaps; twins must still share their pair
    if isinstance(value, Iterable) and not isinstance(value, str):
        raise QuestionError(
            f"{location}: the {name} is a {type(value).__name__}, not a text or a number; write it as one"
        )
    try:
        return None if value is None else str(value).strip() or None
    except ValueError:
        raise QuestionError(f"{location}: the {name} is {shown(value)}; write it as text") from None
