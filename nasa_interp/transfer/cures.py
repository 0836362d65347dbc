"""The cures that are carried over: fitted in one condition, applied while others are asked."""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from ..alignment import Limits, Recipe, align_heads
from ..alignment.setting import Setting
from ..calibration import Calibration
from ..comparison.lora import LEARNING_RATES, fit_lora
from ..comparison.table import FREE, LORA, NASA, RANDOM, UNLABELED
from ..decisions import BinaryReport
from ..deltas.delta import HeadDelta
from ..errors import NothingKeptError
from ..evaluation import TextReference
from ..heads import HeadList
from ..models import Model
from ..questions import QuestionList
from .conditions import Condition

BASE, ROW, COLUMN = "as it is", "the row's calibration", "the column's calibration"
THEN = " then calibrated"
"""Behind a tuned method: with an offset from the column's unlabeled questions on top."""
METHODS = (
    BASE, NASA, f"{NASA}{THEN}", f"{NASA} {UNLABELED}", f"{NASA} {UNLABELED}{THEN}", LORA, f"{LORA} {UNLABELED}",
    RANDOM, ROW, COLUMN, FREE,
)  # fmt: skip


@dataclass(frozen=True)
class Tuning:
    """What all tuned cures share.

    Args:
        model: the base model.
        recipe, limits: of NASA; the others get the same.
        text: what the base model expects on the text that limits what is kept.
    """

    model: Model
    recipe: Recipe
    limits: Limits
    text: TextReference


Cure = Callable[[], Any]
"""Makes a context manager, inside which the model is cured; it yields the model and plain facts about the fit."""


def tuned(tuning: Tuning, heads: HeadList, on: Condition, labels: bool, seed: int, folder: Path | None) -> Cure:
    """Heads tuned in this condition; where nothing can be kept, the model as it is."""

    @contextmanager
    def cure() -> Iterator[tuple[Model, dict[str, Any]]]:
        start = time.perf_counter()
        probe, val, recipe = _fitted_on(tuning, on, labels)
        options: dict[str, Any] = {"recipe": recipe, "limits": tuning.limits, "style": on.style}
        try:
            run = align_heads(tuning.model, heads, probe, val, **options, folder=folder, seed=seed, progress=False)
            delta, kept = run.delta, {"kept": sum(row["accepted"] for row in run.rows)}
        except NothingKeptError as error:
            base = tuning.model.weights_hash()
            delta, kept = HeadDelta(base, tuning.model.name, heads, (), (), ()), {"kept": 0, "reason": str(error)}
        facts = {"heads": " ".join(map(str, heads)), "weights": delta.n_changed, **kept}
        facts["seconds"] = time.perf_counter() - start
        with delta.applied(tuning.model, check=False):
            yield tuning.model, facts | {"perplexity_ratio": tuning.text.ratio(tuning.model)}

    return cure


def lora(
    tuning: Tuning, heads: HeadList, on: Condition, labels: bool, seed: int, rate_of: Callable[[], float | None]
) -> Cure:
    """A LoRA trained in this condition for as many steps as the heads get.

    `rate_of` says at which rate; None tries several and takes the best on validation.
    """

    @contextmanager
    def cure() -> Iterator[tuple[Model, dict[str, Any]]]:
        start = time.perf_counter()
        probe, val, recipe = _fitted_on(tuning, on, labels)
        setting = Setting.of(tuning.model, heads, probe, val, recipe, tuning.limits, on.style, seed)
        rate = rate_of()
        fitted = fit_lora(setting, tuning.text, learning_rates=LEARNING_RATES if rate is None else (rate,))
        facts = {"weights": fitted.n_trained, "tried": list(fitted.tried), "kept": int(fitted.state is not None)}
        facts["seconds"] = time.perf_counter() - start
        with fitted.applied(tuning.model) as model:
            yield model, facts | {"perplexity_ratio": tuning.text.ratio(model)}

    return cure


def _fitted_on(tuning: Tuning, on: Condition, labels: bool) -> tuple[QuestionList, QuestionList, Recipe]:
    """The questions to tune on and to validate on, and the recipe for them."""
    if labels:
        return on.questions, on.held_out, tuning.recipe
    return on.questions.without_labels(), on.held_out.without_labels(), tuning.recipe.without_labels()


def shifted(report: BinaryReport, calibration: Calibration, told: str) -> BinaryReport:
    """The decisions less offsets that were fitted elsewhere; an order without one stays as it is.

    `Calibration.apply` refuses other wordings than its own: what that would do is measured here.
    """
    offsets = {str(order): offset for order, offset in calibration.offsets.items()}
    shift = np.array([offsets.get(order, 0.0) for order in report.order])
    run = replace(report.run, notes=(*report.run.notes, f"{told}: d less {dict(offsets)}"))
    return replace(report, logit_differences=report.logit_differences - shift, run=run)


def parts(questions: QuestionList, n: int, seed: int) -> tuple[QuestionList, QuestionList]:
    """About `n` of the questions, whole pairs and evenly from the groups, without their labels; and the others."""
    from ..questions import sample_questions

    chosen: Sequence[Any] = sample_questions(questions, n, seed)
    ids = {q.id for q in chosen}
    rest = [q for q in questions if q.id not in ids]
    aside = QuestionList(chosen, f"{n} of {questions.name}").without_labels()
    return aside, QuestionList(rest, f"{questions.name} less {n}")
