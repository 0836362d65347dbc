"""One row, from a file or from Python, as a question."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from ..errors import QuestionError
from ..reading import shown
from .labels import parse_label
from .question import BinaryQuestion


def read_rows(data: Any) -> list[BinaryQuestion]:
    """Questions from a list of dicts or a pandas DataFrame, in its order.

    Each row has `question` and `label`, and may have `id`, `group` and `pair`; None, NaN and NA count as not given.

    Raises:
        QuestionError: naming the row, counted from 1; or saying what data may be, where it is something else.
    """
    import pandas as pd  # here, as few need it

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
    questions = []
    for number, row in enumerate(data, start=1):
        if not isinstance(row, Mapping):
            raise QuestionError(f"row {number} is of type {type(row).__name__}; {wanted}")
        given = {name: None if pd.api.types.is_scalar(cell) and pd.isna(cell) else cell for name, cell in row.items()}
        questions.append(read_row(f"row {number}", given))
    return questions


def read_row(place: str, row: Mapping[Any, Any]) -> BinaryQuestion:
    """The question of one row; white space around its texts is stripped.

    Args:
        place: where the row stands, such as "file, line 3", for errors; its number is the id of a row without one.
        row: its fields by name; None and "" count as not given.

    Raises:
        QuestionError: naming the place, for a missing field, a wrong label or what is no text.
    """
    for name in ("question", "label"):
        if name not in row:
            raise QuestionError(
                f"{place}: no field {name!r} (found: {', '.join(map(shown, row)) or 'nothing'}); add it"
            )
        if row[name] is None:
            raise QuestionError(f"{place}: the {name} is missing; fill it in or drop the row")
    question = row["question"]
    if not isinstance(question, str) or not question.strip():
        raise QuestionError(f"{place}: the question is {shown(question)}, not a text; fill it in or drop the row")
    label, group, pair = parse_label(row["label"], place), text_of(place, row, "group"), text_of(place, row, "pair")
    identifier = text_of(place, row, "id") or place.rpartition(" ")[2]
    try:
        return BinaryQuestion(question.strip(), label, identifier, group or "all", pair)
    except QuestionError as error:
        raise QuestionError(f"{place}: {error}") from None


def text_of(place: str, row: Mapping[Any, Any], name: str) -> str | None:
    """A field as text, None where nothing is given; 0 is something, and 7.0 is 7."""
    value = row.get(name)
    if isinstance(value, float) and value.is_integer():
        value = int(value)  # pandas makes 7.0 of a 7 in a column with gaps; twins must still share their pair
    if isinstance(value, Iterable) and not isinstance(value, str):
        raise QuestionError(f"{place}: the {name} is a {type(value).__name__}, not a text or a number; write it as one")
    try:
        return None if value is None else str(value).strip() or None
    except ValueError:
        raise QuestionError(f"{place}: the {name} is {shown(value)}; write it as text") from None
