"""MuSiQue: questions that take several steps through paragraphs; a short span is the answer (Trivedi et al., 2022)."""

from functools import partial
from typing import Any

from ..errors import QuestionError
from ..reading import shown
from .entities import Passage
from .fields import checked_text, field_of, list_field, text_field
from .files import json_lines
from .reading_rows import Item
from .short import ShortQuestion
from .short_rows import ShortRows
from .spans import Gold, wrong_spans
from .specification import parse_specification

NAME = "MuSiQue"
CONTEXTS = ("closed", "supporting", "all")
"""What stands before a question: nothing, the paragraphs that lead to the answer, or all 20 of the row."""


def load_musique(text: str) -> list[Item]:
    """Reads MuSiQue as its authors publish it: JSON lines with `question`, `answer`, `paragraphs`, ...

    Args:
        text: the file, such as `musique_ans_v1.0_dev.jsonl`. Behind '#' may stand `supporting` (the paragraphs that the
            answer follows from are the context), `all` (all of them are), `closed` (the default: none), and `seed=3`.

    Returns:
        Two questions a row, one proposing the right answer, one another name, date or number from the paragraphs; rows
        whose paragraphs have none of the same kind, or that have no answer; and the bad rows.

    Raises:
        QuestionError: naming the file, where it can't be read, or a word behind '#' that isn't known.
    """
    return musique_rows(text).twins()


def musique_rows(text: str) -> ShortRows:
    """Its rows; `text` as for `load_musique`."""
    asked = parse_specification("musique", text, CONTEXTS)
    return ShortRows(json_lines(asked.path), partial(read_musique, context=asked.word or "closed"), asked.seed)


def read_musique(place: str, row: Any, context: str = "closed") -> ShortQuestion:
    """The question of one row, with its context; raises QuestionError naming the place of a bad one."""
    question, answer, identifier = (text_field(place, row, name, NAME) for name in ("question", "answer", "id"))
    if field_of(place, {"answerable": True, **row}, "answerable", NAME) is not True:
        raise QuestionError(
            f"{place}: its paragraphs don't answer it (answerable is false); take MuSiQue-Ans, or drop it"
        )
    paragraphs = [_paragraph(place, each) for each in list_field(place, row, "paragraphs", NAME)]
    aliases = [_text(place, "alias", each) for each in row.get("answer_aliases") or ()]
    steps = [_step(place, each) for each in list_field(place, row, "question_decomposition", NAME)]
    gold = Gold((answer, *aliases))
    # Those that matter come first.
    passages = [p for p, matters in sorted(paragraphs, key=lambda pair: not pair[1])]
    last, others = steps[-1][0], [(said, its) for its, said in steps[:-1]]
    return ShortQuestion(
        question=question,
        answer=answer,
        id=f"musique/{identifier}",
        group=f"musique {identifier.partition('__')[0]}",
        same=gold.may_be,
        candidates=lambda rng: wrong_spans(gold, question, last, passages, others, rng),
        context=_context(place, paragraphs, context),
    )


def _context(place: str, paragraphs: list[tuple[Passage, bool]], context: str) -> str | None:
    """The paragraphs in the row's order, each behind its title; None for closed book."""
    if context == "closed":
        return None
    chosen = [passage for passage, matters in paragraphs if matters or context == "all"]
    if not chosen:
        raise QuestionError(f"{place}: no paragraph is_supporting; take it without context, or with all paragraphs")
    return "\n\n".join(f"{passage.title}: {passage.text}" for passage in chosen)


def _paragraph(place: str, paragraph: Any) -> tuple[Passage, bool]:
    title, text = (text_field(place, paragraph, name, NAME) for name in ("title", "paragraph_text"))
    matters = field_of(place, paragraph, "is_supporting", NAME)
    if not isinstance(matters, bool):
        raise QuestionError(f"{place}: is_supporting is {shown(matters)}, not true or false; is it {NAME}?")
    return Passage(title, text), matters


def _step(place: str, step: Any) -> tuple[str, str]:
    """Question and answer of one part of the question."""
    return text_field(place, step, "question", NAME), text_field(place, step, "answer", NAME)


def _text(place: str, name: str, value: Any) -> str:
    if not isinstance(value, str):
        raise QuestionError(f"{place}: the {name} is {shown(value)}, not a text; fill it in or drop the row")
    return checked_text(place, name, value)
