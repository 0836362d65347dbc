"""What every computation begins and ends with: questions from whatever was handed over, details for the result."""

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from .bootstrap import DRAWS
from .errors import PromptError
from .models import Model
from .prompts import ORDERS, Order, Orders, PromptBatch, PromptStyle, build_prompts
from .questions import (
    BinaryQuestion,
    QuestionList,
    describe_questions,
    resolve_questions,
)
from .reference import reference_order
from .run import RunInfo
from .thinking import think


def orders_of(order: Orders) -> tuple[Order, ...]:
    """The candidate orders that are asked: "both" of them, or the named one."""
    return ORDERS if order == "both" else (order,)


@dataclass(frozen=True, eq=False)
class PromptSet:
    """The same questions in one candidate order or both, with what a result draws of them.

    Args:
        questions: what is asked, under the name of its data.
        batches: their prompts, one batch a candidate order.
        seed, draws: of the bootstrap over the questions.
    """

    questions: QuestionList
    batches: tuple[PromptBatch, ...]
    seed: int = 0
    draws: int = DRAWS

    @classmethod
    def build(
        cls,
        model: Model,
        questions: QuestionList,
        order: Orders = "both",
        style: PromptStyle | None = None,
        seed: int = 0,
        draws: int = DRAWS,
    ) -> "PromptSet":
        """Writes the prompts, in both candidate orders or the named one; the model thinks, where the style lets it."""
        batches = tuple(build_prompts(model, questions, order, style) for order in orders_of(order))
        if style is not None and style.think:
            batches = tuple(think(model, prompts) for prompts in batches)
        return cls(questions, batches, seed, draws)

    def anew(self, model: Model) -> "PromptSet":
        """The same questions for a model that was changed: where the style lets it think, it thinks anew."""
        style = self.batches[0].style
        if not style.think:
            return self
        order = "both" if len(self) > 1 else self.orders[0]
        return self.build(model, self.questions, order, style, self.seed, self.draws)

    def __iter__(self) -> Iterator[PromptBatch]:
        return iter(self.batches)

    def __len__(self) -> int:
        return len(self.batches)

    @property
    def orders(self) -> tuple[Order, ...]:
        """The candidate order of each batch."""
        return tuple(batch.order for batch in self.batches)

    @property
    def each(self) -> tuple[tuple[Order, ...], tuple[BinaryQuestion, ...]]:
        """The order and the question of each prompt, one order after the other."""
        orders: tuple[Order, ...] = tuple(order for order in self.orders for _ in self.questions)
        return orders, tuple(self.questions) * len(self)

    @property
    def notes(self) -> tuple[str, ...]:
        """What the user should know of the prompts, of either order, each note once."""
        return tuple(dict.fromkeys(note for batch in self.batches for note in batch.notes))

    @property
    def compared_order(self) -> Order:
        """The order whose shortest and longest prompt are held to the plain model; orders take turns by seed."""
        return reference_order(self.orders, self.seed)


def resolve_prompts(
    model: Model,
    data: Any,
    order: Orders,
    style: PromptStyle | None,
    limit: int | None = None,
    seed: int = 0,
    draws: int = DRAWS,
) -> PromptSet:
    """The prompts as they were handed over (one PromptBatch, or one an order), or built from data."""
    if isinstance(data, PromptBatch):
        data = [data]
    if isinstance(data, Sequence) and len(data) and all(isinstance(item, PromptBatch) for item in data):
        return PromptSet(_handed_over(model, list(data), limit), tuple(data), seed, draws)
    return PromptSet.build(model, resolve_questions(data, limit, seed), order, style, seed, draws)


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
    prompts: PromptSet,
    start: float,
    engine: str = "",
    notes: tuple[str, ...] = (),
    model_hash: str | None = None,
    deciding: bool = False,
) -> RunInfo:
    """The run's details.

    Args:
        prompts: what was asked, and how it was written.
        start: time.perf_counter() when the computation began.
        notes: what the user should know of the computation, besides the notes of the prompts and the model's state.
        model_hash: where it is known already, as it takes time on a large model.
        deciding: whether passes multiplied as decisions do, which may be in another dtype than the weights'.
    """
    first, mixed = prompts.batches[0], deciding and model.arithmetic != model.dtype
    return RunInfo(
        model=model.name,
        model_hash=model.weights_hash() if model_hash is None else model_hash,
        data=prompts.questions.name,
        n_questions=len(prompts.questions),
        orders=prompts.orders,
        template={**first.style.to_dict(), "kind": first.kind},
        seed=prompts.seed,
        draws=prompts.draws,
        engine=engine,
        device=str(model.device),
        dtype="mixed" if mixed else str(model.dtype).removeprefix("torch."),
        seconds=round(time.perf_counter() - start, 3),
        notes=(*prompts.questions.notes, *prompts.notes, *model.state_notes(), *notes),
    )
