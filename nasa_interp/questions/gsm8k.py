"""GSM8K: word problems of grade-school mathematics, whose answer is a number (Cobbe et al., 2021)."""

import re
from typing import Any

from ..errors import QuestionError
from ..reading import shown
from .fields import text_field
from .files import json_lines
from .numbers import number_of, same_number, wrong_numbers
from .reading_rows import Item
from .short import ShortQuestion, digest
from .short_rows import ShortRows
from .specification import parse_specification

NAME = "GSM8K"
_RESULT = re.compile(r"<<[^<>=]*=([^<>=]+)>>")


def load_gsm8k(text: str) -> list[Item]:
    """Reads GSM8K as its authors publish it: JSON lines with `question` and `answer`, which ends in "#### 42".

    Args:
        text: the file, such as `test.jsonl`; `#seed=3` behind it draws other wrong answers.

    Returns:
        Two questions a row, one proposing the right number, one a wrong one; and the bad rows.

    Raises:
        QuestionError: naming the file, where it can't be read.
    """
    return gsm8k_rows(text).twins()


def gsm8k_rows(text: str) -> ShortRows:
    """Its rows; `text` as for `load_gsm8k`."""
    asked = parse_specification("gsm8k", text)
    return ShortRows(json_lines(asked.path), read_gsm8k, asked.seed)


def read_gsm8k(place: str, row: Any) -> ShortQuestion:
    """The question of one row; raises QuestionError naming the place of a bad one."""
    question, solution = (text_field(place, row, name, NAME) for name in ("question", "answer"))
    before, mark, answer = solution.rpartition("####")
    answer = answer.strip()
    if not mark or "\n" in answer or number_of(answer) is None:
        end = shown(solution[-30:])
        raise QuestionError(f"{place}: the answer ends in {end}, not in '#### NUMBER'; correct it or drop the row")
    return ShortQuestion(
        question=question,
        answer=answer,
        id=f"gsm8k/{digest(question)}",
        group="gsm8k",
        same=lambda text: same_number(text, answer),
        candidates=lambda rng: wrong_numbers(answer, rng, _RESULT.findall(before)),
    )
