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
from ..models.tunable import outside_hash, tunable_slices
from ..prompts import PromptStyle
from ..restartable import RestartablePrompts
from ..run import digest_of
from ..session import describe_run
from ..torch_defaults import under_torch_defaults
from .kept_text import KeptText
from .progress import Progress
from .recipe import Limits, Recipe
from .result import Alignment
from .setting import Setting
from .trainer import Trainer
from .tuned import RunningMean, TunedSlices
from .validation import Checkpoint, Validation, ValidationMetrics, read_text, select_checkpoint, train_until_no_better

# Passages of the built-in validation text that limit what is kept; the whole text is read by `evaluate_change`.
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
    as in the paper with `Recipe(heads_at_once=1)`. They are tuned for a few steps; the best checkpoint on the
    validation questions is kept if the imbalance shrank and neither AUC, answer mass nor perplexity passed its limit,
    else they are rolled back. The imbalance that must shrink is the soft one, with the mean P(yes) in place of the rate
    of Yes: it moves before the first answer flips.

    Args:
        model: a Model, or what `load_model` accepts besides names. It is left as it was.
        heads: in ranking order, such as `scores.top(10, by="polarity")`.
        probe: questions to tune on; val: questions that decide what is kept. None may be in both. Either may be without
            labels: then the model's own decisions without their lean are what tuning pulls toward (`OwnDecisions`), and
            validation goes by the rate of yes against the recipe's prior and by the ranking, which must stay.
        recipe, limits: how to tune, and what it may cost.
        style: as for `build_prompts`.
        texts: validation text for the perplexity; None takes some of the built-in one.
        folder: where finished heads are kept, so that a killed run goes on after the last of them with the same result
            (heads that are tuned together begin anew), and where the result is written.
        seed: of all draws.
        progress: show a bar.

    Returns:
        The change of the weights and the log of every head; `with run.delta.applied(model)` shows the tuned model.

    Raises:
        QuestionError: questions of one label only, or in both sets, or without the labels that the objective needs.
        HeadError: a head outside the model, or shared keys and values.
        ModelError: quantized or processed weights, or a model that fused attention isn't exact for.
        AlignmentError: a folder of another run; NothingKeptError (one of these) where no head's change was kept.

    Source: the paper's NASA tunes head by head with early stopping (section on NASA); losses, limits, numbers are ours.
    """
    start, model = time.perf_counter(), as_model(model)
    setting = Setting.of(model, heads, probe, val, recipe or Recipe(), limits or Limits(), style, seed)
    model = setting.model
    base_hash, outside = model.weights_hash(), outside_hash(model.weights, setting.slices)
    texts = tuple(plain_text("val")[:PASSAGES] if texts is None else texts)
    record = Progress.open(folder, {**setting.fingerprint(), "base": base_hash, "texts": digest_of(texts)})
    before = read_slices(model, setting.slices)
    try:
        loop = _Loop(setting, record, texts, progress, base_hash)
        tuned = loop.run()
        log = {**setting.to_dict(), "base": loop.base.to_dict(), "tuned": tuned.to_dict(), "steps": record.rows}
        delta = HeadDelta.of(model, base_hash, setting.heads, before, log)
        outside_after = outside_hash(model.weights, setting.slices)
    finally:
        write_slices(model, before)
    if not any(row["accepted"] for row in record.rows) and not loop.base.within(setting.limits):
        last = record.rows[-1]
        raise NothingKeptError(f"no head's change was kept; {last['head']}: {last['reason']}; {_ADVICE}")
    if outside_after != outside:
        raise AlignmentError("weights outside the chosen slices changed; this is a defect of nasa_interp, report it")
    run = describe_run(model, setting.probe, start, model.engine, setting.notes, base_hash)
    target = None if folder is None else Path(folder)
    alignment = Alignment(delta, tuple(record.rows), loop.base, tuned, outside, run, target, loop.untuned)
    if target is not None:
        alignment.save(target)
    return alignment


_ADVICE = "try other heads, more steps, or wider limits"


class _Loop:
    """Heads one after another; `now` is what validation saw last of the model as it is kept."""

    def __init__(self, setting: Setting, record: Progress, texts: Sequence[str], progress: bool, base_hash: str):
        self.setting, self.record, self.progress = setting, record, progress
        model, layers = setting.model, sorted({head.layer for head in setting.heads})
        self.reference = TextReference.of(model, texts, progress=False)
        self.validation = Validation(model, setting.val, layers, setting.recipe)
        start = time.perf_counter()
        self.base, answers = self.validation.measure(setting.heads, reference=True)
        self.now, self.untuned = self.base, self.validation.report(answers, start, base_hash)
        text, untuned = KeptText.of(model, setting.recipe), None
        if record.values:
            untuned = {
                prompts.order: RestartablePrompts(model, prompts, layers).decide().d for prompts in setting.probe
            }
            write_slices(model, record.values)
            self.now, answers = self.validation.measure(setting.heads)
        self.validation.restart_from(answers)
        self.trainer = Trainer(model, setting.probe, layers, setting.recipe, untuned, text)

    def run(self) -> ValidationMetrics:
        """Tunes the heads that are left until the target is reached; returns what validation saw last, with all NAS."""
        heads = self.setting.heads
        at_once = self.setting.recipe.heads_at_once or len(heads)
        with tqdm(total=len(heads), desc="aligning heads", unit="head", disable=not self.progress) as bar:
            bar.update(self.record.next)
            for first in range(self.record.next, len(heads), at_once):
                if self.now.within(self.setting.limits):
                    break
                group = heads[first : first + at_once]
                self._tune(first, group)
                bar.update(len(group))
                bar.set_postfix_str(f"imbalance {self.now.worst_imbalance:+.2f}")
        return replace(self.now, nas=self.validation.nas(heads))

    def _tune(self, first: int, heads: HeadList) -> None:
        """One head (or several at once): tuned, validated, kept or rolled back, and logged."""
        before = replace(self.now, nas=self.validation.nas(heads))
        start, setting, model = time.perf_counter(), self.setting, self.setting.model
        recipe, lowest = setting.recipe, min(head.layer for head in heads)
        slices = tunable_slices(model, heads, recipe.projections, recipe.bias, share=True)
        tuned = TunedSlices(model, slices)
        initial, checkpoints, tries = tuned.state(), [], []
        for rate in recipe.rates:
            tuned.load(initial)
            tried = self._train(tuned, heads, lowest, np.random.default_rng([setting.seed, first]), rate)
            tried = read_text(tried, setting.limits, partial(self._perplexity_ratio, tuned))
            checkpoints = [*checkpoints, *tried]
            if (told := _limited(tried, setting.limits)) is None:
                break
            tries.append(f"rate {rate:.2g}: {told}")
        best = select_checkpoint(checkpoints, setting.limits)
        refusal = best.refusal(setting.limits)
        row = _row(heads, before, best, setting.limits, time.perf_counter() - start)
        row["rate"] = best.rate
        row["tried"] = "; ".join(tries)
        if refusal is not None:
            row["reason"] = f"none of {len(tries)} rates can be kept: {row['tried']}"
        start_row = {**_metrics_row(0, before, None), "rate": math.nan}
        row["checkpoints"] = [start_row]
        row["checkpoints"] += [
            {**_metrics_row(c.step, c.metrics, c.refusal(setting.limits)), "rate": c.rate} for c in checkpoints
        ]
        if refusal is None:
            tuned.load(best.state)
            tuned.write()
            self.now = best.metrics
            self.validation.restart_from(best.answers or self.validation.measure(heads, lowest)[1])
            if first + len(heads) < len(setting.heads):
                # All questions once more, for the heads that are left.
                self.trainer.refresh(lowest)
        kept = read_slices(model, slices) if refusal is None else {}
        self.record.finish(first + len(heads), [row], kept)

    def _train(
        self, tuned: TunedSlices, heads: HeadList, lowest: int, rng: np.random.Generator, rate: float
    ) -> list[Checkpoint]:
        """The checkpoints of training at this rate; where the loss diverges, a single one of the heads as before."""
        recipe, limits = self.setting.recipe, self.setting.limits
        losses, mean = self.trainer.steps(tuned, rng, heads, rate), RunningMean(tuned, recipe.averaging)
        evaluate, initial = partial(self._evaluate, mean, heads, lowest, rate), tuned.state()
        try:
            return train_until_no_better(mean.over(losses), evaluate, recipe, limits, recipe.steps)
        except DivergedError as error:
            # These heads go back to what they were; the others have their turn.
            mean = RunningMean(tuned, 0.0)
            tuned.load(initial)
            return [replace(self._evaluate(mean, heads, lowest, rate, 0, math.nan), reason=str(error))]

    def _evaluate(
        self, mean: RunningMean, heads: HeadList, lowest: int, rate: float, step: int, loss: float
    ) -> Checkpoint:
        """The validation questions, asked of the model under tuning."""
        with mean.instead():
            with mean.tuned.inserted():
                metrics, answers = self.validation.measure(heads, lowest)
            reason = metrics.refusal(self.now, self.base, self.setting.limits)
            return Checkpoint(step, loss, metrics, mean.tuned.state(), reason, answers, rate=rate)

    def _perplexity_ratio(self, tuned: TunedSlices, checkpoint: Checkpoint) -> float:
        """The perplexity on the validation text with the checkpoint's weights, as a multiple of the base model's."""
        tuned.load(checkpoint.state)
        with tuned.inserted():
            return self.reference.ratio(self.setting.model)


def _limited(tried: Sequence[Checkpoint], limits: Limits) -> str | None:
    """Which limit refused the best that tuning at one rate reached, and at which step; None where none did."""
    kept = select_checkpoint(tried, limits)
    if kept.refusal(limits) is not None:
        return f"at step {kept.step} {kept.refusal(limits)}"
    best = min(tried, key=lambda checkpoint: checkpoint.metrics.loss)
    if kept.metrics.within(limits) or best.refusal(limits) is None:
        return None
    got = f"imbalance {kept.metrics.worst_imbalance:+.2f} at step {kept.step}"
    return f"{got}, and at step {best.step} {best.refusal(limits)}"


def _metrics_row(step: int, metrics: ValidationMetrics, reason: str | None) -> dict[str, Any]:
    """One checkpoint of the log: what validation saw after so many steps, and why it couldn't be kept."""
    imbalances = {f"imbalance_{order}": value for order, value in metrics.imbalance.items()}
    numbers = {name: value for name, value in metrics.summary().items() if name not in ("imbalance", "nas")}
    return {"step": step, **imbalances, **numbers, "loss": metrics.loss, "refused": reason or ""}


def _row(
    heads: HeadList, before: ValidationMetrics, best: Checkpoint, limits: Limits, seconds: float
) -> dict[str, Any]:
    """One line of the log."""
    ratio, moments = best.perplexity_ratio, {"before": before.summary(), "after": best.metrics.summary()}
    return {
        "head": " ".join(str(head) for head in heads),
        "accepted": best.refusal(limits) is None,
        "reason": best.verdict(limits),
        "steps": best.step,
        "loss": best.loss,
        **{f"{name}_{moment}": moments[moment][name] for name in moments["after"] for moment in moments},
        **{f"imbalance_{order}": value for order, value in best.metrics.imbalance.items()},
        "perplexity_ratio": math.nan if ratio is None else ratio,
        "seconds": round(seconds, 2),
    }
