"""What every computation begins and ends with: questions from whatever was handed over, details for the result."""

import time
from collections.abc import Sequence
from typing import Any

from .errors import PromptError
from .models import Model
from .prompts import ORDERS, Order, Orders, PromptBatch, PromptStyle, build_prompts
from .questions import (
    BinaryQuestion,
    QuestionList,
    describe_questions,
    resolve_questions,
)
from .run import RunInfo


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
        return _handed_over(model, list(data), limit), list(data)
    questions = resolve_questions(data, limit, seed)
    return questions, prompts_in_orders(model, questions, order, style)


def _handed_over(model: Model, batches: list[PromptBatch], limit: int | None) -> QuestionList:
    """The questions of prompts that were built already: the same in every batch, each in an order of its own."""
    first = batches[0]
    if limit is not None:
        raise PromptError(f"a limit of {limit} doesn't apply to prompts that are built already; build fewer")
    if any(batch.style != first.style or batch.kind != first.kind for batch in batches):
        raise PromptError(
            "the batches are written in different styles, which one result can't tell; ask them one by one"
        )
    if any(batch.questions != first.questions for batch in batches):
        raise PromptError("the batches ask different questions; build all of them from one list, one batch an order")
    for batch in batches:
        own = batch.tokens[0, : int(batch.first_query[0])].tolist()
        if model.tokenizer(batch.texts[0], add_special_tokens=False)["input_ids"][: len(own)] != own:
            raise PromptError(f"the prompts hold other tokens than {model.name}'s tokenizer gives; build them with it")
    if len({batch.order for batch in batches}) < len(batches):
        raise PromptError(f"two batches have the order {first.order!r}; give one batch for each candidate order")
    return resolve_questions(QuestionList(first.questions, first.data or describe_questions(list(first.questions))))


def describe_run(
    model: Model,
    questions: QuestionList,
    batches: Sequence[PromptBatch],
    seed: int,
    draws: int,
    start: float,
    engine: str = "",
    notes: tuple[str, ...] = (),
    model_hash: str | None = None,
) -> RunInfo:
    """The run's details.

    Args:
        batches: the prompts, one batch a candidate order; they know how they were written.
        start: time.perf_counter() when the computation began.
        notes: what the user should know of the computation, besides the notes of the prompts and the model's state.
        model_hash: where it is known already, as it takes time on a large model.
    """
    return RunInfo(
        model=model.name,
        model_hash=model.weights_hash() if model_hash is None else model_hash,
        data=questions.name,
        n_questions=len(questions),
        orders=tuple(batch.order for batch in batches),
        template={**batches[0].style.to_dict(), "kind": batches[0].kind},
        seed=seed,
        draws=draws,
        engine=engine,
        device=str(model.device),
        dtype=str(model.dtype).removeprefix("torch."),
        seconds=round(time.perf_counter() - start, 3),
        notes=(*batches[0].notes, *model.state_notes(), *notes),
    )
