"""StrategyQA: open-domain questions that are yes-no by nature and need several steps (Geva et al., 2021)."""

from ..errors import QuestionError
from ..reading import read_text
from .files import parse_at
from .question import BinaryQuestion
from .rows import read_row


def load_strategyqa(path: str) -> list[BinaryQuestion]:
    """Reads a StrategyQA file as its authors publish it: a JSON list with `question`, `answer` and `qid`.

    Args:
        path: such as `dev.json` or `train.json`.

    Returns:
        The questions in the file's order, in one group, without pairs.

    Raises:
        QuestionError: naming the file and the row.
    """
    rows = parse_at(path, read_text(path, QuestionError), "StrategyQA files are one JSON list")
    if not isinstance(rows, list):
        raise QuestionError(f"{path} holds {type(rows).__name__}, not a list of questions; is it StrategyQA?")
    questions = []
    for number, row in enumerate(rows, start=1):
        location = f"{path}, row {number}"
        if not isinstance(row, dict) or not isinstance(row.get("question"), str) or "answer" not in row:
            raise QuestionError(f"{location}: no 'question' and 'answer'; is it StrategyQA?")
        fields = {"question": row["question"], "label": row["answer"], "id": row.get("qid"), "group": "strategyqa"}
        questions.append(read_row(location, fields))
    return questions
