"""Questions with a yes-no answer, from files, public data sets and the built-in set."""

from .question import BinaryQuestion, QuestionList
from .registry import check_apart, check_questions, load_questions, sample_questions

__all__ = ["BinaryQuestion", "QuestionList", "check_apart", "check_questions", "load_questions", "sample_questions"]
