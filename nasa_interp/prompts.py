"""Questions to token batches: instruction first, then the question, with the answer candidates located exactly.

Nothing else in the package builds prompts. What a batch promises: the candidates are found by character offsets
inside the instruction's own span and checked to decode back; there is one BOS token or none, never two; a control token
in a question is text; padding is on the right, so that each prompt keeps its own coordinates.
"""

import re
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from .chat import answer_lead, write_chat
from .encoding import Encoded, Encoder, Span
from .errors import PromptError
from .questions import BinaryQuestion, QuestionList, check_questions
from .torch_defaults import under_torch_defaults

Order = Literal["yes_no", "no_yes"]
Orders = Literal["both", "yes_no", "no_yes"]
ORDERS: tuple[Order, Order] = ("yes_no", "no_yes")


@dataclass(frozen=True)
class PromptStyle:
    """How a question becomes a prompt; one value for all prompts of a run.

    Args:
        instruction: the text before the question. `{first}` and `{second}` stand for the candidates in either order;
            a text without them must name both candidates once each, and the other order swaps them. Of several texts
            each question gets one: they take turns within every group, and twins get the same.
        yes, no: the answer candidates, any two strings (source: the paper uses Yes and No).
        kind: "chat" (the tokenizer's template), "plain", or "auto": chat where there is a template.
        question: how the question is written under the instruction; `{question}` stands for it.
        allow_special: read control tokens in a question ("<|im_end|>") as what they are, not as the text they stand in.
    """

    instruction: str | Sequence[str] = "You are given a question and you MUST answer {first} or {second}."
    yes: str = "Yes"
    no: str = "No"
    kind: Literal["auto", "chat", "plain"] = "auto"
    question: str = "Question: {question}"
    allow_special: bool = False

    def __post_init__(self):
        if not isinstance(self.instruction, str):
            object.__setattr__(self, "instruction", tuple(self.instruction))
        if not self.yes.strip() or not self.no.strip() or self.yes == self.no:
            raise PromptError(
                f"the candidates {self.yes!r} and {self.no!r} are not two different texts; give two, such as Yes and No"
            )
        if self.kind not in ("auto", "chat", "plain"):
            raise PromptError(f"prompt kind {self.kind!r} is unknown; use 'auto', 'chat' or 'plain'")
        if "{question}" not in self.question:
            raise PromptError(f"the question line {self.question!r} has no {{question}} in it; add it")
        if not self.instructions:
            raise PromptError("there is no instruction; give one text, or several")

    @property
    def instructions(self) -> tuple[str, ...]:
        """The instruction, or all of them."""
        return (self.instruction,) if isinstance(self.instruction, str) else tuple(self.instruction)

    def render_instructions(self, order: Order) -> tuple[str, ...]:
        """Each instruction with the candidates in this order; raises PromptError if one doesn't hold each once."""
        if order not in ORDERS:
            raise PromptError(f"order {order!r} is unknown; use 'yes_no', 'no_yes' or 'both'")
        return tuple(self._render(text, order) for text in self.instructions)

    def _render(self, text: str, order: Order) -> str:
        first, second = (self.yes, self.no) if order == "yes_no" else (self.no, self.yes)
        if "{first}" in text or "{second}" in text:
            text = text.replace("{first}", first).replace("{second}", second)
            find_candidates(text, self.yes, self.no)
            return text
        yes, no = find_candidates(text, self.yes, self.no)
        if (yes < no) == (order == "yes_no"):
            return text
        left, right = sorted((yes, no))
        return text[: left[0]] + first + text[left[1] : right[0]] + second + text[right[1] :]

    def to_dict(self) -> dict[str, Any]:
        """Plain values for a run's details: a text, or a list of texts where there are several instructions."""
        texts = list(self.instructions)
        values = {name: getattr(self, name) for name in ("yes", "no", "kind", "question")}
        # Named only where it was chosen, so that runs from before there was a choice compare as equal.
        allowed = {"allow_special": True} if self.allow_special else {}
        return {"instruction": texts if len(texts) > 1 else texts[0]} | values | allowed


