"""Questions from a specification, a list or a table."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from .question import BinaryQuestion, QuestionList
from .registry import check_questions, check_seed, load_questions, sample_questions
from .rows import read_rows


def resolve_questions(data: Any, limit: int | None = None, seed: Any = 0) -> QuestionList:
    """Named questions from a data specification, a sequence of questions, a list of dicts or a pandas DataFrame.

    Dicts and DataFrames have `question` and `label`, and may have `id`, `group`, `pair`, `context` (see `read_rows`).

    Raises:
        QuestionError: for any other type, a wrong row, or a negative seed.
    """
    check_seed(seed)
    if isinstance(data, (str, Path)):
        return load_questions(data, limit, seed)
    if not (isinstance(data, Sequence) and all(isinstance(q, BinaryQuestion) for q in data)):
        data = read_rows(data)
    questions = check_questions(data, "the list of questions")
    name = data.name if isinstance(data, QuestionList) else describe_questions(questions)
    skipped = data.skipped if isinstance(data, QuestionList) else ()
    return QuestionList(questions if limit is None else sample_questions(questions, limit, seed), name, skipped)


def describe_questions(questions: list[BinaryQuestion]) -> str:
    groups = list(dict.fromkeys(q.group for q in questions))
    return f"own questions ({', '.join(groups[:4])}{', ...' if len(groups) > 4 else ''})"
