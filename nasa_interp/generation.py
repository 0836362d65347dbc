"""What the model says when it may speak freely: greedy generation, read for the first candidate word."""

import re
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import pandas as pd
import torch
from tqdm.auto import tqdm

from .models import as_model
from .models.loading import quiet_transformers
from .prompts import Order, Orders, PromptBatch, PromptStyle
from .questions import BinaryQuestion
from .scoring.batches import length_sorted
from .session import prompts_in_orders, resolve_questions


@dataclass(frozen=True, repr=False)
class GenerationReport:
    """The answers as text, and which candidate each names first.

    Args:
        questions, order: of each answer.
        texts: what the model wrote.
        answers: True for yes, False for no, None where the text names neither: counted, never guessed.
    """

    questions: tuple[BinaryQuestion, ...]
    order: tuple[Order, ...]
    texts: tuple[str, ...] = field(repr=False)
    answers: tuple[bool | None, ...] = field(repr=False)

    @property
    def counts(self) -> dict[str, int]:
        """How many answers say yes, no, or neither."""
        found = Counter(self.answers)
        return {"yes": found[True], "no": found[False], "neither": found[None]}

    @property
    def accuracy(self) -> float:
        """Rate of right answers among all; an answer that names neither is not right."""
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


def decide_by_generation(
    model: Any,
    data: Any,
    order: Orders = "both",
    style: PromptStyle | None = None,
    *,
    max_new_tokens: int = 16,
    limit: int | None = None,
    batch_size: int = 16,
    seed: int = 0,
    progress: bool = True,
) -> GenerationReport:
    """Lets the model answer in its own words (greedy) and takes the first candidate word in the answer.

    Args:
        model, data, order, style, limit, batch_size, seed, progress: as for `decide`.
        max_new_tokens: how far to read.

    Returns:
        The answers; those that name neither candidate are counted as such.

    Source: how the paper reads answers, as far as its summaries tell; the wording of the rule is ours.
    """
    model, style = as_model(model), style or PromptStyle()
    questions = resolve_questions(data, limit, seed)
    batches = prompts_in_orders(model, questions, order, style)
    texts: list[str] = []
    for prompts in batches:
        texts.extend(_generate(model, prompts, max_new_tokens, batch_size, progress))
    return GenerationReport(
        tuple(questions) * len(batches),
        tuple(prompts.order for prompts in batches for _ in questions),
        tuple(texts),
        tuple(first_candidate(text, style) for text in texts),
    )


def first_candidate(text: str, style: PromptStyle) -> bool | None:
    """True or False for the candidate that the text names first (whole word, any case), None for neither."""
    longest_first = sorted((style.yes, style.no), key=len, reverse=True)
    pattern = "|".join(rf"(?<!\w){re.escape(word)}(?!\w)" for word in longest_first)
    match = re.search(pattern, text, re.IGNORECASE)
    return None if match is None else match[0].casefold() == style.yes.casefold()


@torch.no_grad()
def _generate(model: Any, prompts: PromptBatch, max_new_tokens: int, batch_size: int, progress: bool) -> list[str]:
    tokenizer, texts = model.tokenizer, [""] * len(prompts)
    pad = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id
    bar = tqdm(total=len(prompts), desc=f"generating, {prompts.order}", unit="prompt", disable=not progress)
    for places in length_sorted(prompts, batch_size):
        batch = prompts.select(places)
        # Generation goes on from the last column, so here, and only here, prompts are padded on the left.
        shift = batch.tokens.shape[1] - batch.mask.sum(1)
        column = (torch.arange(batch.tokens.shape[1]) - shift[:, None]) % batch.tokens.shape[1]
        with quiet_transformers():
            out = model.hf.generate(
                batch.tokens.gather(1, column).to(model.device),
                attention_mask=batch.mask.gather(1, column).long().to(model.device),
                max_new_tokens=max_new_tokens,
                do_sample=False,
                num_beams=1,
                repetition_penalty=1.0,
                temperature=None,
                top_p=None,
                top_k=None,
                pad_token_id=pad,
            )
        written = tokenizer.batch_decode(out[:, batch.tokens.shape[1] :], skip_special_tokens=True)
        begun = tokenizer.decode(prompts.shared)
        for place, text in zip(places, written, strict=True):
            texts[place] = begun + text
        bar.update(len(places))
    bar.close()
    return texts
