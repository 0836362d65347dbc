"""From a question to the text of its prompt: which instruction, chat or plain, and where its parts stand."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

from ..errors import PromptError, warn_user
from ..questions import BinaryQuestion
from .chat import write_chat
from .encoding import Span
from .style import Order, PromptStyle, find_candidates

Kind = Literal["chat", "plain"]

SEPARATOR = "\n\n"


@dataclass(frozen=True)
class Rendered:
    """A prompt as text.

    Args:
        question: what it asks.
        instruction: its instruction, with the candidates in their order.
        candidates: where the yes and the no candidate stand in the instruction.
        text: the whole prompt.
        start: the character at which the instruction begins in it.
        line: the character at which the question's line begins.
        style: how it was written.
    """

    question: BinaryQuestion
    instruction: str
    candidates: tuple[Span, Span]
    text: str
    start: int
    line: int
    style: PromptStyle

    @cached_property
    def question_spans(self) -> list[Span]:
        """Where the question's own texts stand, its context's among them, as often as their lines hold them."""
        return question_spans(self.style, self.question, self.line)

    @property
    def question_end(self) -> int:
        """The character after the question's line."""
        return self.line + len(question_lines(self.style, self.question))


def render(
    tokenizer: Any,
    style: PromptStyle,
    kind: Kind,
    order: Order,
    questions: Sequence[BinaryQuestion],
    thoughts: Sequence[str] | None = None,
) -> list[Rendered]:
    """The prompt of each question, with what was thought about it behind, where the style lets the model think."""
    instructions = style.render_instructions(order)
    candidates = [find_candidates(text, style.yes, style.no) for text in instructions]
    prompts = []
    for number, (q, turn) in enumerate(zip(questions, turns_of(questions, len(instructions)), strict=True)):
        text, at = _render(tokenizer, style, kind, instructions[turn], q)
        text += "" if thoughts is None else thoughts[number] + style.cue
        start, line = (at + offset for offset in places(style, instructions[turn], q))
        prompts.append(Rendered(q, instructions[turn], candidates[turn], text, start, line, style))
    return prompts


def prompt_kind(tokenizer: Any, style: PromptStyle) -> tuple[Kind, tuple[str, ...]]:
    """Chat or plain, and what the reader should know of that choice; a warning too."""
    has_template = getattr(tokenizer, "chat_template", None) is not None
    if style.kind == "plain" or (style.kind == "auto" and has_template):
        return ("plain" if style.kind == "plain" else "chat"), ()
    if has_template:
        return "chat", ()
    if style.kind == "chat":
        raise PromptError("the tokenizer has no chat template; use kind='plain', or set tokenizer.chat_template")
    note = "the tokenizer has no chat template: prompts are plain text ending in 'Answer:'"
    warn_user(note)
    return "plain", (note,)


def content(style: PromptStyle, instruction: str, question: BinaryQuestion) -> str:
    """What the user's turn says."""
    parts = (instruction, question_lines(style, question))
    return SEPARATOR.join(reversed(parts) if style.after else parts)


def places(style: PromptStyle, instruction: str, question: BinaryQuestion) -> tuple[int, int]:
    """The characters of the user's turn at which the instruction and the question's lines begin."""
    if style.after:
        return len(question_lines(style, question)) + len(SEPARATOR), 0
    return 0, len(instruction) + len(SEPARATOR)


def question_lines(style: PromptStyle, question: BinaryQuestion) -> str:
    """How the question is written, behind its context where it has one."""
    return SEPARATOR.join(line.replace(mark, text) for line, mark, text in _lines(style, question))


def question_spans(style: PromptStyle, question: BinaryQuestion, at: int) -> list[Span]:
    """Where the question's own texts stand in a prompt, when their lines begin at this character."""
    spans = []
    for line, mark, text in _lines(style, question):
        head, *parts = line.split(mark)
        at += len(head)
        for part in parts:
            spans.append((at, at + len(text)))
            at += len(text) + len(part)
        at += len(SEPARATOR)
    return spans


def _lines(style: PromptStyle, question: BinaryQuestion) -> list[tuple[str, str, str]]:
    """What stands under the instruction: each line, the mark in it, and the text that takes the mark's place."""
    asked = (style.question, "{question}", question.question.strip())
    if question.context is None:
        return [asked]
    return [(style.context, "{context}", question.context.strip()), asked]


def turns_of(questions: Sequence[BinaryQuestion], n: int) -> list[int]:
    """Which of n instructions each question gets: in turn, so that none goes with a group or with an answer."""
    turn_of: dict[tuple[str, str], int] = {}
    counted: dict[tuple[str, bool | None], int] = {}
    turns = []
    for q in questions:
        key, within = (("id", q.id), (q.group, q.label)) if q.pair is None else (("pair", q.pair), (q.group, None))
        if key not in turn_of:
            turn_of[key] = counted.get(within, 0) % n
            counted[within] = counted.get(within, 0) + 1
        turns.append(turn_of[key])
    return turns


def _render(
    tokenizer: Any, style: PromptStyle, kind: Kind, instruction: str, question: BinaryQuestion
) -> tuple[str, int]:
    """The prompt's text and the character at which the user's turn starts in it."""
    turn = content(style, instruction, question)
    if kind == "plain":
        text = plain_text(style, instruction, turn)
    else:
        text = write_chat(tokenizer, chat_messages(style, instruction, turn), generate=True)
    text = with_bos(tokenizer, text)
    # The user's turn is the last place where the content stands: a template's own text comes before it.
    start = text.rfind(turn)
    if start < 0:
        raise PromptError(
            f"the chat template rewrites the user's turn, so positions in it are unknown; use kind='plain' ({text!r})"
        )
    return text, start


def with_bos(tokenizer: Any, text: str) -> str:
    """A template may hold the BOS token itself, a tokenizer may add one: the prompt gets exactly one."""
    bos = getattr(tokenizer, "bos_token", None)
    if bos is None or text.startswith(bos):
        return text
    adds_bos = tokenizer("a", add_special_tokens=True)["input_ids"][:1] == [tokenizer.bos_token_id]
    return bos + text if adds_bos else text


def plain_text(style: PromptStyle, instruction: str, turn: str) -> str:
    """A plain prompt: the system prompt, examples with their answers, and what is asked."""
    head = "" if style.system is None else f"{style.system}{SEPARATOR}"
    head += "".join(f"{said}\nAnswer: {word}{SEPARATOR}" for said, word in answered_examples(style, instruction))
    return f"{head}{turn}" if style.think else f"{head}{turn}\nAnswer:"


def chat_messages(style: PromptStyle, instruction: str, turn: str) -> list[dict[str, str]]:
    """A chat: the system prompt, examples with their answers, and the user's turn."""
    return messages_of(style.system, answered_examples(style, instruction), turn)


def messages_of(system: str | None, answered: Sequence[tuple[str, str]], turn: str) -> list[dict[str, str]]:
    """A chat of a system prompt, what was asked and answered before, and what the user says last."""
    messages = [] if system is None else [{"role": "system", "content": system}]
    for said, word in answered:
        messages += [{"role": "user", "content": said}, {"role": "assistant", "content": word}]
    return [*messages, {"role": "user", "content": turn}]


def answered_examples(style: PromptStyle, instruction: str) -> list[tuple[str, str]]:
    """The style's examples as they are asked, and the right answer to each."""
    asked = [(content(style, instruction, q), q.label) for q in style.examples]
    return [(said, style.yes if style.right_word(bool(label)) else style.no) for said, label in asked]
