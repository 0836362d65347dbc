"""What every computation begins and ends with: questions from whatever was handed over, details for the result."""

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from .errors import QuestionError
from .models import Model
from .prompts import PromptBatch, PromptStyle
from .questions import BinaryQuestion, QuestionList, check_questions, load_questions, sample_questions
from .run import RunInfo


def resolve_questions(data: Any, limit: int | None = None, seed: int = 0) -> QuestionList:
    """Named questions from a data specification or a sequence of questions.

    Raises:
        QuestionError: where it is neither.
    """
    if isinstance(data, (str, Path)):
        return load_questions(data, limit, seed)
    if isinstance(data, Sequence) and all(isinstance(q, BinaryQuestion) for q in data):
        questions = check_questions(data, "the list of questions")
        name = data.name if isinstance(data, QuestionList) else _describe(questions)
        return QuestionList(questions if limit is None else sample_questions(questions, limit, seed), name)
    raise QuestionError(
        f"{type(data).__name__} is not data; give BinaryQuestions, or a specification such as 'builtin:verify#test'"
    )


def _describe(questions: list[BinaryQuestion]) -> str:
    groups = list(dict.fromkeys(q.group for q in questions))
    return f"own questions ({', '.join(groups[:4])}{', ...' if len(groups) > 4 else ''})"


def describe_run(
    model: Model,
    questions: QuestionList,
    batches: Sequence[PromptBatch],
    style: PromptStyle | None,
    seed: int,
    draws: int,
    start: float,
    engine: str = "",
    notes: tuple[str, ...] = (),
    model_hash: str | None = None,
) -> RunInfo:
    """The run's details.

    Args:
        batches: the prompts, one batch a candidate order.
        start: time.perf_counter() when the computation began.
        notes: what the user should know of the computation, besides the notes of the prompts.
        model_hash: where it is known already, as it takes time on a large model.
    """
    return RunInfo(
        model=model.name,
        model_hash=model.weights_hash() if model_hash is None else model_hash,
        data=questions.name,
        n_questions=len(questions),
        orders=tuple(batch.order for batch in batches),
        template={**(style or PromptStyle()).to_dict(), "kind": batches[0].kind},
        seed=seed,
        draws=draws,
        engine=engine,
        device=str(model.device),
        dtype=str(model.dtype).removeprefix("torch."),
        seconds=round(time.perf_counter() - start, 3),
        notes=(*batches[0].notes, *notes),
    )
