"""What every computation begins and ends with: questions from whatever was handed over, details for the result."""

import copy
import hashlib
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

from .errors import QuestionError
from .models import Model
from .prompts import ORDERS, Order, Orders, PromptBatch, PromptStyle, build_prompts
from .questions import BinaryQuestion, QuestionList, check_questions, load_questions, sample_questions
from .run import RunInfo

Result = TypeVar("Result")

# Results that a model holds; beyond that the oldest goes.
REMEMBERED = 32


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


def orders_of(order: Orders) -> tuple[Order, ...]:
    """The candidate orders that are asked: "both" of them, or the named one."""
    return ORDERS if order == "both" else (order,)


def prompts_in_orders(
    model: Model, questions: Sequence[BinaryQuestion], order: Orders = "both", style: PromptStyle | None = None
) -> list[PromptBatch]:
    """One batch a candidate order: "both" of them, or the named one."""
    return [build_prompts(model, questions, each, style) for each in orders_of(order)]


def resolve_prompts(
    model: Model, data: Any, order: Orders, style: PromptStyle | None, limit: int | None = None, seed: int = 0
) -> tuple[QuestionList, list[PromptBatch]]:
    """The questions, and a batch an order: as handed over (one PromptBatch, or several), or built from data."""
    if isinstance(data, PromptBatch):
        data = [data]
    if isinstance(data, Sequence) and len(data) and all(isinstance(each, PromptBatch) for each in data):
        return resolve_questions(list(data[0].questions)), list(data)
    questions = resolve_questions(data, limit, seed)
    return questions, prompts_in_orders(model, questions, order, style)


def remembered(
    model: Model, kind: str, batches: Sequence[PromptBatch], options: tuple, compute: Callable[[str], Result]
) -> Result:
    """The result of an earlier call with the same weights, prompts and options, or a new one.

    Args:
        model: which holds its last results, so that they go when it goes.
        kind: what is computed.
        batches: the prompts; they count by their tokens and questions.
        options: all else that the result depends on.
        compute: called with the hash of the weights.
    """
    digest = model.weights_hash()
    key = (kind, digest, *options, *(_digest(batch) for batch in batches))
    # Without a hash of the weights (offloaded models) nothing says that they are the same.
    if not digest or key not in model.results:
        model.results.pop(key, None)
        model.results[key] = compute(digest)
        while len(model.results) > REMEMBERED:
            del model.results[next(iter(model.results))]
    # A copy, so that who writes into its arrays doesn't write into the memory.
    return copy.deepcopy(model.results[key])


def _digest(batch: PromptBatch) -> str:
    tensors = (batch.tokens, batch.mask, batch.yes_span, batch.no_span, batch.first_query, batch.labels)
    digest = hashlib.sha256(repr((batch.order, batch.yes_token, batch.no_token, batch.questions)).encode())
    for tensor in tensors:
        digest.update(tensor.contiguous().numpy().tobytes())
    return digest.hexdigest()


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
