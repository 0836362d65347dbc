"""A question whose right answer is yes or no: the value that this package is about."""

from collections.abc import Iterable
from dataclasses import dataclass, replace

from ..errors import QuestionError


@dataclass(frozen=True)
class BinaryQuestion:
    """One question with the right decision, where it is known.

    Args:
        question: the text as the model will read it, without instruction and candidates.
        label: True means that the right decision is yes; None, that nobody knows.
        id: unique within its data set; written into every per-prompt result.
        group: what kind of question this is; reports are split by it.
        pair: the id of the pair that this question and its twin (the other label) share, or None.
    """

    question: str
    label: bool | None
    id: str
    group: str = "all"
    pair: str | None = None

    def __post_init__(self):
        if self.label is not None and not isinstance(self.label, bool):
            raise QuestionError(
                f"question {self.id!r}: label is {self.label!r}; it must be True (yes), False (no), or None (unknown)"
            )
        if not self.question.strip():
            raise QuestionError(f"question {self.id!r}: the text is empty; drop the row or fill it in")
        for name in ("question", "id", "group", "pair"):
            _check_unicode(str(getattr(self, name)), f"question {self.id!r}: the {name}")


def _check_unicode(text: str, what: str) -> None:
    """Raises QuestionError where a text holds half a surrogate pair, which no tokenizer and no file accepts."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        surrogate = f"{text[error.start]!r} at character {error.start + 1}"
        raise QuestionError(f"{what} holds a lone surrogate ({surrogate}), which is no text; correct it") from None


class QuestionList(list[BinaryQuestion]):
    """A list of questions that remembers which data they came from.

    Args:
        questions: the questions.
        name: the data specification they were loaded by.
    """

    def __init__(self, questions: Iterable[BinaryQuestion], name: str):
        super().__init__(questions)
        self.name = name

    def without_labels(self) -> "QuestionList":
        """The same questions as if nobody knew their answers."""
        return QuestionList((replace(question, label=None) for question in self), f"{self.name}, unlabeled")
