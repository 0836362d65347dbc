"""Open questions as prompts: nothing to choose from, the model answers in its own words."""

from collections.abc import Sequence
from typing import Any

from ..errors import PromptError
from .chat import write_chat
from .encoding import Encoder
from .rendering import with_bos


def open_prompts(model: Any, texts: Sequence[str], ids: Sequence[str], room: int = 0) -> list[list[int]]:
    """The tokens of each text as a user's turn, or as plain text that ends in "Answer:" where there is no template.

    Args:
        model: a Model.
        texts: what is asked; a control token in it is read as text.
        ids: of the questions, for errors.
        room: tokens that must fit behind.

    Raises:
        PromptError: a prompt that leaves no such room in the model's context.
    """
    tokenizer = model.tokenizer
    chat = getattr(tokenizer, "chat_template", None) is not None
    written = [
        write_chat(tokenizer, [{"role": "user", "content": text}], generate=True) if chat else f"{text}\nAnswer:"
        for text in texts
    ]
    written = [with_bos(tokenizer, prompt) for prompt in written]
    places = [prompt.rfind(text) for prompt, text in zip(written, texts, strict=True)]
    if min(places) < 0:
        raise PromptError(
            "the chat template rewrites the user's turn, so what the question says in it is unknown; set "
            "tokenizer.chat_template to one that keeps it"
        )
    spans = [[(at, at + len(text))] for at, text in zip(places, texts, strict=True)]
    rows = [prompt.tokens for prompt in Encoder(tokenizer).encode(written, spans, ids)]
    limit = model.context_length
    for row, identifier in zip(rows, ids, strict=True):
        if limit is not None and len(row) + room > limit:
            raise PromptError(
                f"question {identifier!r} makes a prompt of {len(row)} tokens, which leaves no room for {room} in the "
                f"model's context of {limit}; leave it out, or its context"
            )
    return rows
