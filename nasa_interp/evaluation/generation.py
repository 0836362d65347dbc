"""What the model says in its own words: greedy generation, read for the first candidate word."""

import math
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import pandas as pd

from ..errors import PromptError
from ..generating import check_room, generate
from ..models import Model, as_model
from ..prompts import Order, Orders, PromptBatch, PromptStyle
from ..questions import BinaryQuestion
from ..served import ServedModel
from ..session import describe_run, resolve_prompts
from ..torch_defaults import under_torch_defaults
from .generation_served import served_texts


@dataclass(frozen=True, repr=False)
class GenerationReport:
    """The answers as text, and which candidate each names first.

    Args:
        questions, order: of each answer.
        texts: what the model generated.
        answers: True for yes, False for no, None where the text names neither: counted, never guessed.
    """

    questions: tuple[BinaryQuestion, ...]
    order: tuple[Order, ...]
    texts: tuple[str, ...] = field(repr=False)
    answers: tuple[bool | None, ...] = field(repr=False)

    @property
    def counts(self) -> dict[str, int]:
        """How many answers say yes, no, or neither."""
        tally = Counter(self.answers)
        return {"yes": tally[True], "no": tally[False], "neither": tally[None]}

    @property
    def accuracy(self) -> float:
        """Rate of right answers among all; an answer that names neither is not right. NaN without labels."""
        if any(q.label is None for q in self.questions):
            return math.nan
        return sum(a == q.label for a, q in zip(self.answers, self.questions, strict=True)) / len(self.answers)

    def to_dataframe(self) -> pd.DataFrame:
        """One row an answer: id, group, order, label, answer, text."""
        return pd.DataFrame(
            {
                "id": [q.id for q in self.questions],
                "group": [q.group for q in self.questions],
                "order": self.order,
                "label": [q.label for q in self.questions],
                "answer": self.answers,
                "text": self.texts,
            }
        )

    def __repr__(self) -> str:
        c = self.counts
        return (
            f"GenerationReport({len(self.answers)} answers: {c['yes']} yes, {c['no']} no, {c['neither']} neither; "
            f"accuracy {self.accuracy:.2f})"
        )


@under_torch_defaults
def decide_by_generation(
    model: Any,
    data: Any,
    order: Orders = "both",
    style: PromptStyle | None = None,
    *,
    max_new_tokens: int = 16,
    calibration: Any = None,
    limit: int | None = None,
    batch_size: int = 16,
    seed: int = 0,
    progress: bool = True,
) -> GenerationReport:
    """Lets the model answer in its own words (greedy) and takes the first candidate word in the answer.

    Greedy means the likeliest token after the prompt and the answer so far, until an end token. Of the model's own
    generation_config only the end tokens are used.

    Args:
        model, data, order, style, limit, seed, progress: as for `decide`.
        max_new_tokens: the most tokens of an answer.
        calibration: a Calibration, taken off at the answer's first token. A served model then answers in one token, as
            a server biases every position.
        batch_size: the most prompts at a time; only prompts of one length share a batch, so that none is padded.

    Returns:
        The answers; those that name neither candidate are counted as such.

    Raises:
        PromptError: where a prompt leaves no room for the answer in the model's context.
        CalibrationError: a calibration for another model or wording.

    Source: how the paper reads answers, according to its summaries; the wording of the rule is ours.
    """
    for name, value in (("max_new_tokens", max_new_tokens), ("batch_size", batch_size)):
        if value < 1:
            raise PromptError(f"{name} is {value}; give 1 or more")
    if isinstance(model, ServedModel):
        options: dict[str, Any] = {"max_new_tokens": max_new_tokens, "calibration": calibration}
        options |= {"limit": limit, "seed": seed, "progress": progress}
        return _served(model, data, order, style or PromptStyle(), options)
    model = as_model(model)
    asked = resolve_prompts(model, data, order, style, limit, seed)
    if calibration is not None:
        calibration.check(describe_run(model, asked, 0.0), asked.orders)
    for prompts in asked:
        check_room(model, (prompts.last_pos + 1).tolist(), [q.id for q in prompts.questions], max_new_tokens)
    # A calibration takes off another offset in each order.
    together = [list(asked)] if calibration is None else [[prompts] for prompts in asked]
    texts: list[str] = []
    for batches in together:
        texts.extend(_generate(model, batches, max_new_tokens, batch_size, progress, calibration))
    orders, questions = asked.each
    answers = tuple(first_candidate(text, asked.batches[0].style) for text in texts)
    return GenerationReport(questions, orders, tuple(texts), answers)


def _served(
    model: ServedModel, data: Any, order: Orders, style: PromptStyle, options: dict[str, Any]
) -> GenerationReport:
    prompts, texts = served_texts(model, data, order, style, **options)
    orders: tuple[Order, ...] = tuple(p.order for p in prompts)
    answers = tuple(first_candidate(text, style) for text in texts)
    return GenerationReport(tuple(p.question for p in prompts), orders, tuple(texts), answers)


def first_candidate(text: str, style: PromptStyle) -> bool | None:
    """True or False for the candidate that the text names first (whole word, any case), None for neither."""
    longest_first = sorted((style.yes, style.no), key=len, reverse=True)
    pattern = "|".join(rf"(?<!\w){re.escape(word)}(?!\w)" for word in longest_first)
    match = re.search(pattern, text, re.IGNORECASE)
    return None if match is None else match[0].casefold() == style.yes.casefold()


def _generate(
    model: Model,
    batches: Sequence[PromptBatch],
    max_new_tokens: int,
    batch_size: int,
    progress: bool,
    calibration: Any,
) -> list[str]:
    """The answer to each prompt; what both candidates begin with, which prompts end with, is a part of it."""
    pairs = [pair for prompts in batches for pair in zip(prompts.tokens, prompts.last_pos, strict=True)]
    rows = [row[: int(last) + 1].tolist() for row, last in pairs]
    first, orders = batches[0], ", ".join(prompts.order for prompts in batches)
    begun = model.tokenizer.decode(first.shared)
    answers = generate(
        model,
        rows,
        max_new_tokens,
        batch_size=batch_size,
        processors=None if calibration is None else lambda length: [calibration.processor(first.order, length)],
        bar=f"generating, {orders}" if progress else None,
    )
    return [begun + model.tokenizer.decode(answer, skip_special_tokens=True) for answer in answers]
