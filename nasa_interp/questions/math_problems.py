"""MATH: competition problems whose answer is an expression in LaTeX (Hendrycks et al., 2021; Lightman et al., 2023)."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ..errors import QuestionError
from ..reading import read_text
from .expressions import comparer, last_boxed, wrong_expressions
from .fields import field_of, text_field
from .files import json_lines, parse_at
from .reading_rows import Item
from .short import ShortQuestion
from .short_rows import ShortRows
from .specification import parse_specification

NAME = "MATH"


def load_math(text: str) -> list[Item]:
    r"""Reads MATH, in either of the two layouts in which it was published.

    Args:
        text: a file of JSON lines with `problem`, `answer` or `solution`, `subject`, `unique_id` (MATH-500); or a
            folder with a JSON file a problem, perhaps in a folder a subject (`problem`, `solution`, `type`), whose
            answer stands in the solution's last `\boxed{...}`. `#seed=3` behind it draws other wrong answers.

    Returns:
        Two questions a problem, one proposing the right answer, one a wrong one; problems for whose answer no wrong one
        of the same form could be made; and the bad rows.

    Raises:
        QuestionError: naming the file or folder, where it can't be read or holds no problems.
    """
    return math_rows(text).twins()


def math_rows(text: str) -> ShortRows:
    """Its rows; `text` as for `load_math`."""
    asked = parse_specification("math", text)
    path = Path(asked.path)
    return ShortRows(_problems(path) if path.is_dir() else json_lines(path), read_math, asked.seed)


def _problems(folder: Path) -> Iterator[tuple[str, Any]]:
    """Pairs of file and content, or the error in its stead; a file's place below the folder is its id."""
    files = sorted(folder.rglob("*.json"), key=lambda file: (str(file.parent), len(file.name), file.name))
    if not files:
        raise QuestionError(f"{folder} holds no .json files; name the folder of MATH's problems, such as MATH/test")
    for file in files:
        try:
            row = parse_at(str(file), read_text(file, QuestionError), "MATH's files hold one problem each")
            name = (Path(folder.resolve().name) / file.relative_to(folder)).as_posix()
            yield str(file), {"unique_id": name, **row} if isinstance(row, dict) else row
        except QuestionError as error:
            yield str(file), error


def read_math(place: str, row: Any) -> ShortQuestion:
    """The question of one row; raises QuestionError naming the place of a bad one."""
    problem = text_field(place, row, "problem", NAME)
    answer = text_field(place, row, "answer", NAME) if "answer" in row else _final(place, row)
    subject = "subject" if "subject" in row or "type" not in row else "type"
    group = text_field(place, row, subject, NAME)
    identifier = text_field(place, {"unique_id": field_of(place, row, "unique_id", NAME)}, "unique_id", NAME)
    return ShortQuestion(
        question=problem,
        answer=answer,
        id=f"math/{identifier}",
        group=group,
        same=comparer(answer),
        candidates=lambda rng: wrong_expressions(answer, rng, _names(problem)),
    )


def _final(place: str, row: Any) -> str:
    r"""The answer in a solution's last \boxed{...}."""
    answer = last_boxed(text_field(place, row, "solution", NAME))
    if answer is None or not answer.strip():
        raise QuestionError(rf"{place}: the solution has no \boxed{{...}} that closes and isn't empty; correct it")
    return answer.strip()


def _names(problem: str) -> tuple[str, ...]:
    """Capitalized words in its sentences, quotes and tables, but for places: people, of whom one may be the answer."""
    prose = re.sub(r"\$[^$]*\$", "", problem)
    words = re.findall(r"(?<=[a-z,] )(?<!from )(?<!in )(?<!of )(?<!the )(?<!at )(?<!to )[A-Z][a-z]{2,}\b", prose)
    words += re.findall(r"(?:\\text\{\s*|\")([A-Z][a-z]{2,})(?=\s*\}|\")", problem)
    return tuple(dict.fromkeys(words))
