"""What the model says in its own words: greedy generation, read for the first candidate word."""

import math
import re
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import takewhile
from typing import Any

import pandas as pd
import torch
from tqdm.auto import tqdm
from transformers import GenerationConfig

from ..batches import equal_length
from ..errors import PromptError
from ..models import Model, as_model
from ..models.positions import switching_length
from ..models.quiet import quiet_transformers
from ..models.ready import check_ready
from ..prompts import Order, Orders, PromptBatch, PromptStyle
from ..questions import BinaryQuestion
from ..session import describe_run, resolve_prompts
from ..torch_defaults import under_torch_defaults


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
        calibration: a Calibration, taken off at the answer's first token.
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
    model = as_model(model)
    asked = resolve_prompts(model, data, order, style, limit, seed)
    if calibration is not None:
        calibration.check(describe_run(model, asked, 0.0), asked.orders)
    for prompts in asked:
        _check_room(model, prompts, max_new_tokens)
    texts: list[str] = []
    for prompts in asked:
        texts.extend(_generate(model, prompts, max_new_tokens, batch_size, progress, calibration))
    return GenerationReport(
        tuple(asked.questions) * len(asked),
        tuple(order for order in asked.orders for _ in asked.questions),
        tuple(texts),
        tuple(first_candidate(text, asked.batches[0].style) for text in texts),
    )


def first_candidate(text: str, style: PromptStyle) -> bool | None:
    """True or False for the candidate that the text names first (whole word, any case), None for neither."""
    longest_first = sorted((style.yes, style.no), key=len, reverse=True)
    pattern = "|".join(rf"(?<!\w){re.escape(word)}(?!\w)" for word in longest_first)
    match = re.search(pattern, text, re.IGNORECASE)
    return None if match is None else match[0].casefold() == style.yes.casefold()


def _check_room(model: Model, prompts: PromptBatch, max_new_tokens: int) -> None:
    longest = int(prompts.last_pos.argmax())
    length, limit = int(prompts.last_pos[longest]) + 1, model.context_length
    if limit is not None and length + max_new_tokens > limit:
        raise PromptError(
            f"question {prompts.questions[longest].id!r} makes a prompt of {length} tokens, which leaves room for "
            f"{limit - length} of {max_new_tokens} new tokens in the model's context of {limit}; shorten it, leave it "
            f"out, or lower max_new_tokens"
        )


@torch.no_grad()
def _generate(
    model: Model, prompts: PromptBatch, max_new_tokens: int, batch_size: int, progress: bool, calibration: Any
) -> list[str]:
    network = model.network
    check_ready(network)
    tokenizer, ends, texts = model.tokenizer, _end_tokens(model), [""] * len(prompts)
    # An answer is cut at its end token, so its padding is never read; every embedding has a row 0.
    greedy = GenerationConfig(
        max_new_tokens=max_new_tokens, do_sample=False, num_beams=1, eos_token_id=ends or None, pad_token_id=0
    )
    begun = tokenizer.decode(prompts.shared)

    def answers(indices: list[int]) -> list[list[int]]:
        tokens = prompts.select(indices).tokens.to(model.device)
        greedy.use_cache = not _passes_switch(model, tokens.shape[1], max_new_tokens)
        offset = [] if calibration is None else [calibration.processor(prompts.order, tokens.shape[1])]
        out = network.generate(
            tokens, attention_mask=torch.ones_like(tokens), generation_config=greedy, logits_processor=offset
        )
        return [list(takewhile(lambda token: token not in ends, row)) for row in out[:, tokens.shape[1] :].tolist()]

    with (
        tqdm(total=len(prompts), desc=f"generating, {prompts.order}", unit="prompt", disable=not progress) as bar,
        quiet_transformers(),
        _generating_by(network, greedy),
    ):
        batches = list(equal_length(prompts, batch_size))
        # Where another prompt in a batch changes an answer, prompts run one by one: the fullest batch's last row tells.
        fullest = max(batches, key=len)
        if len(fullest) > 1 and answers(fullest)[-1] != answers(fullest[-1:])[0]:
            batches = [[index] for indices in batches for index in indices]
        for indices in batches:
            for index, answer in zip(indices, answers(indices), strict=True):
                texts[index] = begun + tokenizer.decode(answer, skip_special_tokens=True)
            bar.update(len(indices))
    return texts


def _passes_switch(model: Model, length: int, max_new_tokens: int) -> bool:
    """Whether an answer may cross the length where LongRoPE changes all positions, which makes a cache stale."""
    switch = switching_length(model.config)
    return switch is not None and length <= switch < length + max_new_tokens


def _end_tokens(model: Model) -> list[int]:
    """The tokens that end an answer: the model's, or the tokenizer's where the model names none."""
    ends = getattr(model.network.generation_config, "eos_token_id", None)
    ends = model.tokenizer.eos_token_id if ends is None else ends
    return [] if ends is None else torch.as_tensor(ends).flatten().tolist()


@contextmanager
def _generating_by(hf: Any, config: GenerationConfig) -> Iterator[None]:
    """Makes this the model's generation_config: `generate` takes from it whatever its own argument leaves unset."""
    own = hf.generation_config
    hf.generation_config = config
    try:
        yield
    finally:
        hf.generation_config = own
