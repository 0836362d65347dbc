"""Questions to token batches: instruction first, then the question, with the answer candidates located exactly.

Nothing else in the package builds prompts. What a batch promises: the candidates are found by character offsets
inside the instruction's own span and checked to decode back; there is one BOS token or none, never two; a control token
in a question is text; padding is on the right, so that each prompt keeps its own coordinates.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from ..errors import PromptError, warn_user
from ..questions import BinaryQuestion, QuestionList, check_questions
from ..torch_defaults import under_torch_defaults
from .answers import AnswerTokens
from .batch import PromptBatch
from .encoding import Encoded, Encoder, Span
from .rendering import Kind, Rendered, content, places, prompt_kind, question_spans, render
from .style import Order, PromptStyle


@under_torch_defaults
def build_prompts(
    model: Any,
    questions: Sequence[BinaryQuestion],
    order: Order = "yes_no",
    style: PromptStyle | None = None,
    thoughts: Sequence[str] | None = None,
) -> PromptBatch:
    """Writes and tokenizes one prompt a question.

    Args:
        model: a `Model`, or a fast tokenizer of transformers.
        questions: what to ask.
        order: "yes_no" names the yes candidate first, "no_yes" the other one.
        style: wording, candidates, chat or plain; the default is ours, not the paper's.
        thoughts: what the model thought about each question, where the style lets it; without them such a prompt ends
            where it would begin to think. Of examples that don't fit into the model's context, as many as must be are
            left out, the first ones first, and counted in the notes.

    Returns:
        The batch, right-padded to its longest prompt, in the order of the questions.

    Raises:
        PromptError: where a candidate can't be located or merges with its neighbours, where the answer would tokenize
            otherwise after the prompt, where a question's control token can't be read as text, or where a prompt is
            longer than the model's context.

    Source: instruction before question as in the paper (section on NAS); the wording and all checks are ours.
    """
    asked_style = style = style or PromptStyle()
    data = questions.name if isinstance(questions, QuestionList) else ""
    questions = tuple(check_questions(questions, "the list of questions"))
    tokenizer = _fast_tokenizer(model)
    kind, notes = prompt_kind(tokenizer, style)
    encoder = Encoder(tokenizer, style.allow_special)
    room = getattr(model, "context_length", None)
    style, rendered, encoded = _fitting(encoder, kind, order, questions, style, thoughts, room)
    notes += _left_out_notes(len(asked_style.examples) - len(style.examples), len(asked_style.examples))
    notes += _control_notes(questions, encoded, style)
    parts = [_locate(tokenizer, *pair) for pair in zip(rendered, encoded, strict=True)]
    # Behind a thought stands the style's cue, which an answer follows as it does in a plain prompt.
    answers = AnswerTokens.of(encoder, kind if thoughts is None else "plain", rendered, encoded)
    rows = [prompt.tokens + list(answers.shared) for prompt in encoded]
    _check_context(model, rows, questions)
    _check_vocabulary(model, rows, questions)
    texts = tuple(prompt.text for prompt in rendered)
    facts = {"order": order, "kind": kind, "texts": texts, "data": data, "notes": notes}
    facts |= {"thought": thoughts is not None}
    return _to_batch(rows, parts, answers, questions, asked_style, **facts)


def _fitting(
    encoder: Encoder,
    kind: Kind,
    order: Order,
    questions: Sequence[BinaryQuestion],
    style: PromptStyle,
    thoughts: Sequence[str] | None,
    room: int | None,
) -> tuple[PromptStyle, list[Rendered], list[Encoded]]:
    """The prompts with as many of the style's examples as all of them have room for."""
    while True:
        rendered = render(encoder.tokenizer, style, kind, order, questions, thoughts)
        spans = [prompt.question_spans for prompt in rendered]
        encoded = encoder.encode([prompt.text for prompt in rendered], spans, [q.id for q in questions])
        longest = max(len(prompt.tokens) for prompt in encoded) + style.think * (thoughts is None)
        if room is None or longest <= room or not style.examples:
            return style, rendered, encoded
        # Two at a time, which are one of each answer where examples were drawn by `with_examples`.
        style = replace(style, examples=style.examples[2:])


def encode_texts(tokenizer: Any, prompts: PromptBatch, texts: Sequence[str]) -> list[list[int]]:
    """Tokens of texts that differ from the prompts' own in the instruction alone, each question read as it was.

    Args:
        tokenizer: the prompts' own.
        prompts: what `build_prompts` made.
        texts: one a prompt; what both answers begin with is not in them, and not added.
    """
    style, instructions, spans = prompts.style, prompts.style.render_instructions(prompts.order), []
    for q, old, new in zip(prompts.questions, prompts.texts, texts, strict=True):
        starts = [(old.rfind(content(style, text, q)), places(style, text, q)[1]) for text in instructions]
        start, line = next((start, line) for start, line in starts if start >= 0)
        moved = 0 if style.after else len(new) - len(old)
        spans.append(question_spans(style, q, start + line + moved))
    encoded = Encoder(tokenizer, style.allow_special).encode(texts, spans, [q.id for q in prompts.questions])
    return [prompt.tokens for prompt in encoded]


def _fast_tokenizer(model: Any) -> Any:
    """The model's tokenizer, which gives character offsets; raises PromptError for one that doesn't."""
    tokenizer = getattr(model, "tokenizer", model)
    if not getattr(tokenizer, "is_fast", False):
        raise PromptError(
            f"{type(tokenizer).__name__} gives no character offsets; load the fast tokenizer (use_fast=True)"
        )
    return tokenizer


@dataclass(frozen=True)
class Parts:
    """Where the parts of one prompt stand among its tokens; spans are start and end (exclusive)."""

    yes_span: Span
    no_span: Span
    instruction_start: int
    first_query: int
    question_end: int


