"""StrategyQA: open-domain questions that are yes-no by nature and need several steps (Geva et al., 2021)."""

import json
from pathlib import Path

from ..errors import QuestionError
from .labels import parse_label
from .question import BinaryQuestion


def load_strategyqa(path: str) -> list[BinaryQuestion]:
    """Reads a StrategyQA file as its authors publish it: a JSON list with `question`, `answer` and `qid`.

    Args:
        path: such as `dev.json` or `train.json`.

    Returns:
        The questions in the file's order, in one group, without pairs.

    Raises:
        QuestionError: naming the file and the row.
    """
    try:
        rows = json.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise QuestionError(f"{path} can't be read ({error.strerror}); check the path") from error
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise QuestionError(f"{path} is not JSON ({error}); StrategyQA files are one JSON list") from error
    if not isinstance(rows, list):
        raise QuestionError(f"{path} holds {type(rows).__name__}, not a list of questions; is it StrategyQA?")
    questions = []
    for number, row in enumerate(rows, start=1):
        place = f"{path}, row {number}"
        if not isinstance(row, dict) or not isinstance(row.get("question"), str) or "answer" not in row:
            raise QuestionError(f"{place}: no 'question' and 'answer'; is it StrategyQA?")
        label = parse_label(row["answer"], place)
        questions.append(BinaryQuestion(row["question"].strip(), label, str(row.get("qid", number)), "strategyqa"))
    return questions
