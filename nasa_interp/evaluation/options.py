"""Simple questions with four options: does the model still think the right one likeliest?"""

import html
import json
import random
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from importlib import resources
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from jaxtyping import Bool, Float, Int

from ..bootstrap import DRAWS, draw_weights, interval
from ..errors import ModelError, PromptError, QuestionError, ResultError
from ..models import Model, as_model
from ..results import parsing_result, read_result, write_result
from ..run import RunInfo
from ..torch_defaults import under_torch_defaults
from .likelihood import Row, check_context, describe_reading, leading_tokens, read_rows

BUILTIN = "builtin:four_options"


@dataclass(frozen=True)
class FourOptions:
    """The beginning of a sentence and four ways to end it, one of them right.

    Args:
        id: unique among the questions of a run.
        question: the beginning; each option follows it after a space.
        options: four different texts.
        answer: index of the right one, 0 to 3.
        topic: what it is about.

    Raises:
        QuestionError: saying what is wrong with it.
    """

    id: str
    question: str
    options: tuple[str, ...]
    answer: int
    topic: str = ""

    def __post_init__(self):
        if not self.question.strip() or self.question != self.question.strip():
            self._refuse(f"the question {self.question!r} is empty, or has space at its ends")
        if len(self.options) != 4 or len(set(self.options)) != 4:
            self._refuse(f"{list(self.options)} are not four different options")
        if any(not option or option != option.strip() for option in self.options):
            self._refuse(f"an option of {list(self.options)} is empty, or has space at its ends")
        if self.answer not in range(4):
            self._refuse(f"the answer {self.answer} is not an index of the options, 0 to 3")

    def _refuse(self, problem: str) -> None:
        raise QuestionError(f"four-option question {self.id!r}: {problem}; correct it")


class Change(NamedTuple):
    """A difference and the ends of its paired bootstrap interval (95%, over questions)."""

    value: float
    low: float
    high: float


@dataclass(frozen=True, repr=False)
class OptionReport:
    """How likely the model finds each option, and so which one it chooses.

    Args:
        scores: mean log-probability (nats) of each option's tokens after the question.
        items: the questions, one per row of the scores.
        run: where it came from.
    """

    scores: Float[np.ndarray, "item option"]
    items: tuple[FourOptions, ...]
    run: RunInfo = field(repr=False)

    @cached_property
    def choices(self) -> Int[np.ndarray, " item"]:
        """Index of the likeliest option; of equal ones the first."""
        return self.scores.argmax(1)

    @cached_property
    def right(self) -> Bool[np.ndarray, " item"]:
        """Whether each choice is right."""
        return self.choices == np.array([item.answer for item in self.items])

    @cached_property
    def _weights(self) -> Float[np.ndarray, "draw item"]:
        return draw_weights(np.arange(len(self.items)), self.run.draws, self.run.seed)

    @cached_property
    def _interval(self) -> tuple[float, float]:
        low, high = interval(self._weights @ self.right / len(self))
        return float(low), float(high)

    accuracy = property(lambda self: float(self.right.mean()), doc="Rate of right choices; chance is 0.25.")
    low = property(lambda self: self._interval[0], doc="Lower end of the accuracy's bootstrap interval (95%).")
    high = property(lambda self: self._interval[1], doc="Upper end of the accuracy's bootstrap interval (95%).")

    def change_from(self, base: "OptionReport") -> Change:
        """How far the accuracy moved from another report's on the same questions, paired question by question.

        Raises:
            ResultError: where the questions are not the same.
        """
        if self.items != base.items:
            raise ResultError(
                f"the reports have other questions ({len(self)} and {len(base)}); ask both models the same ones"
            )
        moved = self.right.astype(np.float64) - base.right
        low, high = interval(self._weights @ moved / len(self))
        return Change(float(moved.mean()), float(low), float(high))

    def to_dataframe(self) -> pd.DataFrame:
        """One row per question: id, topic, question, option_0 to _3, score_0 to _3, answer, choice, right."""
        columns: dict[str, Any] = {name: [getattr(i, name) for i in self.items] for name in ("id", "topic", "question")}
        columns |= {f"option_{k}": [item.options[k] for item in self.items] for k in range(4)}
        columns |= {f"score_{k}": self.scores[:, k] for k in range(4)}
        answers = [item.answer for item in self.items]
        return pd.DataFrame({**columns, "answer": answers, "choice": self.choices, "right": self.right})

    def save(self, path: str | Path) -> Path:
        """Writes JSON: the accuracy for readers, the questions and scores for `load`; raises as `write_result` does."""
        return write_result(
            path,
            {
                "kind": "option_report",
                "n": len(self),
                "accuracy": self.accuracy,
                "interval": [self.low, self.high],
                "run": self.run.to_dict(),
                "items": [asdict(item) for item in self.items],
                "scores": self.scores,
            },
        )

    @classmethod
    def load(cls, path: str | Path) -> "OptionReport":
        """Reads what `save` wrote; raises ResultError where it can't."""
        content = read_result(path, "option_report", "a report on four-option questions", "save one first")
        with parsing_result(path, "ask the questions again"):
            items = tuple(FourOptions(**{**item, "options": tuple(item["options"])}) for item in content["items"])
            scores = np.array(content["scores"], dtype=np.float64).reshape(len(items), 4)
            return cls(scores, items, RunInfo.from_dict(content["run"]))

    def __len__(self) -> int:
        return len(self.items)

    def __repr__(self) -> str:
        return (
            f"OptionReport({self.run.model}, {self.run.data}, {len(self)} questions: "
            f"accuracy {self.accuracy:.2f} [{self.low:.2f}, {self.high:.2f}], chance 0.25)"
        )

    def _repr_html_(self) -> str:
        topics = self.to_dataframe().groupby("topic", sort=False)["right"].agg(["size", "mean"])
        table = topics.set_axis(["n", "accuracy"], axis=1).to_html(float_format="%.2f")
        return f"<p>{html.escape(repr(self))}</p>{table}"


