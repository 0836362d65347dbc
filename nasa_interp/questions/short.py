"""Questions with a short answer, and two yes-no questions from each: the right answer proposed, and a wrong one."""

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from random import Random

from .question import BinaryQuestion, Skipped

GIVEN = "given"
"""How the right answer came about."""

ASK = "{question}\nProposed answer: {answer}\nIs the proposed answer right?"
"""How an answer is proposed. Source: ours."""


def digest(question: str) -> str:
    """An id for a question without one: its place isn't its own, and in another file it is the same question."""
    return hashlib.sha256(question.encode("utf-8", "replace")).hexdigest()[:10]


@dataclass(frozen=True)
class Candidate:
    """An answer to propose, and the rule that made it: "digit", "off by one", "entity", ..."""

    answer: str
    made: str


@dataclass(frozen=True)
class ShortQuestion:
    """A question with a short answer, as its data set has it.

    Args:
        question: its text.
        answer: the right answer, in the data set's words.
        id: unique in its data set, and not the place of the row: what is drawn for it depends on nothing else.
        group: what kind of question this is.
        same: whether a text says the same as the answer, by the data set's own comparison.
        candidates: draws answers of the same kind, best rule first; some may turn out to be right.
        context: a text to be read before the question, or None.
    """

    question: str
    answer: str
    id: str
    group: str
    same: Callable[[str], bool]
    candidates: Callable[[Random], Iterator[Candidate]]
    context: str | None = None

    def wrong(self, seed: int = 0) -> Candidate | None:
        """The first candidate that is checked to be wrong; None where there is none."""
        rng = Random(f"{self.id}/{seed}")
        return next((c for c in self.candidates(rng) if not self.same(c.answer)), None)

    def twins(self, place: str, seed: int = 0) -> list[BinaryQuestion] | Skipped:
        """Two questions, whether the right answer is right and whether a wrong one is, in a drawn order.

        Args:
            place: of the row, in case there is no wrong candidate.
            seed: of all draws for this question.
        """
        wrong = self.wrong(seed)
        if wrong is None:
            return Skipped(place, f"no wrong answer of the same kind as {self.answer!r} could be made")
        yes = self._proposing(Candidate(self.answer, GIVEN), True)
        no = self._proposing(wrong, False)
        return [yes, no] if Random(f"{self.id}/{seed}/order").random() < 0.5 else [no, yes]

    def _proposing(self, candidate: Candidate, label: bool) -> BinaryQuestion:
        text = ASK.format(question=self.question, answer=candidate.answer)
        side = "yes" if label else "no"
        return BinaryQuestion(text, label, f"{self.id}/{side}", self.group, self.id, self.context, candidate.made)
