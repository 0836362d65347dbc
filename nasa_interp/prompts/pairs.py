"""Prompts in pairs of equal length, one clean and one corrupted: twins of a question, or two instructions.

A patch from clean to corrupted moves what the two prompts differ in. Twins differ in the truth: the heads that carry it
are those the model knows by. Two instructions on one question differ in how the candidates are named: the heads that
carry that carry the bias.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import torch
from jaxtyping import Int
from torch import Tensor

from ..errors import PromptError, QuestionError
from ..heads import Side
from ..questions import BinaryQuestion, QuestionList
from ..questions.resolve import resolve_questions
from .batch import PromptBatch
from .build import build_prompts, encode_texts
from .style import Order, PromptStyle

PairKind = Literal["question", "neutral", "order"]
NEUTRAL = ("Maybe", "Perhaps", "Either", "Something", "Other", "Neither of them", "One of the others")
"""What stands in place of a candidate, the first of these that has as many tokens: they neither deny nor affirm."""


@dataclass(frozen=True, repr=False)
class PromptPairs:
    """Clean and corrupted prompts, row by row of equal token length.

    Args:
        clean: the prompts that outputs are taken from.
        corrupted: those that they are put into; their candidate tokens decide.
        kind: "question" (twins), "neutral" (a candidate renamed) or "order" (the candidates in the other order).
        data: the name of the questions.
        style: wording, for the run's details.
        left_out: pairs of twins that were left out, as their lengths differ.
        notes: what else the reader should know.

    Raises:
        PromptError: where the two have another number of rows, or a row another number of tokens.
    """

    clean: PromptBatch
    corrupted: PromptBatch
    kind: PairKind
    data: str = "own pairs"
    style: PromptStyle = field(default_factory=PromptStyle)
    left_out: int = 0
    notes: tuple[str, ...] = ()

    def __post_init__(self):
        if len(self.clean) != len(self.corrupted):
            raise PromptError(
                f"{len(self.clean)} clean and {len(self.corrupted)} corrupted prompts are no pairs; give as "
                f"many of each"
            )
        if bool((unequal := self.clean.last_pos != self.corrupted.last_pos).any()):
            row = int(unequal.nonzero()[0])
            raise PromptError(
                f"the pair of question {self.corrupted.questions[row].id!r} has {int(self.clean.last_pos[row]) + 1} "
                f"and {int(self.corrupted.last_pos[row]) + 1} tokens; outputs are patched position by position, "
                f"so word both in as many tokens"
            )

    @property
    def carries(self) -> Literal["truth", "bias"]:
        """What heads carry that matter in these pairs: the truth of the question, or the bias of the instruction."""
        return "truth" if self.kind == "question" else "bias"

    @property
    def equal_length(self) -> bool:
        """Whether all pairs are equally long, so that a position means the same in all of them."""
        return bool((self.corrupted.last_pos == self.corrupted.last_pos[:1]).all())

    @property
    def questions(self) -> QuestionList:
        """The questions of the corrupted prompts, with the name of the data."""
        return QuestionList(self.corrupted.questions, self.data)

    def select(self, rows: Sequence[int] | Int[Tensor, " rows"]) -> "PromptPairs":
        """The pairs of these rows, in this order."""
        return replace(self, clean=self.clean.select(rows), corrupted=self.corrupted.select(rows))

    def __len__(self) -> int:
        return len(self.corrupted)

    def __repr__(self) -> str:
        left_out = f", {self.left_out} left out" if self.left_out else ""
        return f"PromptPairs({len(self)} {self.kind} pairs that carry {self.carries}; {self.data}{left_out})"


def question_pairs(
    model: Any,
    questions: Any,
    order: Order = "yes_no",
    style: PromptStyle | None = None,
    *,
    limit: int | None = None,
    seed: int = 0,
) -> PromptPairs:
    """Twins of a question: clean where yes is right, corrupted where no is. What differs is the truth.

    Args:
        model: a Model, or a fast tokenizer.
        questions: questions, or a data specification; twins are those that share a `pair`, one of each label.
        order, style: as for `build_prompts`.
        limit: about so many questions (not pairs), drawn evenly from the groups by `seed`.

    Returns:
        The pairs whose prompts are equally long; `left_out` counts the others.

    Raises:
        QuestionError: where no question has a twin, or no pair has prompts of equal length.

    Source: ours; activation patching between twins is common practice.
    """
    questions = resolve_questions(questions, limit, seed)
    twins = _twins(questions)
    if not twins:
        raise QuestionError(
            f"{questions.name}: no question has a twin with the other label; name twins by `pair`, as builtin:verify "
            f"does, or patch between instructions, by kind='neutral' or 'order' (--pairs)"
        )
    clean, corrupted = (build_prompts(model, list(side), order, style) for side in zip(*twins, strict=True))
    same = (clean.last_pos == corrupted.last_pos).nonzero()[:, 0]
    if not len(same):
        raise QuestionError(
            f"{questions.name}: none of the {len(twins)} pairs of twins has prompts of as many tokens; reword them, "
            f"or patch between instructions, by kind='neutral' or 'order' (--pairs)"
        )
    left_out = len(twins) - len(same)
    notes = (f"{left_out} of {len(twins)} pairs left out: their lengths differ",) if left_out else ()
    return PromptPairs(
        clean.select(same), corrupted.select(same), "question", questions.name, style or PromptStyle(), left_out, notes
    )


def _twins(questions: Sequence[BinaryQuestion]) -> list[tuple[BinaryQuestion, BinaryQuestion]]:
    """Pairs of one yes and one no."""
    groups: dict[str, list[BinaryQuestion]] = {}
    for question in questions:
        if question.pair is not None:
            groups.setdefault(question.pair, []).append(question)
    sorted_groups = (sorted(group, key=lambda q: not q.label) for group in groups.values() if len(group) == 2)
    return [(yes, no) for yes, no in sorted_groups if yes.label and not no.label]


def instruction_pairs(
    model: Any,
    questions: Any,
    order: Order = "yes_no",
    style: PromptStyle | None = None,
    kind: Literal["neutral", "order"] = "neutral",
    *,
    neutral: str | None = None,
    toward: Side = "no",
    limit: int | None = None,
    seed: int = 0,
) -> PromptPairs:
    """The same question under two instructions: corrupted as it is, clean without what may bias. What differs is bias.

    Args:
        model: a Model, or a fast tokenizer.
        questions: questions, or a data specification.
        order, style: of the corrupted prompts, as for `build_prompts`.
        kind: "neutral" puts a neutral word's tokens in place of one candidate's; "order" has the candidates in the
            other order.
        neutral: that word; by default the first of `NEUTRAL` that has as many tokens as the candidate there.
        toward: the candidate that gives way to it: "no", or "yes" where a model says Yes too often.
        limit: about so many questions, drawn evenly from the groups by `seed`.

    Raises:
        PromptError: where the neutral word has another number of tokens or merges with its neighbours, or where
            naming the candidates in the other order takes another number.

    Caveat: a neutral word is never quite neutral; try several.

    Source: ours.
    """
    style, questions = style or PromptStyle(), resolve_questions(questions, limit, seed)
    corrupted = build_prompts(model, questions, order, style)
    if kind == "order":
        other = build_prompts(model, questions, "no_yes" if order == "yes_no" else "yes_no", style)
        return PromptPairs(other, corrupted, "order", questions.name, style)
    if kind != "neutral":
        raise PromptError(f"pairs of kind {kind!r} are unknown; use 'neutral' or 'order'")
    word, clean = _neutral_prompts(getattr(model, "tokenizer", model), corrupted, style, neutral, toward)
    notes = (f"clean: {word!r} instead of {getattr(style, toward)!r}",)
    return PromptPairs(clean, corrupted, "neutral", questions.name, style, notes=notes)


def _neutral_prompts(
    tokenizer: Any, prompts: PromptBatch, style: PromptStyle, neutral: str | None, toward: Side
) -> tuple[str, PromptBatch]:
    """The first neutral word that fits in place of the candidate, and the prompts with it."""
    words = NEUTRAL if neutral is None else (neutral,)
    for word in words:
        if (renamed := _renamed(tokenizer, prompts, style, word, toward)) is not None:
            return word, renamed
    named, (start, end) = getattr(style, toward), _spans(prompts, toward)[0].tolist()
    tried = f"{words[0]!r}{' and the other defaults' if neutral is None else ''}"
    raise PromptError(
        f"{tried} can't stand in place of {named!r}, which has {end - start} token(s) there; name a neutral word of "
        f"as many"
    )


def _spans(prompts: PromptBatch, toward: Side) -> Int[Tensor, "batch 2"]:
    return prompts.yes_span if toward == "yes" else prompts.no_span


def _renamed(tokenizer: Any, prompts: PromptBatch, style: PromptStyle, word: str, toward: Side) -> PromptBatch | None:
    """The prompts with a word in place of a candidate in the instruction; None where any other token would change."""
    if word in (style.yes, style.no):
        raise PromptError(f"{word!r} is a candidate itself and no neutral word; choose another")
    offsets = tokenizer(list(prompts.texts), add_special_tokens=False, return_offsets_mapping=True)["offset_mapping"]
    spans, candidate, texts = _spans(prompts, toward), getattr(style, toward), []
    for text, offset, (start, end) in zip(prompts.texts, offsets, spans.tolist(), strict=True):
        begin, stop = offset[start][0], offset[end - 1][1]
        texts.append(text[:begin] + text[begin:stop].replace(candidate, word) + text[stop:])
    tokens, positions, shared = prompts.tokens.clone(), prompts.position_ids, list(prompts.shared)
    for row, new in enumerate(encode_texts(tokenizer, prompts, texts)):
        if len(new) + len(shared) != int(prompts.last_pos[row]) + 1:
            return None
        tokens[row, : len(new) + len(shared)] = torch.tensor(new + shared)
    outside = (positions < spans[:, :1]) | (positions >= spans[:, 1:])
    if bool(((tokens != prompts.tokens) & outside).any()):
        return None
    return replace(prompts, tokens=tokens, texts=tuple(texts))
