"""Prompts as a chat's messages, for programs that fill in the chat template by themselves."""

from dataclasses import dataclass
from typing import Any, Literal

from ..errors import PromptError
from .batch import PromptBatch
from .chat import answer_lead
from .rendering import answered_examples, content, messages_of, turns_of


@dataclass(frozen=True)
class UserTurns:
    """What prompts say, before any template: the same words that `build_prompts` has put into tokens.

    Args:
        kind: "chat", or "plain", where each text is the whole prompt.
        system: the system prompt of a chat.
        examples: what was asked and answered before, in a chat; in plain text they stand in `texts`.
        texts: what the user says last, one a prompt.
        lead: what stands between a prompt and its answer: nothing, or a space.
    """

    kind: Literal["chat", "plain"]
    system: str | None
    examples: tuple[tuple[str, str], ...]
    texts: tuple[str, ...]
    lead: str

    def messages(self, text: str) -> list[dict[str, str]]:
        """The chat that ends in this text."""
        return messages_of(self.system, self.examples, text)


def user_turns(tokenizer: Any, prompts: PromptBatch) -> UserTurns:
    """Prompts as messages.

    Args:
        tokenizer: the prompts' own.
        prompts: what `build_prompts` made.

    Raises:
        PromptError: for a chat whose examples take turns in several instructions, so that no two prompts need have
            the same examples.

    Source: ours.
    """
    style, kind = prompts.style, prompts.kind
    lead = answer_lead(tokenizer, kind, prompts.texts[0], style.yes)
    if kind == "plain":
        # The program that reads these puts a BOS token before them where the tokenizer does.
        bos = getattr(tokenizer, "bos_token", None) or ""
        return UserTurns(kind, None, (), tuple(text.removeprefix(bos) for text in prompts.texts), lead)
    instructions = style.render_instructions(prompts.order)
    if len(instructions) > 1 and style.examples:
        raise PromptError(
            f"the examples stand under {len(instructions)} instructions in turn, and other programs ask the same "
            f"examples before every question; give one instruction, or no examples"
        )
    first = instructions[0] if instructions else ""
    examples = tuple(answered_examples(style, first))
    turns = zip(prompts.questions, turns_of(prompts.questions, len(instructions)), strict=True)
    texts = tuple(content(style, instructions[turn], q) for q, turn in turns)
    return UserTurns(kind, style.system, examples, texts, lead)
