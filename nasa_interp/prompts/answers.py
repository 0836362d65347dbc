"""The tokens that a model would answer with, right after a prompt."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from ..errors import PromptError
from .chat import answer_lead
from .encoding import Encoded, Encoder
from .rendering import Kind, Rendered


@dataclass(frozen=True)
class AnswerTokens:
    """How the two answers begin.

    Args:
        shared: tokens that both begin with, which prompts then end with.
        yes, no: the first tokens that differ.
        yes_variants, no_variants: these, and single tokens that say the same in another case or behind a space.
        unsure, unsure_variants: the same of the third candidate, where the style has one.
    """

    shared: tuple[int, ...]
    yes: int
    no: int
    yes_variants: tuple[int, ...]
    no_variants: tuple[int, ...]
    unsure: int | None = None
    unsure_variants: tuple[int, ...] = ()

    @classmethod
    def of(
        cls, encoder: Encoder, kind: Kind, prompts: Sequence[Rendered], encoded: Sequence[Encoded]
    ) -> "AnswerTokens":
        """As the tokenizer writes them behind these prompts; raises PromptError where they can't be told apart."""
        style = prompts[0].style
        words = (style.yes, style.no)
        lead = answer_lead(encoder.tokenizer, kind, prompts[0].text, words[0])
        yes, no = (_continuation(encoder, prompts, encoded, lead + word) for word in words)
        n_shared = next((i for i, (a, b) in enumerate(zip(yes, no, strict=False)) if a != b), min(len(yes), len(no)))
        if n_shared == min(len(yes), len(no)):
            raise PromptError(f"{words[0]!r} and {words[1]!r} begin with the same tokens to the end of one; rename one")
        variants = [_variants(encoder.tokenizer, word) if not n_shared else set() for word in words]
        yes_set, no_set = variants[0] | {yes[n_shared]}, variants[1] | {no[n_shared]}
        both = yes_set & no_set
        own_yes, own_no = (tuple(sorted(tokens - both)) for tokens in (yes_set, no_set))
        answers = cls(tuple(yes[:n_shared]), yes[n_shared], no[n_shared], own_yes, own_no)
        if style.unsure is None:
            return answers
        unsure = _continuation(encoder, prompts, encoded, lead + style.unsure)[0]
        if n_shared or unsure in (*answers.yes_variants, *answers.no_variants):
            raise PromptError(
                f"{style.unsure!r} begins with the same token as {words[0]!r} or {words[1]!r}, or these two begin "
                f"alike, so that three answers can't be told apart by one token; reword them"
            )
        variants = _variants(encoder.tokenizer, style.unsure.split()[0]) | {unsure}
        return replace(answers, unsure=unsure, unsure_variants=tuple(sorted(variants)))


def _continuation(encoder: Encoder, prompts: Sequence[Rendered], encoded: Sequence[Encoded], answer: str) -> list[int]:
    """The tokens of an answer after a prompt: the same after every prompt, or an error."""
    texts, spans = [prompt.text + answer for prompt in prompts], [prompt.question_spans for prompt in prompts]
    extended = encoder.encode(texts, spans, [prompt.question.id for prompt in prompts])
    first = extended[0].tokens[len(encoded[0].tokens) :]
    for prompt, short, long in zip(prompts, encoded, extended, strict=True):
        length = len(short.tokens)
        if long.tokens[:length] != short.tokens or long.tokens[length:] != first or not first:
            raise PromptError(
                f"question {prompt.question.id!r}: prompt and answer {answer!r} tokenize otherwise together than "
                f"apart; choose another candidate or prompt kind"
            )
    return first


def _variants(tokenizer: Any, word: str) -> set[int]:
    """Single tokens that say the same word in another case or with a leading space."""
    forms = {lead + form for lead in ("", " ") for form in (word, word.lower(), word.upper(), word.capitalize())}
    encoded = tokenizer(sorted(forms), add_special_tokens=False)["input_ids"]
    return {tokens[0] for tokens in encoded if len(tokens) == 1}
