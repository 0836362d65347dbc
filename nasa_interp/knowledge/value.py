"""What a model answered when it was asked openly, and what that says of its knowledge."""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import pandas as pd

from ..questions import BinaryQuestion, QuestionList
from ..results import parsing_result, read_result, write_result
from ..run import RunInfo

State = Literal["knows", "knows wrongly", "doesn't know"]
STATES: tuple[State, ...] = ("knows", "knows wrongly", "doesn't know")


@dataclass(frozen=True)
class Known:
    """One question's open answers.

    Args:
        id: of the short question, which the yes-no questions made of it have as their `pair`.
        answer: the right one.
        greedy, right: the likeliest answer, and whether it is right.
        samples, samples_right: answers that were drawn, and which of them are right.
        agree: how many of these say the same as the greedy one.
    """

    id: str
    answer: str
    greedy: str
    right: bool
    samples: tuple[str, ...] = ()
    samples_right: tuple[bool, ...] = ()
    agree: int = 0

    @property
    def state(self) -> State:
        """What the answers say.

        Knows: the greedy answer is right, and at least half of the drawn ones. Knows wrongly: the greedy answer is
        wrong, and at least half of the drawn ones say the same. Else the model doesn't know.
        """
        half = len(self.samples) / 2
        if self.right and sum(self.samples_right) >= half:
            return "knows"
        return "knows wrongly" if not self.right and self.agree >= half and self.greedy else "doesn't know"


@dataclass(frozen=True)
class Knowledge:
    """What a model knows of some questions; made by `ask_openly`.

    Args:
        known: one a question.
        run: where it came from.
    """

    known: tuple[Known, ...]
    run: RunInfo = field(repr=False)

    @property
    def counts(self) -> dict[State, int]:
        """How many questions are in each state."""
        tally = Counter(each.state for each in self.known)
        return {state: tally[state] for state in STATES}

    @property
    def states(self) -> dict[str, State]:
        """The state of each short question, by its id."""
        return {each.id: each.state for each in self.known}

    def of(self, question: BinaryQuestion) -> State | None:
        """What the model knows of the short question behind this one; None where it was not asked."""
        return None if question.pair is None else self.states.get(question.pair)

    def split(self, questions: Iterable[BinaryQuestion], name: str = "") -> dict[State, QuestionList]:
        """The questions by what the model knows of them; those that were not asked openly are left out."""
        questions = list(questions)
        name = questions.name if isinstance(questions, QuestionList) else name
        states = self.states
        return {
            state: QuestionList([q for q in questions if q.pair and states.get(q.pair) == state], f"{name} ({state})")
            for state in STATES
        }

    def to_dataframe(self) -> pd.DataFrame:
        """One row a question: id, state, answer, greedy, right, and how many drawn answers agree and are right."""
        return pd.DataFrame(
            {
                "id": [k.id for k in self.known],
                "state": [k.state for k in self.known],
                "answer": [k.answer for k in self.known],
                "greedy": [k.greedy for k in self.known],
                "right": [k.right for k in self.known],
                "drawn": [len(k.samples) for k in self.known],
                "drawn_right": [sum(k.samples_right) for k in self.known],
                "agree": [k.agree for k in self.known],
            }
        )

    def save(self, path: str | Path) -> Path:
        """Writes JSON, with all answers."""
        rows: Sequence[dict[str, Any]] = [{**vars(k), "state": k.state} for k in self.known]
        content = {"kind": "knowledge", "counts": self.counts, "questions": rows, "run": self.run.to_dict()}
        return write_result(path, content)

    @classmethod
    def load(cls, path: str | Path) -> "Knowledge":
        """Reads what `save` wrote."""
        content = read_result(path, "knowledge", "what a model knows", "make one with ni.knowledge.ask_openly")
        with parsing_result(path, "ask again"):
            return cls(tuple(map(_known, content["questions"])), RunInfo.from_dict(content["run"]))

    def __repr__(self) -> str:
        counted = ", ".join(f"{n} {state}" for state, n in self.counts.items())
        return f"Knowledge({len(self.known)} questions: {counted})"


def _known(row: dict[str, Any]) -> Known:
    return Known(
        row["id"],
        row["answer"],
        row["greedy"],
        row["right"],
        tuple(row["samples"]),
        tuple(row["samples_right"]),
        row["agree"],
    )
