"""Questions with a yes-no answer, from files, public data sets and the built-in set."""

from .question import BinaryQuestion, QuestionList, Skipped
from .registry import (
    SOURCES,
    check_apart,
    check_labeled,
    check_questions,
    check_seed,
    check_two_sided,
    load_questions,
    sample_questions,
)
from .resolve import describe_questions, resolve_questions
from .rows import read_rows
from .short_sources import SHORT, load_short
from .stream import QuestionStream

__all__ = [
    "SHORT",
    "SOURCES",
    "BinaryQuestion",
    "QuestionList",
    "QuestionStream",
    "Skipped",
    "check_apart",
    "check_labeled",
    "check_questions",
    "check_seed",
    "check_two_sided",
    "describe_questions",
    "load_questions",
    "load_short",
    "read_rows",
    "resolve_questions",
    "sample_questions",
]
