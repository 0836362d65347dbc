"""A question whose right answer is yes or no: the value that this package is about."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields, replace
from typing import NamedTuple

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
        context: a text to be read before the question, or None (closed book); prompts place it.
        made: of a question that proposes an answer, how that came about: "given" for the right one, else the rule that
            made the wrong one ("digit", "entity", ...); None where nothing is proposed.
    """

    question: str
    label: bool | None
    id: str
    group: str = "all"
    pair: str | None = None
    context: str | None = None
    made: str | None = None

    def __post_init__(self):
        if self.label is not None and not isinstance(self.label, bool):
            raise QuestionError(
                f"question {self.id!r}: label is {self.label!r}; it must be True (yes), False (no), or None (unknown)"
            )
        if not self.question.strip():
            raise QuestionError(f"question {self.id!r}: the text is empty; drop the row or fill it in")
        if self.context is not None and not self.context.strip():
            raise QuestionError(f"question {self.id!r}: the context is empty; fill it in, or leave it out (None)")
        for name in ("question", "id", "group", "pair", "context", "made"):
            _check_unicode(str(getattr(self, name)), f"question {self.id!r}: the {name}")

    def __repr__(self) -> str:
        # What isn't set isn't named, so that digests of questions from before there was a context stay the same.
        given = [f for f in fields(self) if f.name not in ("context", "made") or getattr(self, f.name) is not None]
        return f"BinaryQuestion({', '.join(f'{f.name}={getattr(self, f.name)!r}' for f in given)})"

    @property
    def asked(self) -> str | tuple[str, str]:
        """What a model reads of it: the question, or context and question."""
        return self.question if self.context is None else (self.context, self.question)


def _check_unicode(text: str, what: str) -> None:
    """Raises QuestionError where a text holds half a surrogate pair, which no tokenizer and no file accepts."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        surrogate = f"{text[error.start]!r} at character {error.start + 1}"
        raise QuestionError(f"{what} holds a lone surrogate ({surrogate}), which is no text; correct it") from None


class Skipped(NamedTuple):
    """A row that gave no question: its place ("file, row 3") and the reason."""

    place: str
    reason: str


class QuestionList(list[BinaryQuestion]):
    """A list of questions that remembers which data they came from.

    Args:
        questions: the questions.
        name: the data specification they were loaded by.
        skipped: the rows of these data that gave no question, each with its reason.
    """

    def __init__(self, questions: Iterable[BinaryQuestion], name: str, skipped: Sequence[Skipped] = ()):
        super().__init__(questions)
        self.name = name
        self.skipped = tuple(skipped)

    @property
    def notes(self) -> tuple[str, ...]:
        """What a result should say of the data: how many rows were left out, and why the first were."""
        if not self.skipped:
            return ()
        first = "; ".join(f"{place}: {reason}" for place, reason in self.skipped[:2])
        n, more = len(self.skipped), "; ..." if len(self.skipped) > 2 else ""
        return (f"{self.name}: {n} row{'s are' if n > 1 else ' is'} left out ({first}{more})",)

    def without_labels(self) -> "QuestionList":
        """The same questions as if nobody knew their answers."""
        unlabeled = (replace(question, label=None) for question in self)
        return QuestionList(unlabeled, f"{self.name}, unlabeled", self.skipped)
