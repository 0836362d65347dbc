"""Prompts to tokens: control tokens are the template's alone, what a question says is read as text.

A tokenizer splits a text at its added tokens and encodes the pieces between them one by one. So the piece with the
question in it can be encoded again, by a copy of the tokenizer that doesn't split at control tokens, and replace what
the tokenizer made of it. Whether that holds is checked on every prompt that needs it.
"""

import functools
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from tokenizers import AddedToken, Tokenizer

from ..errors import PromptError

Span = tuple[int, int]

# Stands before a piece for the control token that the piece comes after, as some tokenizers put a space before a text
# and not before its pieces. No question holds this character, from the end of the private use area.
MARK = "\U0010fffd"


@dataclass(frozen=True)
class Encoded:
    """A text's tokens, the characters that each one covers, and the control tokens in its question."""

    tokens: list[int]
    offsets: list[Span]
    held: tuple[str, ...] = ()


@dataclass(frozen=True)
class Encoder:
    """A tokenizer that reads control tokens in given spans of a text as plain text, and all else as usual.

    Args:
        tokenizer: a fast one.
        allow_special: keep them as control tokens.
    """

    tokenizer: Any
    allow_special: bool = False

    @functools.cached_property
    def controls(self) -> Mapping[int, str]:
        """The control tokens by id."""
        return control_tokens(self.tokenizer)

    @functools.cached_property
    def reader(self) -> "TextReader":
        """What reads them as text; made where it is needed, as that copies the vocabulary."""
        return TextReader(self.tokenizer, set(self.controls.values()))

    def encode(self, texts: Sequence[str], questions: Sequence[Sequence[Span]], ids: Sequence[str]) -> list[Encoded]:
        """The tokens of each text; nothing is added at its ends.

        Args:
            texts: prompts.
            questions: where each one's question stands in it.
            ids: of the questions, for the error.

        Raises:
            PromptError: for a question whose control token this tokenizer can't read as text.
        """
        encoded = self._as_always(texts)
        for row, (text, spans) in enumerate(zip(texts, questions, strict=True)):
            prompt = encoded[row]
            inside = [i for i in self._control_indices(prompt) if _meets(prompt.offsets[i], spans)]
            if not inside:
                continue
            held = tuple(self.controls[prompt.tokens[i]] for i in inside)
            if not self.allow_special:
                prompt = self._as_text(text, prompt, spans, [prompt.offsets[i] for i in inside])
            if prompt is None:
                raise PromptError(
                    f"question {ids[row]!r} holds the control token {held[0]!r}, which this tokenizer can't read as "
                    f"text; take it out, or allow it with allow_special=True (--allow-special)"
                )
            encoded[row] = Encoded(prompt.tokens, prompt.offsets, held)
        return encoded

    def _as_always(self, texts: Sequence[str]) -> list[Encoded]:
        output = self.tokenizer(
            list(texts), add_special_tokens=False, return_offsets_mapping=True, split_special_tokens=False
        )
        return [Encoded(*row) for row in zip(output["input_ids"], output["offset_mapping"], strict=True)]

    def _control_indices(self, encoded: Encoded) -> list[int]:
        return [i for i, token in enumerate(encoded.tokens) if token in self.controls]

    def _as_text(self, text: str, encoded: Encoded, spans: Sequence[Span], inside: Sequence[Span]) -> Encoded | None:
        """The prompt with its question read as text; None where that can't be shown to be right."""
        read = self._reread(text, encoded, spans)
        # The same prompt with an ordinary word for each control token: there both ways must agree.
        plain = "".join(
            "x" if _meets((i, i + 1), inside) and _meets((i, i + 1), spans) else c for i, c in enumerate(text)
        )
        (ordinary,) = self._as_always([plain])
        frame = [ordinary.tokens[i] for i in self._control_indices(ordinary)]
        alike = self._reread(plain, ordinary, spans) == ordinary
        same_frame = [read.tokens[i] for i in self._control_indices(read)] == frame
        return read if alike and same_frame and all(self._says(read, text, span) for span in spans) else None

    def _reread(self, text: str, encoded: Encoded, spans: Sequence[Span]) -> Encoded:
        """Splits at the control tokens outside the question, and reads the pieces that hold any of it as text."""
        frame = [i for i in self._control_indices(encoded) if not _meets(encoded.offsets[i], spans)]
        tokens: list[int] = []
        offsets: list[Span] = []
        for before, after in pairwise([-1, *frame, len(encoded.tokens)]):
            start = encoded.offsets[before][1] if before >= 0 else 0
            end = encoded.offsets[after][0] if after < len(encoded.tokens) else len(text)
            piece = Encoded(encoded.tokens[before + 1 : after], encoded.offsets[before + 1 : after])
            if _meets((start, end), spans):
                piece = self.reader.read(text, start, end, after_control=before >= 0)
            tokens += [*piece.tokens, *encoded.tokens[after : after + 1]]
            offsets += [*piece.offsets, *encoded.offsets[after : after + 1]]
        return Encoded(tokens, offsets)

    def _says(self, encoded: Encoded, text: str, span: Span) -> bool:
        pairs = zip(encoded.tokens, encoded.offsets, strict=True)
        covering = [token for token, offset in pairs if _meets(offset, [span])]
        return text[slice(*span)] in self.tokenizer.decode(covering, clean_up_tokenization_spaces=False)


class TextReader:
    """A copy of a tokenizer for which the control tokens are text.

    Args:
        tokenizer: a fast one; it stays as it is.
        controls: the control tokens' texts.
    """

    def __init__(self, tokenizer: Any, controls: set[str]):
        state = json.loads(tokenizer.backend_tokenizer.to_str()) | {"truncation": None, "padding": None}
        for token in state["added_tokens"]:
            token["special"] = token["content"] in controls
        self._backend = Tokenizer.from_str(json.dumps(state))
        self._backend.encode_special_tokens = True
        self._backend.add_tokens([AddedToken(MARK, normalized=False)])

    def read(self, text: str, start: int, end: int, after_control: bool) -> Encoded:
        """The tokens of these characters, as of a piece that begins the text or comes after a control token."""
        lead = int(after_control)
        piece = self._backend.encode(MARK * lead + text[start:end], add_special_tokens=False)
        shift = start - lead
        return Encoded(piece.ids[lead:], [(a + shift, b + shift) for a, b in piece.offsets[lead:]])


def control_tokens(tokenizer: Any) -> dict[int, str]:
    """Added tokens that aren't text: those flagged special, and those that the chat template writes; by id.

    White space is text whatever it is flagged as.
    """
    templates = getattr(tokenizer, "chat_template", None) or ""
    written = templates if isinstance(templates, str) else "\n".join(templates.values())
    return {
        index: token.content
        for index, token in tokenizer.added_tokens_decoder.items()
        if not token.content.isspace() and (token.special or token.content in written)
    }


def _meets(span: Span, others: Iterable[Span]) -> bool:
    return any(span[0] < end and start < span[1] for start, end in others)
