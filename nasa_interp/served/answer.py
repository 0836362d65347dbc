"""What a server answers: the likeliest first tokens with their log-probabilities, in either shape of the protocol."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..errors import ServerError

# Stands for minus infinity in the protocol.
LEAST = -9999.0
# Log-probabilities are rounded, so that they may add up to a little more than 1.
ROUNDING = 1e-2


@dataclass(frozen=True)
class TopToken:
    """A token that the model might have answered with: its text, log-probability, and id where the server gives it."""

    text: str
    logprob: float
    id: int | None = None


@dataclass(frozen=True)
class ServedAnswer:
    """The answer to one prompt.

    Args:
        tokens: the likeliest first tokens, the likeliest first.
        text: what was answered.
    """

    tokens: tuple[TopToken, ...]
    text: str = ""

    def logprob(self, text: str) -> float | None:
        """The log-probability of the token of this text; None where it did not come back."""
        return next((token.logprob for token in self.tokens if token.text == text), None)

    def ids(self, texts: Sequence[str]) -> set[int]:
        """The ids of the tokens of these texts, as far as they came back."""
        return {token.id for token in self.tokens if token.text in texts and token.id is not None}

    @property
    def floor(self) -> float:
        """What any token that did not come back has at most, as a log-probability."""
        return min(token.logprob for token in self.tokens)

    @property
    def unseen(self) -> float:
        """The probability of all tokens together that did not come back."""
        return max(0.0, 1.0 - sum(math.exp(token.logprob) for token in self.tokens))

    def to_list(self) -> list[Any]:
        """Plain JSON values."""
        return [self.text, [[token.text, token.logprob, token.id] for token in self.tokens]]

    @classmethod
    def from_list(cls, content: Any) -> "ServedAnswer":
        """The inverse of `to_list`; raises ValueError or TypeError for anything else."""
        text, tokens = content
        return cls(tuple(TopToken(str(t), float(p), None if i is None else int(i)) for t, p, i in tokens), str(text))


def read_answer(content: Any, url: str) -> ServedAnswer:
    """The first tokens that a reply tells of, from the shape of chats or that of completions, whichever it has.

    Args:
        content: the reply's JSON.
        url: whose it is, for errors.

    Raises:
        ServerError: a reply of another shape, without log-probabilities, or with impossible ones.
    """
    choice = _choice(content, url)
    given = choice.get("logprobs")
    # Servers that can't tell leave them out, or write an empty list.
    if not given or (isinstance(given, dict) and not any(given.values())):
        raise ServerError(
            f"{url} returns no log-probabilities, which decisions are made of; ask a server that does, or ask for "
            f"answers in words: --by generation"
        )
    try:
        tokens = [token for token in _tokens(given) if token.logprob > LEAST]
    except (KeyError, IndexError, TypeError, ValueError, AttributeError) as error:
        raise ServerError(
            f"{url} returns log-probabilities of an unknown shape ({error!r}); is it an OpenAI-compatible server?"
        ) from error
    # Two tokens may read the same; the likelier one stands first.
    tokens.sort(key=lambda token: -token.logprob)
    total = sum(math.exp(min(token.logprob, 1.0)) for token in tokens)
    if not tokens or not total <= 1 + ROUNDING:
        raise ServerError(
            f"{url} returns log-probabilities that can't be (they add up to {total:.3g}); is it an "
            f"OpenAI-compatible server?"
        )
    return ServedAnswer(tuple(tokens), _said(choice) or "")


def read_text(content: Any, url: str) -> str:
    """The text of a reply; raises ServerError where there is none."""
    said = _said(_choice(content, url))
    if said is None:
        raise ServerError(f"{url} returns an answer without text; is it an OpenAI-compatible server?")
    return said


def _choice(content: Any, url: str) -> Mapping[str, Any]:
    choices = content.get("choices") if isinstance(content, dict) else None
    if not isinstance(choices, list) or not choices or not isinstance(choices[0], dict):
        raise ServerError(
            f"{url} returns no answer but {str(content)[:80]!r}; is it an OpenAI-compatible server (its address "
            f"usually ends in /v1)?"
        )
    return choices[0]


def _said(choice: Mapping[str, Any]) -> str | None:
    message = choice.get("message")
    text = message.get("content") if isinstance(message, dict) else choice.get("text")
    # A model that ends its turn at once says nothing, which some servers write as null.
    return "" if isinstance(message, dict) and text is None else text if isinstance(text, str) else None


def _tokens(given: Mapping[str, Any]) -> list[TopToken]:
    """The first position's tokens; llama.cpp gives the shape of chats for completions too."""
    if given.get("content"):
        rows = [(row["token"], row["logprob"], row.get("id")) for row in given["content"][0]["top_logprobs"]]
    else:
        rows = [(text, logprob, None) for text, logprob in given["top_logprobs"][0].items()]
    for text, logprob, number in rows:
        is_number = isinstance(logprob, (int, float)) and not isinstance(logprob, bool)
        if not (isinstance(text, str) and is_number and not math.isnan(logprob)):
            raise ValueError(f"{text!r}: {logprob!r}")
        if not (number is None or isinstance(number, int)):
            raise ValueError(f"id {number!r}")
    return [TopToken(text, float(logprob), number) for text, logprob, number in rows]
