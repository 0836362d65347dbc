"""Does the harness ask exactly our prompts? Its tokens beside ours, for every question and both answers."""

from collections.abc import Mapping
from typing import Any

from ..errors import PromptError, first_line
from ..prompts import PromptBatch, UserTurns

# What a harness may be told to hand to the chat template; the first that gives our prompts is taken.
TEMPLATE_ARGUMENTS: tuple[Mapping[str, bool], ...] = ({}, {"enable_thinking": False})


def template_arguments(tokenizer: Any, prompts: PromptBatch, turns: UserTurns) -> Mapping[str, bool]:
    """What the harness has to hand to the chat template, once every question's tokens there are shown to be ours.

    Args:
        tokenizer: the prompts' own.
        prompts: ours; turns: the same as messages.

    Raises:
        PromptError: with the first question that would be asked otherwise there, and why; for a candidate of several
            tokens, of which the harness adds up all and we compare the first that differ; for a prompt that is longer
            than the tokenizer says the model takes.

    Source: ours; the encoding is that of lm-evaluation-harness 0.4.13.
    """
    _check_candidates(tokenizer, prompts, turns)
    arguments = _fitting_arguments(tokenizer, prompts, turns)
    for row, text in enumerate(turns.texts):
        written = _written(tokenizer, turns, text, arguments)
        _check_row(tokenizer, prompts, row, written, turns.lead)
    return arguments


def encoded(tokenizer: Any, text: str) -> list[int]:
    """A text's tokens as the harness makes them: with the tokenizer's special ones, unless it begins with them."""
    begins = tokenizer.bos_token or tokenizer.eos_token
    return tokenizer.encode(text, **({"add_special_tokens": False} if begins and text.startswith(begins) else {}))


def _check_candidates(tokenizer: Any, prompts: PromptBatch, turns: UserTurns) -> None:
    for word in (prompts.style.yes, prompts.style.no):
        start = prompts.texts[0]
        n = len(encoded(tokenizer, start + turns.lead + word)) - len(encoded(tokenizer, start))
        if n > 1 or prompts.shared:
            raise PromptError(
                f"the candidate {word!r} has several tokens, all of which lm-evaluation-harness adds up, where we "
                f"compare one; choose candidates of one token, such as Yes and No"
            )


def _fitting_arguments(tokenizer: Any, prompts: PromptBatch, turns: UserTurns) -> Mapping[str, bool]:
    """The first arguments with which the template writes the first prompt as ours."""
    for arguments in TEMPLATE_ARGUMENTS:
        written = _written(tokenizer, turns, turns.texts[0], arguments)
        if prompts.texts[0] == written or prompts.kind == "plain":
            return arguments
    raise PromptError(
        "the harness would fill in the chat template otherwise than we do, as one that prints the date of the day is "
        "pinned here; ask in plain text (--prompt plain), or give the tokenizer a template that prints no date"
    )


def _written(tokenizer: Any, turns: UserTurns, text: str, arguments: Mapping[str, bool]) -> str:
    """A prompt as the harness writes it."""
    if turns.kind == "plain":
        return text
    try:
        return tokenizer.apply_chat_template(
            turns.messages(text), tokenize=False, add_generation_prompt=True, **arguments
        )
    except Exception as error:  # a template may raise anything
        raise PromptError(
            f"the chat template fails on these messages ({first_line(error)}); ask in plain text (--prompt plain)"
        ) from error


def _check_row(tokenizer: Any, prompts: PromptBatch, row: int, written: str, lead: str) -> None:
    """One prompt's tokens and both answers' behind it, cut as the harness does, where the prompt's last word ends."""
    own = prompts.tokens[row][prompts.mask[row]].tolist()
    limit, name = tokenizer.model_max_length, prompts.questions[row].id
    if len(own) >= limit:
        raise PromptError(
            f"question {name!r} makes a prompt of {len(own)} tokens, and the tokenizer says that the model takes "
            f"{limit}, to which the harness would cut it silently; shorten it or leave it out"
        )
    begun = encoded(tokenizer, written.rstrip())
    for word, token in ((prompts.style.yes, prompts.yes_token), (prompts.style.no, prompts.no_token)):
        whole = encoded(tokenizer, written + lead + word)
        if whole != [*own, token] or whole[: len(begun)] != begun:
            raise PromptError(
                f"question {name!r} would be asked in other tokens by lm-evaluation-harness, which reads control "
                f"tokens in questions as such; take it out, or allow them with allow_special=True (--allow-special)"
            )
