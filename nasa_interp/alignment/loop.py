"""The loop: heads together, or one after another in ranking order; tuned, checked, and kept or rolled back."""

import math
import time
from collections.abc import Iterable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from tqdm.auto import tqdm

from ..deltas.delta import HeadDelta
from ..errors import AlignmentError, DivergedError, NothingKeptError
from ..evaluation import TextReference, plain_text
from ..heads import HeadList
from ..models import as_model
from ..models.slice_values import read_slices, write_slices
from ..prompts import PromptStyle
from ..run import digest_of
from ..session import describe_run
from ..torch_defaults import under_torch_defaults
from .checks import Check, Validation
from .looks import Look, choose, take_looks
from .progress import Progress
from .recipe import Limits, Recipe
from .result import Alignment
from .setting import Setting
from .trainer import Trainer
from .tuned import TunedSlices, outside_hash, tunable_slices

# Passages of the built-in validation text that are read after every head: a look, which the full price follows.
PASSAGES = 4


@under_torch_defaults
def align_heads(
    model: Any,
    heads: HeadList | Iterable[Any],
    probe: Any,
    val: Any,
    *,
    recipe: Recipe | None = None,
    limits: Limits | None = None,
    style: PromptStyle | None = None,
    texts: Sequence[str] | None = None,
    folder: str | Path | None = None,
    seed: int = 0,
    progress: bool = True,
) -> Alignment:
    """Tunes only these heads until the model says Yes as often as yes is right, and keeps only what costs little.

    Heads are taken in their order, as many at a time as the recipe says: all together by default, one after another
    as in the paper with `Recipe(heads_at_once=1)`. They are tuned for a few steps; the best look at the validation
    questions is kept if the imbalance shrank and neither AUC, answer mass nor perplexity passed its limit, else they
    are rolled back. The imbalance that must shrink is the soft one, with the mean P(yes) in place of the rate of Yes:
    it moves before the first answer flips.

    Args:
        model: a Model with a plain view, or what `load_model` accepts besides names. It is left as it was.
        heads: in ranking order, such as `scores.top(10, by="polarity")`.
        probe: questions to tune on; val: questions that decide what is kept. None may be in both.
        recipe, limits: how to tune, and what it may cost.
        style: as for `build_prompts`.
        texts: validation text for the perplexity; None takes some of the built-in one.
        folder: where finished heads are kept, so that a run that was killed goes on after the last of them with the
            same result (heads that are tuned together begin anew), and where the result is written.
        seed: of all draws.
        progress: show a bar.

    Returns:
        The change of the weights and the log of every head; `with run.delta.applied(model)` shows the tuned model.

    Raises:
        QuestionError: questions of one label only, or in both sets.
        HeadError: a head outside the model, or shared keys and values.
        ModelError: quantized or processed weights, or a model that fused attention isn't exact for.
        AlignmentError: a folder of another run; NothingKeptError (one of these) where no head's change was kept.

    Source: the paper's NASA tunes head by head with early stopping (section on NASA); losses, limits, numbers are ours.
    """
    start, model = time.perf_counter(), as_model(model)
    setting = Setting.of(model, heads, probe, val, recipe or Recipe(), limits or Limits(), style, seed)
    base_hash, outside = model.weights_hash(), outside_hash(model.hf, setting.slices)
    texts = tuple(plain_text("val")[:PASSAGES] if texts is None else texts)
    record = Progress.open(folder, {**setting.fingerprint(), "base": base_hash, "texts": digest_of(texts)})
    before = read_slices(model, setting.slices)
    try:
        loop = _Loop(setting, record, texts, progress)
        tuned = loop.run()
        log = {**setting.to_dict(), "base": loop.base.to_dict(), "tuned": tuned.to_dict(), "steps": record.rows}
        delta = HeadDelta.of(model, base_hash, setting.heads, before, log)
        outside_after = outside_hash(model.hf, setting.slices)
    finally:
        write_slices(model, before)
    if not any(row["accepted"] for row in record.rows) and not loop.base.within(setting.limits):
        raise NothingKeptError(f"no head's change was kept, the last because {record.rows[-1]['reason']}; {_ADVICE}")
    if outside_after != outside:
        raise AlignmentError("weights outside the chosen slices changed; this is a defect of nasa_interp, report it")
    run = describe_run(model, setting.probe, setting.batches, seed, 0, start, "fused", setting.notes, base_hash)
    place = None if folder is None else Path(folder)
    found = Alignment(delta, tuple(record.rows), loop.base, tuned, outside, run, place)
    if place is not None:
        found.save(place)
    return found


_ADVICE = "try other heads, more steps, a lower rate, or wider limits"


