"""Questions to token batches: instruction first, then the question, with the answer candidates located exactly.

Nothing else in the package builds prompts. What a batch promises: the candidates are found by character offsets
inside the instruction's own span and checked to decode back; there is one BOS token or none, never two; a control token
in a question is text; padding is on the right, so that each prompt keeps its own coordinates.
"""

import warnings
from collections.abc import Sequence
from typing import Any, Literal

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from ..errors import PromptError
from ..questions import BinaryQuestion, QuestionList, check_questions
from ..torch_defaults import under_torch_defaults
from .answers import _Answers
from .batch import PromptBatch
from .chat import write_chat
from .encoding import Encoded, Encoder, Span
from .style import Order, PromptStyle, find_candidates


@under_torch_defaults
def build_prompts(
    model: Any, questions: Sequence[BinaryQuestion], order: Order = "yes_no", style: PromptStyle | None = None
) -> PromptBatch:
    """Writes and tokenizes one prompt a question.

    Args:
        model: a `Model`, or a fast tokenizer of transformers.
        questions: what to ask.
        order: "yes_no" names the yes candidate first, "no_yes" the other one.
        style: wording, candidates, chat or plain; the default is ours, not the paper's.

    Returns:
        The batch, right-padded to its longest prompt, in the order of the questions.

    Raises:
        PromptError: where a candidate can't be located or merges with its neighbours, where the answer would tokenize
            otherwise after the prompt, where a question's control token can't be read as text, or where a prompt is
            longer than the model's context.

    Source: instruction before question as in the paper (section on NAS); the wording and all checks are ours.
    """
    style = style or PromptStyle()
    tokenizer = getattr(model, "tokenizer", model)
    data = questions.name if isinstance(questions, QuestionList) else ""
    questions = tuple(check_questions(questions, "the list of questions"))
    if not getattr(tokenizer, "is_fast", False):
        raise PromptError(
            f"{type(tokenizer).__name__} gives no character offsets; load the fast tokenizer (use_fast=True)"
        )
    kind, notes = _kind(tokenizer, style)
    rendered = style.render_instructions(order)
    spans = [find_candidates(text, style.yes, style.no) for text in rendered]
    turns = _turns(questions, len(rendered))
    asked = list(zip(questions, turns, strict=True))
    texts, starts = zip(
        *(_render(tokenizer, style, kind, rendered[turn], q.question) for q, turn in asked), strict=True
    )
    places = [
        _question_spans(style, q.question, start + len(_content_head(rendered[turn])))
        for (q, turn), start in zip(asked, starts, strict=True)
    ]
    encoder = Encoder(tokenizer, style.allow_special)
    encoded = encoder.encode(texts, places, [q.id for q in questions])
    notes += _control_notes(questions, encoded, style)
    located = []
    for (q, turn), text, start, found in zip(asked, texts, starts, encoded, strict=True):
        instruction, (yes_chars, no_chars) = rendered[turn], spans[turn]
        yes = _locate(tokenizer, text, found, start + yes_chars[0], start + yes_chars[1], q.id)
        no = _locate(tokenizer, text, found, start + no_chars[0], start + no_chars[1], q.id)
        begin = next(i for i, (_, b) in enumerate(found.offsets) if b > start)
        first = _token_from(found.offsets, start + len(instruction))
        end = _token_from(found.offsets, start + len(_content(style, instruction, q.question)))
        located.append((yes, no, begin, first, end))
    answers = _Answers.of(encoder, style, kind, texts, places, encoded, questions)
    rows = [found.tokens + list(answers.shared) for found in encoded]
    _check_context(model, rows, questions)
    _check_vocabulary(model, rows, questions)
    tokens, mask = _pad(rows)
    return PromptBatch(
        tokens=tokens,
        mask=mask,
        yes_span=torch.tensor([yes for yes, *_ in located]),
        no_span=torch.tensor([no for _, no, *_ in located]),
        instruction_start=torch.tensor([begin for *_, begin, _, _ in located]),
        first_query=torch.tensor([first for *_, first, _ in located]),
        question_end=torch.tensor([end for *_, end in located]),
        last_pos=mask.sum(1) - 1,
        labels=torch.tensor([q.label for q in questions]),
        yes_token=answers.yes,
        no_token=answers.no,
        yes_variants=answers.yes_variants,
        no_variants=answers.no_variants,
        order=order,
        kind=kind,
        questions=questions,
        texts=texts,
        style=style,
        data=data,
        notes=notes,
        shared=answers.shared,
    )


def encode_texts(tokenizer: Any, prompts: PromptBatch, texts: Sequence[str]) -> list[list[int]]:
    """Tokens of texts that differ from the prompts' own in the instruction alone, each question read as it was.

    Args:
        tokenizer: the prompts' own.
        prompts: what `build_prompts` made.
        texts: one a prompt; what both answers begin with is not in them, and not added.
    """
    style, instructions, places = prompts.style, prompts.style.render_instructions(prompts.order), []
    for q, old, new in zip(prompts.questions, prompts.texts, texts, strict=True):
        found = [(old.rfind(_content(style, text, q.question)), len(_content_head(text))) for text in instructions]
        start, head = next((start, head) for start, head in found if start >= 0)
        places.append(_question_spans(style, q.question, start + head + len(new) - len(old)))
    encoded = Encoder(tokenizer, style.allow_special).encode(texts, places, [q.id for q in prompts.questions])
    return [found.tokens for found in encoded]


