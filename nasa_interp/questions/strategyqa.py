"""StrategyQA: open-domain questions that are yes-no by nature and need several steps (Geva et al., 2021)."""

from typing import Any

from ..errors import QuestionError
from ..reading import read_text
from .files import parse_at
from .question import BinaryQuestion
from .reading_rows import Item, read_each
from .rows import read_row


def load_strategyqa(path: str) -> list[Item]:
    """Reads a StrategyQA file as its authors publish it: a JSON list with `question`, `answer` and `qid`.

    Args:
        path: such as `dev.json` or `train.json`.

    Returns:
        The questions in the file's order, in one group, without pairs; and the bad rows.

    Raises:
        QuestionError: naming the file, where it is no JSON list.
    """
    rows = parse_at(path, read_text(path, QuestionError), "StrategyQA files are one JSON list")
    if not isinstance(rows, list):
        raise QuestionError(f"{path} holds {type(rows).__name__}, not a list of questions; is it StrategyQA?")
    return read_each(((f"{path}, row {number}", row) for number, row in enumerate(rows, start=1)), read_strategyqa)


def read_strategyqa(place: str, row: Any) -> list[BinaryQuestion]:
    """The question of one row; raises QuestionError naming the place of a bad one."""
    if not isinstance(row, dict) or not isinstance(row.get("question"), str) or "answer" not in row:
        raise QuestionError(f"{place}: no 'question' and 'answer'; is it StrategyQA?")
    fields = {"question": row["question"], "label": row["answer"], "id": row.get("qid"), "group": "strategyqa"}
    return [read_row(place, fields)]