class _Loop:
    """Heads one after another; `now` is the last look at the model as it is kept."""

    def __init__(self, setting: Setting, record: Progress, texts: Sequence[str], progress: bool):
        self.setting, self.record, self.progress = setting, record, progress
        model, layers = setting.model, sorted({head.layer for head in setting.heads})
        self.reference = TextReference.of(model, texts, progress=False)
        self.validation = Validation(model, setting.val_batches, layers)
        self.base, answers = self.validation.check(setting.heads, reference=True)
        self.now = self.base
        if record.values:
            write_slices(model, record.values)
            self.now, answers = self.validation.check(setting.heads)
        self.validation.keep(answers)
        self.trainer = Trainer(model, setting.batches, layers, setting.recipe)

    def run(self) -> Check:
        """Tunes the heads that are left, until the target is reached; the last look, with the NAS of all heads."""
        heads = self.setting.heads
        at_once = self.setting.recipe.heads_at_once or len(heads)
        with tqdm(total=len(heads), desc="aligning heads", unit="head", disable=not self.progress) as bar:
            bar.update(self.record.next)
            for place in range(self.record.next, len(heads), at_once):
                if self.now.within(self.setting.limits):
                    break
                some = heads[place : place + at_once]
                self._tune(place, some)
                bar.update(len(some))
                bar.set_postfix_str(f"imbalance {self.now.worst_imbalance:+.2f}")
        return replace(self.now, nas=self.validation.nas(heads))

    def _tune(self, place: int, heads: HeadList) -> None:
        """One head (or so many at once): tuned, looked at, kept or rolled back, and written down."""
        before = replace(self.now, nas=self.validation.nas(heads))
        start, setting, model = time.perf_counter(), self.setting, self.setting.model
        recipe, lowest = setting.recipe, min(head.layer for head in heads)
        slices = tunable_slices(model, heads, recipe.projections, recipe.bias, share=True)
        tuned, old = TunedSlices(model, slices), read_slices(model, slices)
        steps = self.trainer.steps(heads, tuned, np.random.default_rng([setting.seed, place]))
        look_at, first = partial(self._look, tuned, heads, lowest), tuned.state()
        try:
            looks = take_looks(steps, look_at, recipe, setting.limits, recipe.steps)
        except DivergedError as error:
            # These heads go back to what they were; the others have their turn.
            tuned.load(first)
            looks = [replace(look_at(0, math.nan), reason=str(error))]
        taken = choose(looks, setting.limits, partial(self._price, tuned))
        row = _row(heads, before, taken, time.perf_counter() - start)
        row["looks"] = [_looked(0, before, None), *(_looked(each.step, each.check, each.reason) for each in looks)]
        if taken.reason is None:
            self.now = taken.check
            self.validation.keep(taken.answers or self.validation.check(heads, lowest)[1])
            self.trainer.refresh(lowest)
        else:
            write_slices(model, old)
        kept = read_slices(model, slices) if taken.reason is None else {}
        self.record.finish(place + len(heads), [row], kept)

    def _look(self, tuned: TunedSlices, heads: HeadList, lowest: int, step: int, loss: float) -> Look:
        """The validation questions, asked of the model under tuning."""
        with tuned.inserted():
            check, answers = self.validation.check(heads, lowest)
        reason = check.refusal(self.now, self.base, self.setting.limits)
        return Look(step, loss, check, tuned.state(), reason, answers)

    def _price(self, tuned: TunedSlices, look: Look) -> float:
        """The perplexity on the validation text, with the look's weights in the model, where they stay."""
        tuned.load(look.state)
        tuned.write()
        return self.reference.ratio(self.setting.model)


def _looked(step: int, check: Check, reason: str | None) -> dict[str, Any]:
    """One look of the log: what validation saw after so many steps, and why it couldn't be kept."""
    return {
        "step": step,
        **{f"imbalance_{order}": value for order, value in check.imbalance.items()},
        "soft_imbalance": check.distance,
        "auc": check.mean_auc,
        "accuracy": check.accuracy,
        "answer_mass": check.answer_mass,
        "loss": check.loss,
        "refused": reason or "",
    }


def _row(heads: HeadList, before: Check, look: Look, seconds: float) -> dict[str, Any]:
    """One line of the log."""
    return {
        "head": " ".join(str(head) for head in heads),
        "accepted": look.reason is None,
        "reason": look.said,
        "steps": look.step,
        "loss": look.loss,
        "imbalance_before": before.worst_imbalance,
        "imbalance_after": look.check.worst_imbalance,
        **{f"imbalance_{order}": value for order, value in look.check.imbalance.items()},
        "soft_imbalance_before": before.distance,
        "soft_imbalance_after": look.check.distance,
        "nas_before": before.nas,
        "nas_after": look.check.nas,
        "auc_before": before.mean_auc,
        "auc_after": look.check.mean_auc,
        "accuracy_before": before.accuracy,
        "accuracy_after": look.check.accuracy,
        "answer_mass_after": look.check.answer_mass,
        "perplexity_ratio": look.price,
        "seconds": round(seconds, 2),
    }