def _turns(questions: Sequence[BinaryQuestion], n: int) -> list[int]:
    """Which of n instructions each question gets: in turn, so that none goes with a group or with an answer."""
    turns: dict[tuple[str, str], int] = {}
    counted: dict[tuple[str, bool | None], int] = {}
    found = []
    for q in questions:
        key, within = (("id", q.id), (q.group, q.label)) if q.pair is None else (("pair", q.pair), (q.group, None))
        if key not in turns:
            turns[key] = counted.get(within, 0) % n
            counted[within] = counted.get(within, 0) + 1
        found.append(turns[key])
    return found


def _kind(tokenizer: Any, style: PromptStyle) -> tuple[Literal["chat", "plain"], tuple[str, ...]]:
    has_template = getattr(tokenizer, "chat_template", None) is not None
    if style.kind == "plain" or (style.kind == "auto" and has_template):
        return ("plain" if style.kind == "plain" else "chat"), ()
    if has_template:
        return "chat", ()
    if style.kind == "chat":
        raise PromptError("the tokenizer has no chat template; use kind='plain', or set tokenizer.chat_template")
    note = "the tokenizer has no chat template: prompts are plain text ending in 'Answer:'"
    warnings.warn(note, stacklevel=3)
    return "plain", (note,)


def _content(style: PromptStyle, instruction: str, question: str) -> str:
    """What the user's turn says."""
    return _content_head(instruction) + style.question.replace("{question}", question.strip())


def _content_head(instruction: str) -> str:
    """What the user's turn says before the question's line."""
    return f"{instruction}\n\n"


def _render(
    tokenizer: Any, style: PromptStyle, kind: Literal["chat", "plain"], instruction: str, question: str
) -> tuple[str, int]:
    """The prompt's text and the character at which the instruction starts in it."""
    content = _content(style, instruction, question)
    if kind == "plain":
        text = f"{content}\nAnswer:"
    else:
        text = write_chat(tokenizer, [{"role": "user", "content": content}], generate=True)
    # A template may hold the BOS token itself, a tokenizer may add one: exactly one of the two is let through.
    bos = getattr(tokenizer, "bos_token", None)
    if bos is not None and not text.startswith(bos):
        adds_bos = tokenizer("a", add_special_tokens=True)["input_ids"][:1] == [tokenizer.bos_token_id]
        text = bos + text if adds_bos else text
    # The user's turn is the last place where the content stands: a template's own text comes before it.
    start = text.rfind(content)
    if start < 0:
        raise PromptError(
            f"the chat template rewrites the user's turn, so positions in it are unknown; use kind='plain' ({text!r})"
        )
    return text, start


def _question_spans(style: PromptStyle, question: str, line: int) -> list[Span]:
    """Where the question's own text stands in a prompt, as often as its line does that begins at this character."""
    question, (head, *parts) = question.strip(), style.question.split("{question}")
    at, spans = line + len(head), []
    for part in parts:
        spans.append((at, at + len(question)))
        at += len(question) + len(part)
    return spans


def _control_notes(
    questions: Sequence[BinaryQuestion], encoded: Sequence[Encoded], style: PromptStyle
) -> tuple[str, ...]:
    """What is done with control tokens in questions; a warning, too, where they are read as text unasked."""
    held = [(q.id, found.held[0]) for q, found in zip(questions, encoded, strict=True) if found.held]
    if not held:
        return ()
    (first, token), n = held[0], len(held)
    how = "the model reads them as such" if style.allow_special else "they are read as plain text"
    note = f"{n} question{'s' if n > 1 else ''} hold{'' if n > 1 else 's'} control tokens ({first!r}: {token!r}); {how}"
    if not style.allow_special:
        warnings.warn(note, stacklevel=3)
    return (note,)


def _token_from(offsets: list[Span], char: int) -> int:
    """The first token that begins at or after this character, or the end."""
    return next((i for i, (a, _) in enumerate(offsets) if a >= char), len(offsets))


def _locate(tokenizer: Any, text: str, found: Encoded, start: int, end: int, where: str) -> Span:
    """The tokens that cover these characters, checked to decode back to just them."""
    row, offsets = found.tokens, found.offsets
    covering = [i for i, (a, b) in enumerate(offsets) if a < end and b > start]
    span = (covering[0], covering[-1] + 1) if covering else (0, 0)
    decoded = tokenizer.decode(row[span[0] : span[1]], clean_up_tokenization_spaces=False)
    covered = text[offsets[span[0]][0] : offsets[span[1] - 1][1]] if covering else ""
    if covered.strip() != text[start:end] or decoded.strip() != text[start:end]:
        raise PromptError(
            f"question {where!r}: the candidate {text[start:end]!r} shares a token with its neighbours "
            f"(the tokens read {decoded!r}); set it apart by spaces or choose other candidates"
        )
    return span


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