def _locate(tokenizer: Any, prompt: Rendered, encoded: Encoded) -> Parts:
    """The candidates by the characters of the instruction alone, and the other parts by where they begin."""
    start = prompt.start
    spans = [
        _candidate_span(tokenizer, prompt, encoded, (start + first, start + end)) for first, end in prompt.candidates
    ]
    return Parts(
        *spans,
        instruction_start=next(i for i, (_, end) in enumerate(encoded.offsets) if end > start),
        first_query=_token_from(encoded.offsets, start + len(prompt.instruction)),
        question_end=_token_from(encoded.offsets, prompt.question_end),
    )


def _candidate_span(tokenizer: Any, prompt: Rendered, encoded: Encoded, chars: Span) -> Span:
    """The tokens that cover these characters, checked to decode back to just them."""
    (start, end), offsets, candidate = chars, encoded.offsets, prompt.text[slice(*chars)]
    covering = [i for i, (a, b) in enumerate(offsets) if a < end and b > start]
    span = (covering[0], covering[-1] + 1) if covering else (0, 0)
    decoded = tokenizer.decode(encoded.tokens[slice(*span)], clean_up_tokenization_spaces=False)
    covered = prompt.text[offsets[span[0]][0] : offsets[span[1] - 1][1]] if covering else ""
    if covered.strip() != candidate or decoded.strip() != candidate:
        raise PromptError(
            f"question {prompt.question.id!r}: the candidate {candidate!r} shares a token with its neighbours "
            f"(the tokens read {decoded!r}); set it apart by spaces or choose other candidates"
        )
    return span


def _to_batch(
    rows: list[list[int]],
    parts: Sequence[Parts],
    answers: AnswerTokens,
    questions: tuple[BinaryQuestion, ...],
    style: PromptStyle,
    **facts: Any,
) -> PromptBatch:
    """The prompts as tensors; `facts` are the fields that hold none."""
    labels = None if questions[0].label is None else [style.right_word(bool(q.label)) for q in questions]
    tokens, mask = _pad(rows)
    return PromptBatch(
        tokens=tokens,
        mask=mask,
        **_stacked(parts),
        last_pos=mask.sum(1) - 1,
        labels=None if labels is None else torch.tensor(labels),
        yes_token=answers.yes,
        no_token=answers.no,
        yes_variants=answers.yes_variants,
        no_variants=answers.no_variants,
        unsure_token=answers.unsure,
        unsure_variants=answers.unsure_variants,
        shared=answers.shared,
        questions=questions,
        style=style,
        **facts,
    )


def _stacked(parts: Sequence[Parts]) -> dict[str, Int[Tensor, "batch ..."]]:
    """Each part of all prompts as one tensor."""
    names = ("yes_span", "no_span", "instruction_start", "first_query", "question_end")
    return {name: torch.tensor([getattr(part, name) for part in parts]) for name in names}


def _left_out_notes(n: int, of: int) -> tuple[str, ...]:
    """How many examples there was no room for; a warning too."""
    if not n:
        return ()
    note = f"{n} of {of} examples were left out, as the model's context has no room for them"
    warn_user(note)
    return (note,)


def _control_notes(
    questions: Sequence[BinaryQuestion], encoded: Sequence[Encoded], style: PromptStyle
) -> tuple[str, ...]:
    """How control tokens in questions are read; warns where they become text and nobody asked for it."""
    controls = [(q.id, prompt.held[0]) for q, prompt in zip(questions, encoded, strict=True) if prompt.held]
    if not controls:
        return ()
    (first, token), n = controls[0], len(controls)
    how = "the model reads them as such" if style.allow_special else "they are read as plain text"
    note = f"{n} question{'s' if n > 1 else ''} hold{'' if n > 1 else 's'} control tokens ({first!r}: {token!r}); {how}"
    if not style.allow_special:
        warn_user(note)
    return (note,)


def _token_from(offsets: list[Span], char: int) -> int:
    """The first token that begins at or after this character, or the end."""
    return next((i for i, (a, _) in enumerate(offsets) if a >= char), len(offsets))


def _check_vocabulary(model: Any, rows: list[list[int]], questions: Sequence[BinaryQuestion]) -> None:
    module: Any = getattr(model, "module", None)
    embedding = module.get_input_embeddings() if hasattr(module, "get_input_embeddings") else None
    size = getattr(embedding, "num_embeddings", None)
    for q, row in zip(questions, rows, strict=True):
        if size is not None and max(row) >= size:
            raise PromptError(
                f"question {q.id!r} holds token {max(row)}, and the model has {size} embeddings; resize them "
                f"(resize_token_embeddings), or take the tokenizer that the model was trained with"
            )


def _check_context(model: Any, rows: list[list[int]], questions: Sequence[BinaryQuestion]) -> None:
    limit = getattr(model, "context_length", None)
    longest = max(range(len(rows)), key=lambda i: len(rows[i]))
    if limit is not None and len(rows[longest]) > limit:
        raise PromptError(
            f"question {questions[longest].id!r} makes a prompt of {len(rows[longest])} tokens, "
            f"more than the model's context of {limit}; shorten it or leave it out"
        )


def _pad(rows: list[list[int]]) -> tuple[Int[Tensor, "batch pos"], Bool[Tensor, "batch pos"]]:
    """Pads are each prompt's first token: the tokenizer's own may have no row in the embedding."""
    length = max(map(len, rows))
    tokens = torch.tensor([row + row[:1] * (length - len(row)) for row in rows])
    mask = torch.arange(length) < torch.tensor([[len(row)] for row in rows])
    return tokens, mask
