"""The tokens that a model would answer with, right after a prompt."""

from dataclasses import dataclass
from typing import Any

from ..errors import PromptError
from .chat import answer_lead


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
