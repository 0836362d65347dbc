"""The methods of a comparison: how each is fitted on probe and validation, and how it is asked the test questions."""

import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ..alignment.loop import PASSAGES, align_heads
from ..alignment.setting import Setting
from ..calibration import Calibration, calibrate, fit_calibration
from ..decisions import BinaryReport, average_orders, report_decisions
from ..deltas.delta import HeadDelta
from ..errors import HeadError, NothingKeptError
from ..evaluation import TextChange, TextReference, plain_text
from ..heads import HeadList
from ..interventions import random_heads
from ..models import Model
from ..questions import QuestionList, check_apart, check_labeled
from ..questions.registry import CONTENT_FREE
from ..questions.resolve import resolve_questions
from ..run import digest_of
from ..session import PromptSet
from .baselines import Offset, best_factor, scaled_heads
from .lora import fit_lora
from .table import CALIBRATION, FREE, LORA, NASA, RANDOM, UNLABELED, Entry, entry_name

METHODS = (
    "offset", "offset per order", CALIBRATION, FREE, "average", "average and offset", "zero", "scale", LORA,
    f"{LORA} {UNLABELED}", RANDOM, f"{NASA} {UNLABELED}", NASA,
)  # fmt: skip

# Draws per random set asked for, as some repeat an earlier set.
TRIES = 50


class Run(NamedTuple):
    """One run of one method; `make` fits it and asks the test questions."""

    method: str
    variant: str
    make: Callable[[], Entry]

    @property
    def name(self) -> str:
        """The name of its folder."""
        return entry_name(self.method, self.variant)


@dataclass(frozen=True, eq=False)
class ComparisonSetting:
    """What a comparison is about: the model, the heads, and all questions and texts.

    Args:
        tuning: what is tuned, how, and what may be lost.
        probe, val, test: all questions to tune on, those that decide, and those that decide nothing.
        texts, val_texts: plain text to read at the end, and while tuning; None takes the built-in ones.
        seed, draws: of the bootstrap.
    """

    tuning: Setting
    probe: QuestionList
    val: QuestionList
    test: QuestionList
    texts: tuple[str, ...] | None
    val_texts: tuple[str, ...] | None
    seed: int
    draws: int

    @classmethod
    def of(
        cls,
        tuning: Setting,
        probe: Any,
        val: Any,
        test: Any,
        texts: Sequence[str] | None,
        val_texts: Sequence[str] | None,
        limit: int | None,
        seed: int,
        draws: int,
    ) -> "ComparisonSetting":
        """Resolves the questions; raises QuestionError where methods are fitted on one of the test."""
        probe, val, test = resolve_questions(probe), resolve_questions(val), resolve_questions(test, limit, seed)
        check_labeled(test, "test on")
        for fitted in (probe, val):
            check_apart(fitted, test, "on which methods are fitted", "test on")
        texts, val_texts = (None if passages is None else tuple(passages) for passages in (texts, val_texts))
        return cls(tuning, probe, val, test, texts, val_texts, seed, draws)

    @property
    def model(self) -> Model:
        """The base model."""
        return self.tuning.model

    @cached_property
    def unlabeled_tuning(self) -> Setting:
        """What is tuned where nobody knows the answers."""
        t = self.tuning
        probe, val = self.probe.without_labels(), self.val.without_labels()
        return Setting.of(t.model, t.heads, probe, val, t.recipe.without_labels(), t.limits, t.style, t.seed)

    @cached_property
    def base_hash(self) -> str:
        """The hash of its weights."""
        return self.model.weights_hash()

    @cached_property
    def val_prompts(self) -> PromptSet:
        """All validation prompts."""
        return self._prompts(self.val)

    @cached_property
    def test_prompts(self) -> PromptSet:
        """The test prompts."""
        return self._prompts(self.test)

    @cached_property
    def reference(self) -> TextReference:
        """What the base model expects on the text that is read at the end."""
        return TextReference.of(self.model, self.texts, progress=False)

    @cached_property
    def val_reference(self) -> TextReference:
        """What it expects on the text that limits what is kept."""
        texts = plain_text("val")[:PASSAGES] if self.val_texts is None else self.val_texts
        return TextReference.of(self.model, texts, progress=False)

    def validate(self) -> BinaryReport:
        """The base model's decisions on validation."""
        return report_decisions(self.model, self.val_prompts, progress=False)

    def untuned(self) -> BinaryReport:
        """The base model's decisions on the test questions, behind the thoughts that it had for these prompts."""
        return report_decisions(self.model, self.test_prompts, progress=False)

    def test_of(self, model: Model) -> BinaryReport:
        """A changed model's decisions on the test questions; it thinks anew."""
        return report_decisions(model, self.test_prompts.anew(model), progress=False)

    def measure(self, changed: AbstractContextManager[Model]) -> tuple[BinaryReport, TextChange]:
        """The test questions and the text under a change, whose base is read before the change is made."""
        reference = self.reference
        with changed as model:
            text = reference.compare(model, seed=self.seed, draws=self.draws, progress=False)
            return self.test_of(model), text

    def digest(self) -> dict[str, Any]:
        """What must be the same for a comparison to go on."""
        questions = [digest_of(data) for data in (self.probe, self.val, self.test)]
        texts = [None if passages is None else digest_of(passages) for passages in (self.texts, self.val_texts)]
        drawn = {"seed of draws": self.seed, "draws": self.draws}
        return {**self.tuning.fingerprint(), "base": self.base_hash, "asked": questions, "texts": texts, **drawn}

    def _prompts(self, questions: QuestionList) -> PromptSet:
        return PromptSet.build(self.model, questions, "both", self.tuning.style, self.seed, self.draws)


