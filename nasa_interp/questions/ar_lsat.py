"""AR-LSAT: analytical reasoning from law school admission tests, with five options each (Zhong et al., 2021)."""

from collections.abc import Iterator
from random import Random
from typing import Any

from ..errors import QuestionError
from ..reading import read_text, shown
from .drawing import shuffled
from .fields import list_field, text_field
from .files import parse_at
from .reading_rows import Item
from .short import Candidate, ShortQuestion
from .short_rows import ShortRows
from .specification import parse_specification

NAME = "AR-LSAT"
LETTERS = "ABCDE"


def load_ar_lsat(text: str) -> list[Item]:
    """Reads AR-LSAT as its authors publish it: a JSON list of passages, each with its questions.

    Args:
        text: the file, such as `AR_DevelopmentData.json`; `#seed=3` behind it draws other wrong options.

    Returns:
        Two questions a question, with the passage as context: one proposing the right option, one another; and the bad
        rows.

    Raises:
        QuestionError: naming the file, where it is no JSON list.
    """
    return ar_lsat_rows(text).twins()


def ar_lsat_rows(text: str) -> ShortRows:
    """Its rows; `text` as for `load_ar_lsat`."""
    asked = parse_specification("ar_lsat", text)
    path = asked.path
    passages = parse_at(path, read_text(path, QuestionError), "AR-LSAT files are one JSON list")
    if not isinstance(passages, list):
        raise QuestionError(f"{path} holds {type(passages).__name__}, not a list of passages; is it AR-LSAT?")
    return ShortRows(_rows(path, passages), read_ar_lsat, asked.seed)


def _rows(path: str, passages: list[Any]) -> Iterator[tuple[str, Any]]:
    """Pairs of place and question, which holds its passage, too; or the error in its stead."""
    for number, passage in enumerate(passages, start=1):
        place = f"{path}, passage {number}"
        try:
            text = text_field(place, passage, "passage", NAME)
            questions = list_field(place, passage, "questions", NAME)
        except QuestionError as error:
            yield place, error
            continue
        for count, row in enumerate(questions, start=1):
            yield f"{place}, question {count}", {"passage": text, **row} if isinstance(row, dict) else row


def read_ar_lsat(place: str, row: Any) -> ShortQuestion:
    """The question of one row, which holds its passage; raises QuestionError naming the place of a bad one."""
    question, letter, identifier, passage = (
        text_field(place, row, name, NAME) for name in ("question", "answer", "id", "passage")
    )
    options = [
        text_field(place, {"option": option}, "option", NAME) for option in list_field(place, row, "options", NAME)
    ]
    if len(letter) != 1 or letter not in LETTERS[: len(options)]:
        raise QuestionError(f"{place}: the answer {shown(letter)} names none of its {len(options)} options; correct it")
    answer = options[LETTERS.index(letter)]

    def others(rng: Random) -> Iterator[Candidate]:
        yield from (Candidate(option, "option") for option in shuffled(options, rng))

    return ShortQuestion(
        question=question,
        answer=answer,
        id=f"ar_lsat/{identifier}",
        group="ar_lsat",
        same=lambda text: same_option(text, answer),
        candidates=others,
        context=passage,
    )


def same_option(first: str, second: str) -> bool:
    """Whether two options read the same, but for case and space."""
    return first.casefold().split() == second.casefold().split()