def four_options(limit: int | None = None, seed: int = 0) -> list[FourOptions]:
    """The built-in questions of common knowledge: 128 in 8 topics, the right option equally often at each index.

    Args:
        limit: keep this many, drawn by `seed`, in their order.
        seed: of that draw.

    Raises:
        QuestionError: where the limit leaves none.

    Source: ours.
    """
    text = (resources.files("nasa_interp.evaluation") / "data" / "four_options.jsonl").read_text(encoding="utf-8")
    rows = [json.loads(line) for line in text.splitlines()]
    items = [FourOptions(**{**row, "options": tuple(row["options"])}) for row in rows]
    if limit is None or limit >= len(items):
        return items
    if limit < 1:
        raise QuestionError(f"a limit of {limit} leaves no questions; give 1 or more")
    return [items[index] for index in sorted(random.Random(seed).sample(range(len(items)), limit))]


@under_torch_defaults
def answer_options(
    model: Any,
    items: Sequence[FourOptions] | None = None,
    *,
    batch_size: int | None = None,
    seed: int = 0,
    draws: int = DRAWS,
    progress: bool = True,
) -> OptionReport:
    """Scores each option by the mean log-probability of its tokens after the question, and chooses the likeliest.

    The mean, not the sum: a sum would favour options of few tokens. No chat template is used: a question is the
    beginning of a sentence, and an option continues it.

    Args:
        model: a Model, or what `load_model` accepts besides names.
        items: the questions; None takes the built-in ones.
        batch_size: rows in a forward pass; changes only time and memory.
        seed, draws: of the bootstrap over questions.
        progress: show a bar.

    Returns:
        The report: scores, choices, accuracy and its interval.

    Raises:
        QuestionError: where there are no questions, or two share an id.
        PromptError: where question and option tokenize differently together than apart, or are too long.
        ModelError: where the model's logits are not finite.

    Source: ours, after the usual scoring of multiple-choice questions by length-normalized likelihood.
    """
    model, start = as_model(model), time.perf_counter()
    builtin = four_options()
    items = builtin if items is None else list(items)
    _check(items)
    scores = _score(model, items, batch_size, progress)
    data = BUILTIN if set(items) <= set(builtin) else "own four-option questions"
    return OptionReport(scores, tuple(items), describe_reading(model, data, len(items), start, seed, draws))


def _check(items: Sequence[FourOptions]) -> None:
    if not items:
        raise QuestionError("the list of four-option questions is empty; give some, or None for the built-in ones")
    ids = [item.id for item in items]
    if doubled := next((identifier for identifier in ids if ids.count(identifier) > 1), None):
        raise QuestionError(f"{ids.count(doubled)} four-option questions share the id {doubled!r}; give each its own")


def _score(
    model: Model, items: Sequence[FourOptions], batch_size: int | None, progress: bool
) -> Float[np.ndarray, "item option"]:
    """Scores the options; those of one token share a row, which ends with the question."""
    endings: dict[Row, list[tuple[int, int, tuple[int, ...]]]] = {}
    for index, item in enumerate(items):
        for option, (prompt, ending) in enumerate(_tokenize(model, item)):
            row = Row(prompt + ending[:-1], len(prompt) - 1)
            endings.setdefault(row, []).append((index, option, ending))
    rows, scores = list(endings), np.zeros((len(items), 4))
    for row, first, log_probs in read_rows(model, rows, batch_size=batch_size, progress=progress, title="four options"):
        skipped = first - rows[row].start
        for index, option, ending in endings[rows[row]]:
            tokens = torch.tensor(ending[skipped : skipped + len(log_probs)], device=log_probs.device)
            token_log_probs = log_probs.gather(1, tokens[:, None])
            scores[index, option] += float(token_log_probs.double().sum()) / len(ending)
    if not np.isfinite(scores).all():
        where = items[int(np.argwhere(~np.isfinite(scores))[0, 0])].id
        raise ModelError(
            f"question {where!r}: the log-probabilities are no finite numbers in {model.dtype}; "
            f"load the model in float32"
        )
    return scores


def _tokenize(model: Model, item: FourOptions) -> list[tuple[tuple[int, ...], tuple[int, ...]]]:
    """For each option the tokens of the question, and those that the option adds."""
    texts = [item.question, *(f"{item.question} {option}" for option in item.options)]
    prompt, *whole = model.tokenizer(texts, add_special_tokens=False)["input_ids"]
    lead = leading_tokens(model.tokenizer)
    for option, tokens in zip(item.options, whole, strict=True):
        if tokens[: len(prompt)] != prompt or len(tokens) == len(prompt):
            raise PromptError(
                f"question {item.id!r} and its option {option!r} tokenize otherwise together than apart; "
                f"word the question so that it ends with a whole word"
            )
        check_context(model, [*lead, *tokens], f"question {item.id!r}")
    return [((*lead, *prompt), tuple(tokens[len(prompt) :])) for tokens in whole]
