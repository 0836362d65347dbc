"""A tokenizer's chat template, filled in: without the current date, and without thinking where it allows that."""

import datetime
import functools
import re
from typing import Any, Literal

from ..errors import PromptError, first_line

# Templates that print the date would make every day's prompts differ; all of them see this one.
PINNED_DATE = datetime.datetime(2024, 7, 26)


def write_chat(tokenizer: Any, messages: list[dict[str, str]], generate: bool) -> str:
    """The tokenizer's template, filled in; without the current date, and without thinking where it allows that."""
    try:
        return tokenizer.apply_chat_template(
            messages,
            chat_template=_pin_date(tokenizer.get_chat_template()),
            tokenize=False,
            add_generation_prompt=generate,
            # Names that a template doesn't use do nothing; these cover those known to print a date or to think.
            enable_thinking=False,
            thinking=False,
            date_string=PINNED_DATE.strftime("%d %b %Y"),
        )
    except PromptError:
        raise
    except Exception as error:  # a template may raise anything, and transformers wraps none of it
        raise PromptError(
            f"the chat template fails on a single user turn ({first_line(error)}); use kind='plain'"
        ) from error


def answer_lead(tokenizer: Any, kind: Literal["chat", "plain"], text: str, word: str) -> str:
    """What stands between a prompt and its answer: nothing, or a space.

    Plain prompts end in "Answer:", after which a word begins with its space. For chat, the template shows it by
    writing the answer; where it doesn't, the prompt's last character decides.
    """
    if kind == "chat":
        try:
            written = write_chat(
                tokenizer, [{"role": "user", "content": "Q"}, {"role": "assistant", "content": word}], generate=False
            )
            before = write_chat(tokenizer, [{"role": "user", "content": "Q"}], generate=True)
        except PromptError:
            written = before = ""
        lead, answer, _ = written.removeprefix(before).partition(word)
        if before and written.startswith(before) and answer and lead in ("", " "):
            return lead
    ended = text[-1:].isspace() or any(text.endswith(token) for token in tokenizer.all_special_tokens)
    return "" if ended else " "


@functools.cache
def _pin_date(template: str) -> str:
    """The template with the pinned date wherever it prints the date of the day."""
    pinned = re.sub(r"strftime_now\(\s*(['\"])(.*?)\1\s*\)", lambda call: repr(PINNED_DATE.strftime(call[2])), template)
    if "strftime_now(" in pinned:
        raise PromptError(
            "the chat template prints the date of the day in a way that can't be pinned, so prompts would differ from "
            "day to day; set tokenizer.chat_template to one without strftime_now"
        )
    return pinned