@dataclass(frozen=True)
class PromptBatch:
    """Prompts as tokens, padded on the right, with everything that scoring and deciding need to know of them.

    Pads are whatever tokens the model has, and nothing may depend on them; `mask` is True where there is none.
    Positions count the tokens of a prompt from 0; spans are start and end (exclusive). `shared` are the tokens that
    both answers begin with, which the prompts end with. The instruction runs from `instruction_start` to
    `first_query`, the question's line from there to `question_end` (exclusive). `style` is how they were written,
    `data` the name of the questions ("" where they had none), so that results of prompts that are handed over say so.
    """

    tokens: Int[Tensor, "batch pos"]
    mask: Bool[Tensor, "batch pos"]
    yes_span: Int[Tensor, "batch 2"]
    no_span: Int[Tensor, "batch 2"]
    instruction_start: Int[Tensor, " batch"]
    first_query: Int[Tensor, " batch"]
    question_end: Int[Tensor, " batch"]
    last_pos: Int[Tensor, " batch"]
    labels: Bool[Tensor, " batch"]
    yes_token: int
    no_token: int
    yes_variants: tuple[int, ...]
    no_variants: tuple[int, ...]
    order: Order
    kind: Literal["chat", "plain"]
    questions: tuple[BinaryQuestion, ...] = field(repr=False)
    texts: tuple[str, ...] = field(repr=False)
    style: PromptStyle = field(repr=False)
    data: str = ""
    notes: tuple[str, ...] = ()
    shared: tuple[int, ...] = ()

    @property
    def position_ids(self) -> Int[Tensor, "batch pos"]:
        """Each token's position; pads continue the count, as they come after every real token."""
        return torch.arange(self.tokens.shape[1]).expand_as(self.tokens)

    @property
    def n_queries(self) -> Int[Tensor, " batch"]:
        """Positions after the instruction, the last prompt token included."""
        return self.last_pos - self.first_query + 1

    def __len__(self) -> int:
        return len(self.tokens)

    def select(self, rows: Sequence[int] | Int[Tensor, " rows"]) -> "PromptBatch":
        """The prompts at these places, in this order, cut to the longest of them."""
        rows = torch.as_tensor(rows, dtype=torch.long)
        length = int(self.last_pos[rows].max()) + 1 if len(rows) else 0
        names = ("yes_span", "no_span", "instruction_start", "first_query", "question_end", "last_pos", "labels")
        tensors = {name: getattr(self, name)[rows] for name in names}
        return replace(
            self,
            tokens=self.tokens[rows, :length],
            mask=self.mask[rows, :length],
            questions=tuple(self.questions[i] for i in rows.tolist()),
            texts=tuple(self.texts[i] for i in rows.tolist()),
            **tensors,
        )


def find_candidates(text: str, yes: str, no: str) -> tuple[tuple[int, int], tuple[int, int]]:
    """Where both candidates stand in an instruction, as character spans.

    A candidate counts as a whole word, case-sensitive; where one contains the other ("correct", "not correct"), the
    shorter one isn't looked for inside the longer.

    Raises:
        PromptError: with the text, where either isn't found exactly once.
    """
    spans: dict[str, tuple[int, int]] = {}
    taken: list[tuple[int, int]] = []
    for candidate in sorted((yes, no), key=len, reverse=True):
        pattern = re.compile(rf"(?<!\w){re.escape(candidate)}(?!\w)")
        found = [m.span() for m in pattern.finditer(text)]
        found = [span for span in found if not any(a <= span[0] and span[1] <= b for a, b in taken)]
        if len(found) != 1:
            raise PromptError(
                f"the instruction must hold {candidate!r} exactly once as a word of its own, "
                f"and holds it {len(found)} times; reword {text!r}"
            )
        spans[candidate] = found[0]
        taken.append(found[0])
    return spans[yes], spans[no]


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


@dataclass(frozen=True)
class _Answers:
    """The tokens that a model would answer with, right after a prompt."""

    shared: tuple[int, ...]
    yes: int
    no: int
    yes_variants: tuple[int, ...]
    no_variants: tuple[int, ...]

    @classmethod
    def of(cls, encoder, style, kind, texts, places, encoded, questions) -> "_Answers":
        tokenizer = encoder.tokenizer
        lead = answer_lead(tokenizer, kind, texts[0], style.yes)
        yes, no = (
            _continuation(encoder, texts, places, encoded, questions, lead + word) for word in (style.yes, style.no)
        )
        n_shared = next((i for i, (a, b) in enumerate(zip(yes, no, strict=False)) if a != b), min(len(yes), len(no)))
        if n_shared == min(len(yes), len(no)):
            raise PromptError(
                f"{style.yes!r} and {style.no!r} begin with the same tokens to the end of one; rename one"
            )
        shared = yes[:n_shared]
        variants = [_variants(tokenizer, word) if not shared else set() for word in (style.yes, style.no)]
        yes_set, no_set = variants[0] | {yes[n_shared]}, variants[1] | {no[n_shared]}
        both = yes_set & no_set
        return cls(
            tuple(shared), yes[n_shared], no[n_shared], tuple(sorted(yes_set - both)), tuple(sorted(no_set - both))
        )


def _continuation(encoder, texts, places, encoded, questions, answer: str) -> list[int]:
    """The tokens of an answer after a prompt: the same after every prompt, or an error."""
    extended = encoder.encode([text + answer for text in texts], places, [q.id for q in questions])
    rows, extended = [found.tokens for found in encoded], [found.tokens for found in extended]
    first = extended[0][len(rows[0]) :]
    for q, row, longer in zip(questions, rows, extended, strict=True):
        if longer[: len(row)] != row or longer[len(row) :] != first or not first:
            raise PromptError(
                f"question {q.id!r}: prompt and answer {answer!r} tokenize otherwise together than apart; "
                f"choose another candidate or prompt kind"
            )
    return first


def _variants(tokenizer: Any, word: str) -> set[int]:
    """Single tokens that say the same word in another case or with a leading space."""
    forms = {lead + form for lead in ("", " ") for form in (word, word.lower(), word.upper(), word.capitalize())}
    encoded = tokenizer(sorted(forms), add_special_tokens=False)["input_ids"]
    return {tokens[0] for tokens in encoded if len(tokens) == 1}


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
