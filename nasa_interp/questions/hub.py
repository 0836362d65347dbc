"""Any data set of the Hugging Face hub, or a local copy of one, read by the `datasets` library."""

import os
from collections.abc import Callable, Mapping
from typing import Any

from ..errors import QuestionError, first_line
from .ar_lsat import read_ar_lsat
from .expressions import comparer, wrong_expressions
from .fields import checked_text, text_field
from .gsm8k import read_gsm8k
from .math_problems import read_math
from .musique import read_musique
from .numbers import number_of, same_number, wrong_numbers
from .reading_rows import Item, NamedRows, read_each
from .rows import questions_of, text_of
from .short import ShortQuestion, digest
from .specification import Specification, parse_specification
from .strategyqa import read_strategyqa

COLUMNS = ("question", "label", "answer", "context", "id", "group")
SETTINGS = ("config", "as", "seed", *COLUMNS)
FORMATS: dict[str, Callable[[str, Any], ShortQuestion]] = {
    "gsm8k": read_gsm8k,
    "math": read_math,
    "musique": read_musique,
    "ar_lsat": read_ar_lsat,
}
"""Data sets whose rows have the same fields on the hub as in their authors' files."""


def load_hub(text: str) -> NamedRows:
    """Reads one split of a data set: questions with labels, or questions with short answers.

    Args:
        text: `ID`, `ID@REVISION` or a local folder; behind '#' the split (else the only one), and settings:
            `config=NAME` of the data set; `question=COLUMN`, `label=COLUMN`, `context=COLUMN`, `id=COLUMN`,
            `group=COLUMN` where columns are called otherwise than that; `answer=COLUMN` instead of a label, for short
            answers, which are proposed beside wrong ones (numbers and LaTeX); `as=gsm8k` (`math`, `musique`, `ar_lsat`,
            `strategyqa`) for a data set whose rows have the fields of these; `seed=3` draws other wrong answers.

    Returns:
        The questions and the bad rows, under a name with the revision that was read, which loads the same again.

    Raises:
        QuestionError: where the data set, its split or a column isn't there, or the hub can't be reached.

    Source: ours.
    """
    asked = parse_specification("hub", text, None, SETTINGS)
    name, _, revision = (asked.path, "", "") if os.path.exists(asked.path) else asked.path.partition("@")
    rows, found = _rows(asked, name, revision or None)
    _check_columns(asked, rows.column_names)
    pairs = [(f"hub:{name}, row {number}", row) for number, row in enumerate(rows, start=1)]
    behind = text[len(asked.path) :]
    return NamedRows(_items(asked, pairs), f"hub:{name}{f'@{found}' if found else ''}{behind}")


def _rows(asked: Specification, name: str, revision: str | None) -> tuple[Any, str]:
    """The rows of the split, and the revision that they are of; "" for a local folder, which has none."""
    from datasets import load_dataset_builder

    try:
        builder = load_dataset_builder(name, asked.settings.get("config"), revision=revision)
        builder.download_and_prepare()
        splits: Any = builder.as_dataset()
    except Exception as error:  # the library, the hub's client and its transport each raise their own
        raise QuestionError(
            f"hub:{name} can't be loaded ({type(error).__name__}: {first_line(error)}); check name, revision, "
            f"config=, or without a connection name a local folder that holds it"
        ) from error
    split = asked.word or (next(iter(splits)) if len(splits) == 1 else "")
    if split not in splits:
        there = ", ".join(splits)
        raise QuestionError(f"hub:{name} has no split {split!r} (found: {there}); name one behind '#'")
    hub, _, found = str(builder.base_path).rpartition("@")
    return splits[split], found.partition("/")[0] if hub.startswith("hf://") else ""


def _check_columns(asked: Specification, columns: list[str]) -> None:
    for setting in COLUMNS:
        if (column := asked.settings.get(setting, columns[0])) not in columns:
            raise QuestionError(
                f"hub:{asked.path} has no column {column!r} (found: {', '.join(columns)}); correct {setting}="
            )


def _items(asked: Specification, pairs: list[tuple[str, Any]]) -> list[Item]:
    """The questions of all rows, read as the settings say."""
    kind = asked.settings.get("as")
    if kind == "strategyqa":
        return read_each(pairs, read_strategyqa)
    if kind is not None and kind not in FORMATS:
        raise QuestionError(f"hub:{asked.path}: as={kind} is unknown; use one of strategyqa, {', '.join(FORMATS)}")
    if kind is not None:
        return read_each(pairs, lambda place, row: FORMATS[kind](place, row).twins(place, asked.seed))
    renamed = [(place, _renamed(asked, row)) for place, row in pairs]
    if "answer" in asked.settings:
        return read_each(renamed, lambda place, row: _short(place, row).twins(place, asked.seed))
    return questions_of(renamed)


def _renamed(asked: Specification, row: Mapping[str, Any]) -> dict[str, Any]:
    """The row's fields under our names."""
    return {name: row[asked.settings.get(name, name)] for name in COLUMNS if asked.settings.get(name, name) in row}


def _short(place: str, row: Mapping[str, Any]) -> ShortQuestion:
    """A question with a number or an expression as its answer."""
    given = row.get("answer")
    answer = str(given) if isinstance(given, (int, float)) and not isinstance(given, bool) else given
    question, answer = (
        text_field(place, {**row, "answer": answer}, name, "a set with short answers")
        for name in ("question", "answer")
    )
    is_number = number_of(answer) is not None and not set("\\{}^=") & set(answer)
    context = text_of(place, row, "context")
    return ShortQuestion(
        question=question,
        answer=answer,
        id=f"hub/{text_of(place, row, 'id') or digest(question)}",
        group=text_of(place, row, "group") or "all",
        same=(lambda text: same_number(text, answer)) if is_number else comparer(answer),
        candidates=lambda rng: wrong_numbers(answer, rng) if is_number else wrong_expressions(answer, rng),
        context=None if context is None else checked_text(place, "context", context),
    )
