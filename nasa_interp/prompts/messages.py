"""Prompts for a server, which fills in the chat template and tokenizes by itself: messages, or a text."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from ..errors import PromptError
from ..questions import BinaryQuestion
from .rendering import Kind, chat_messages, content, plain_text, turns_of
from .style import Order, PromptStyle

# Shapes of the control tokens of common tokenizers; a server's own can't be asked for.
_ANGLED = (
    "s|/s|bos|eos|pad|unk|mask|sep|cls|start_of_turn|end_of_turn|start_of_image|end_of_image|think|/think|tool_call|"
    "/tool_call|tool_response|/tool_response|repo_name|reponame|file_sep|filename|gh_stars|issue_start|issue_comment|"
    "issue_closed|jupyter_start|jupyter_text|jupyter_code|jupyter_output|jupyter_script|empty_output|"
    "fim_prefix|fim_middle|fim_suffix|fim_pad|(?:unused|extra_id_|reserved_)_?\\d+"
)
CONTROL = re.compile(
    rf"<\|[^|<>\n]*\|>|<｜[^<>\n]*｜>|<(?:{_ANGLED})>|<</?SYS>>|\[/?(?:INST|SYSTEM_PROMPT|AVAILABLE_TOOLS|TOOL_[A-Z]+)\]"
)


@dataclass(frozen=True)
class ServedPrompt:
    """One question as a server gets it.

    Args:
        question: what is asked.
        order: of the candidates.
        kind: "chat" or "plain".
        content: the messages of a chat, role and text each; or one plain text.
    """

    question: BinaryQuestion
    order: Order
    kind: Kind
    content: str | tuple[tuple[str, str], ...]

    @property
    def body(self) -> dict[str, object]:
        """The part of a request that holds it."""
        if isinstance(self.content, str):
            return {"prompt": self.content}
        return {"messages": [{"role": role, "content": text} for role, text in self.content]}


def served_prompts(style: PromptStyle, order: Order, questions: Sequence[BinaryQuestion]) -> list[ServedPrompt]:
    """The prompt of each question, as `build_prompts` words it, for a server to tokenize.

    Args:
        style: wording and candidates; "auto" is a chat, as a server doesn't say whether it has a template.
        order: of the candidates.
        questions: what to ask.

    Raises:
        PromptError: a style that lets the model think first, or a question with a control token in it.
    """
    if style.think:
        raise PromptError("a served model can't think first, as it answers in one token; load the model itself")
    asked = [(q.id, text) for q in (*questions, *style.examples) for text in (q.question, q.context or "")]
    for name, text in () if style.allow_special else asked:
        if found := CONTROL.search(text):
            raise PromptError(
                f"question {name!r} holds {found[0]!r}, which the server would read as a control token; take it out, "
                f"or allow it with allow_special=True (--allow-special)"
            )
    instructions = style.render_instructions(order)
    turns = turns_of(questions, len(instructions))
    return [_write(style, order, instructions[turn], q) for turn, q in zip(turns, questions, strict=True)]


def _write(style: PromptStyle, order: Order, instruction: str, question: BinaryQuestion) -> ServedPrompt:
    turn = content(style, instruction, question)
    if style.kind == "plain":
        return ServedPrompt(question, order, "plain", plain_text(style, instruction, turn))
    messages = chat_messages(style, instruction, turn)
    return ServedPrompt(question, order, "chat", tuple((m["role"], m["content"]) for m in messages))
