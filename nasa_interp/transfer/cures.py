"""The cures that are carried over: fitted in one condition, applied while others are asked."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from ..alignment import Limits, Recipe, align_heads
from ..alignment.setting import Setting
from ..calibration import Calibration
from ..comparison.lora import fit_lora
from ..decisions import BinaryReport
from ..deltas.delta import HeadDelta
from ..errors import NothingKeptError
from ..evaluation import TextReference
from ..heads import HeadList
from ..models import Model
from ..questions import QuestionList
from .conditions import Condition

BASE, NASA, RANDOM = "as it is", "nasa", "random heads"
ROW, COLUMN, FREE = "the row's calibration", "the column's calibration", "content-free"
UNLABELED = "without labels"
METHODS = (
    BASE, NASA, f"{NASA} {UNLABELED}", "lora", f"lora {UNLABELED}", RANDOM, ROW, COLUMN, FREE,
)  # fmt: skip


@dataclass(frozen=True)
class Tuning:
    """What all tuned cures share.

    Args:
        model: the base model.
        recipe, limits: of NASA; the others get the same.
        text: what the base model expects on the text that limits what is kept.
        seed: of the tuning.
    """

    model: Model
    recipe: Recipe
    limits: Limits
    text: TextReference
    seed: int


Cure = Callable[[], Any]
"""Makes a context manager, inside which the model is cured; it yields the model and plain facts about the fit."""


def tuned(tuning: Tuning, heads: HeadList, on: Condition, labels: bool, folder: Path | None) -> Cure:
    """Heads tuned in this condition; where nothing can be kept, the model as it is."""

    @contextmanager
    def cure() -> Iterator[tuple[Model, dict[str, Any]]]:
        probe, val = (questions_for(q, labels) for q in (on.questions, on.held_out))
        options: dict[str, Any] = {"recipe": tuning.recipe, "limits": tuning.limits, "style": on.style}
        try:
            run = align_heads(
                tuning.model, heads, probe, val, **options, folder=folder, seed=tuning.seed, progress=False
            )
            delta, kept = run.delta, {"kept": sum(row["accepted"] for row in run.rows)}
        except NothingKeptError as error:
            base = tuning.model.weights_hash()
            delta, kept = HeadDelta(base, tuning.model.name, heads, (), (), ()), {"kept": 0, "reason": str(error)}
        facts = {"heads": " ".join(map(str, heads)), "weights": delta.n_changed, **kept}
        with delta.applied(tuning.model, check=False):
            yield tuning.model, facts | {"perplexity_ratio": tuning.text.ratio(tuning.model)}

    return cure


def lora(tuning: Tuning, heads: HeadList, on: Condition, labels: bool) -> Cure:
    """A LoRA trained in this condition for as many steps as the heads get."""

    @contextmanager
    def cure() -> Iterator[tuple[Model, dict[str, Any]]]:
        probe, val = (questions_for(q, labels) for q in (on.questions, on.held_out))
        setting = Setting.of(tuning.model, heads, probe, val, tuning.recipe, tuning.limits, on.style, tuning.seed)
        fitted = fit_lora(setting, tuning.text)
        facts = {"weights": fitted.n_trained, "tried": list(fitted.tried), "kept": int(fitted.state is not None)}
        with fitted.applied(tuning.model) as model:
            yield model, facts | {"perplexity_ratio": tuning.text.ratio(model)}

    return cure


def questions_for(questions: QuestionList, labels: bool) -> QuestionList:
    """The questions, with their labels or without."""
    if labels:
        return questions
    return QuestionList((replace(question, label=None) for question in questions), f"{questions.name}, unlabeled")


def shifted(report: BinaryReport, calibration: Calibration | None, told: str) -> BinaryReport:
    """The decisions less offsets that were fitted elsewhere; an order without one stays as it is.

    `Calibration.apply` refuses other wordings than its own: what that would do is measured here.
    """
    offsets = {} if calibration is None else {str(order): c for order, c in calibration.offsets.items()}
    shift = np.array([offsets.get(order, 0.0) for order in report.order])
    run = replace(report.run, notes=(*report.run.notes, f"{told}: d less {dict(offsets)}"))
    return replace(report, logit_differences=report.logit_differences - shift, run=run)


def parts(questions: QuestionList, n: int, seed: int) -> tuple[QuestionList, QuestionList]:
    """About `n` of the questions, whole pairs and evenly from the groups, without their labels; and the others."""
    from ..questions import sample_questions

    chosen: Sequence[Any] = sample_questions(questions, n, seed)
    ids = {q.id for q in chosen}
    rest = [q for q in questions if q.id not in ids]
    return questions_for(QuestionList(chosen, f"{n} of {questions.name}"), False), QuestionList(
        rest, f"{questions.name} less {n}"
    )