@dataclass(frozen=True, eq=False)
class Methods:
    """Everything that can be compared.

    Args:
        setting: what the comparison is about.
        validated, base: the base model's decisions on validation and on the test questions.
        seeds: of NASA.
        random: random sets of heads.
        folder: where tuning keeps its progress; None keeps nothing.
    """

    setting: ComparisonSetting
    validated: BinaryReport
    base: BinaryReport
    seeds: tuple[int, ...]
    random: tuple[HeadList, ...]
    folder: Path | None

    def runs(self, methods: Sequence[str]) -> list[Run]:
        """The runs of these methods, in the order of `METHODS`."""
        plan: dict[str, list[Run]] = {
            "offset": [Run("offset", "", partial(self._offset, "offset"))],
            "offset per order": [Run("offset per order", "", partial(self._offset, "offset per order", by_order=True))],
            "average": [Run("average", "", self._average)],
            "average and offset": [
                Run("average and offset", "", partial(self._offset, "average and offset", mean=True))
            ],
            "zero": [Run("zero", "", self._zero)],
            "scale": [Run("scale", "", self._scale)],
            CALIBRATION: [Run(CALIBRATION, "", self._calibration)],
            FREE: [Run(FREE, "", self._content_free)],
        }
        for name, labels in ((LORA, True), (f"{LORA} {UNLABELED}", False)):
            plan[name] = [Run(name, "", partial(self._lora, name, labels))]
        heads, seed = self.setting.tuning.heads, self.setting.tuning.seed
        sets = [(f"set {index}", drawn) for index, drawn in enumerate(self.random)]
        plan[RANDOM] = [Run(RANDOM, name, partial(self._nasa, RANDOM, name, drawn, seed)) for name, drawn in sets]
        for name, labels in ((NASA, True), (f"{NASA} {UNLABELED}", False)):
            plan[name] = [
                Run(name, f"seed {s}", partial(self._nasa, name, f"seed {s}", heads, s, labels)) for s in self.seeds
            ]
        return [run for method in METHODS if method in methods for run in plan[method]]

    def _offset(self, method: str, by_order: bool = False, mean: bool = False) -> Entry:
        start, val, test = time.perf_counter(), self.validated, self.base
        if mean:
            val, test = average_orders(val), average_orders(test)
        offset = Offset.fit(val, by_order)
        seconds = time.perf_counter() - start
        return Entry(method, "", offset.apply(test), seconds=seconds, fitted={"offset": str(offset)})

    def _average(self) -> Entry:
        return Entry("average", "", average_orders(self.base), seconds=0.0)

    def _calibration(self) -> Entry:
        start, prompts = time.perf_counter(), self.setting.val_prompts.batches[0]
        one = fit_calibration(self.validated, prompts)
        return self._shifted(CALIBRATION, one, time.perf_counter() - start)

    def _content_free(self) -> Entry:
        start, setting = time.perf_counter(), self.setting
        one = calibrate(setting.model, CONTENT_FREE, style=setting.tuning.style, draws=1, progress=False)
        return self._shifted(FREE, one, time.perf_counter() - start)

    def _shifted(self, method: str, one: Calibration, seconds: float) -> Entry:
        fitted = {f"offset {order}": value for order, value in one.offsets.items()}
        return Entry(method, "", one.apply(self.base), seconds=seconds, fitted=fitted)

    def _zero(self) -> Entry:
        return self._changed("zero", "", self._scaled(0.0), 0.0, {"factor": 0.0})

    def _scale(self) -> Entry:
        start = time.perf_counter()
        factor, accuracies = best_factor(self.setting.model, self.setting.tuning.heads, self.setting.val_prompts)
        fitted = {"factor": factor, "accuracies": {str(tried): accuracy for tried, accuracy in accuracies.items()}}
        return self._changed("scale", "", self._scaled(factor), time.perf_counter() - start, fitted)

    def _scaled(self, factor: float) -> HeadDelta:
        return scaled_heads(self.setting.model, self.setting.tuning.heads, factor, self.setting.base_hash)

    def _lora(self, method: str, labels: bool) -> Entry:
        setting = self.setting
        lora = fit_lora(setting.tuning if labels else setting.unlabeled_tuning, setting.val_reference)
        rate = next((row["learning_rate"] for row in lora.tried if row["taken"]), "none: all were refused")
        share = lora.n_trained / sum(parameter.numel() for parameter in setting.model.module.parameters())
        report, text = setting.measure(lora.applied(setting.model))
        fitted = {"rank": lora.rank, "learning rate": rate, "tried": list(lora.tried)}
        return Entry(method, "", report, lora.n_trained, share, text, lora.seconds, fitted)

    def _nasa(self, method: str, variant: str, heads: HeadList, seed: int, labels: bool = True) -> Entry:
        setting, start = self.setting, time.perf_counter()
        folder = self.folder and self.folder / entry_name(method, variant) / "tuning"
        tuning = setting.tuning if labels else setting.unlabeled_tuning
        data = [questions if labels else questions.without_labels() for questions in (setting.probe, setting.val)]
        options = {"recipe": tuning.recipe, "limits": tuning.limits, "style": tuning.style, "texts": setting.val_texts}
        names = " ".join(str(head) for head in heads)
        try:
            alignment = align_heads(setting.model, heads, *data, **options, folder=folder, seed=seed, progress=False)
        except NothingKeptError as error:
            # A result too: the model stays as it is.
            empty = HeadDelta(setting.base_hash, setting.model.name, heads, (), (), ())
            fitted = {"heads": names, "kept": 0, "reason": str(error)}
            return self._changed(method, variant, empty, time.perf_counter() - start, fitted)
        kept = sum(row["accepted"] for row in alignment.rows)
        fitted = {"heads": names, "kept": kept, "of": len(alignment.rows)}
        return self._changed(method, variant, alignment.delta, time.perf_counter() - start, fitted)

    def _changed(self, method: str, variant: str, delta: HeadDelta, seconds: float, fitted: dict[str, Any]) -> Entry:
        """The test questions and the text under a change of weights."""
        model = self.setting.model
        report, text = self.setting.measure(delta.applied(model, check=False))
        return Entry(method, variant, report, delta.n_changed, delta.share(model), text, seconds, fitted)


def random_sets(model: Model, heads: HeadList, n: int, seed: int) -> tuple[HeadList, ...]:
    """So many layer-matched random sets, no two of the same heads; the first ones are the same whatever n is.

    Raises:
        HeadError: where the model has too few other heads for one set, or for so many different ones.
    """
    rng, sets = np.random.default_rng(seed), {}
    for _ in range(TRIES * n):
        drawn = random_heads(heads, model.n_layers, model.n_heads, rng)
        sets.setdefault(frozenset(drawn), drawn)
        if len(sets) == n:
            break
    if len(sets) < n:
        raise HeadError(
            f"the model has only {len(sets)} random sets of {len(heads)} heads in or near the layers of the chosen "
            f"ones; ask for n_random={len(sets)} or fewer"
        )
    return tuple(sets.values())
