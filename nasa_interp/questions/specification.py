"""What stands behind `source:` in a data specification: a path, and behind its last '#' words and settings."""

import os
from collections.abc import Sequence
from dataclasses import dataclass

from ..errors import QuestionError


@dataclass(frozen=True)
class Specification:
    """A path with what is asked of it: `PATH#word,setting=value`.

    Args:
        path: a file, a folder or a name.
        word: the bare word behind '#', or None.
        settings: those written as name=value.
    """

    path: str
    word: str | None
    settings: dict[str, str]

    @property
    def seed(self) -> int:
        """The setting `seed`, by which wrong candidates are drawn; 0 where it isn't there."""
        text = self.settings.get("seed", "0")
        if not text.isdecimal() or len(text) > 18:
            raise QuestionError(f"seed={text} is no whole number from 0 on; correct it")
        return int(text)


def path_and_split(text: str) -> tuple[str, str | None]:
    """The whole text where it names a file or a folder, else the parts before and after its last '#'."""
    path, _, split = text.rpartition("#")
    if not path or os.path.exists(text):
        return text, None
    return path, split or None


def parse_specification(
    source: str, text: str, words: Sequence[str] | None = (), settings: Sequence[str] = ("seed",)
) -> Specification:
    """Reads `PATH#word,setting=value`.

    Args:
        source: the source's name, for errors.
        text: what stands behind the colon. A path that holds '#' itself works where it exists.
        words: the bare words that the source knows; None takes any one.
        settings: the settings that it knows.

    Raises:
        QuestionError: for a word or setting that the source doesn't know, or one that is given twice.
    """
    path, asked = path_and_split(text)
    word, given = None, {}
    for part in asked.split(",") if asked else ():
        name, equals, value = part.strip().partition("=")
        known = settings if equals else words
        if known is not None and name not in known:
            choices = ", ".join([*(words or ()), *(f"{setting}=..." for setting in settings)])
            raise QuestionError(f"{source}:{text}: {part.strip()!r} is unknown there; behind '#' may stand {choices}")
        if name in given or (not equals and word is not None):
            raise QuestionError(f"{source}:{text}: {part.strip()!r} is one too many; give one word, each setting once")
        if equals:
            given[name] = value
        else:
            word = name
    return Specification(path, word, given)
