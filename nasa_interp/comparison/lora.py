"""A LoRA through PEFT, trained as the heads are: the same questions, loss, number of steps and limits."""

import copy
import math
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool
from torch import Tensor
from tqdm.auto import tqdm

from ..alignment.kept_text import KeptText
from ..alignment.recipe import Limits
from ..alignment.setting import Setting
from ..alignment.trainer import Trainer
from ..alignment.tuned import RunningMean, Tuned
from ..alignment.validation import (
    Checkpoint,
    Untuned,
    ValidationMetrics,
    read_text,
    select_checkpoint,
    train_until_no_better,
)
from ..deltas.lora import is_conv1d
from ..errors import AlignmentError, DivergedError
from ..evaluation import TextReference
from ..models import Model
from ..models.slices import head_layout
from ..objectives import Answer, Objective, WeightedSum
from ..restartable import Answers, RestartablePrompts
from ..session import PromptSet

LEARNING_RATES = (3e-4, 1e-3, 3e-3)
RANK = 8

State = tuple[Tensor, ...]


@dataclass(frozen=True, eq=False)
class Lora:
    """A trained LoRA of the query and value projections of all layers.

    Args:
        rank: of every factor; the change is scaled by 2, as is usual.
        modules: the projections' names.
        state: the factors; None where no checkpoint was within the limits, so that nothing is changed.
        seed: of their first values.
        tried: one row a learning rate: what became of it on validation.
        seconds: how long training took.
    """

    rank: int
    modules: tuple[str, ...]
    state: State | None
    seed: int
    tried: tuple[dict[str, Any], ...]
    seconds: float

    @property
    def n_trained(self) -> int:
        """How many weights were trained; none where nothing was kept."""
        return sum(value.numel() for value in self.state or ())

    @contextmanager
    def applied(self, model: Model) -> Iterator[Model]:
        """The model with the LoRA, as modules of its own around the same weights; the model itself stays as it is."""
        if self.state is None:
            yield model
            return
        with adapted(model, self.modules, self.rank, self.seed) as (other, weights):
            weights.load(self.state)
            yield other


class LoraFactors(Tuned):
    """The factors of a LoRA as what is tuned; they are in the model's graph already."""

    def __init__(self, model: Model):
        self.values = [value for name, value in model.hf.named_parameters() if "lora_" in name]


@contextmanager
def adapted(model: Model, modules: Sequence[str], rank: int, seed: int) -> Iterator[tuple[Model, LoraFactors]]:
    """A second tree of modules around the very same weights, with a fresh LoRA in it; the first isn't touched.

    Args:
        model: any.
        modules: names of the modules that get factors.
        rank: of the factors.
        seed: of their first values; the change is 0 until they are trained.
    """
    # Imported here, since it takes seconds and no other part needs it.
    from peft import LoraConfig, inject_adapter_in_model

    shared = [*model.hf.parameters(), *model.hf.buffers()]
    trainable = [parameter for parameter in model.hf.parameters() if parameter.requires_grad]
    other = copy.deepcopy(model.hf, {id(tensor): tensor for tensor in shared})
    config = LoraConfig(
        r=rank,
        lora_alpha=2 * rank,
        lora_dropout=0.0,
        target_modules=list(modules),
        fan_in_fan_out=is_conv1d(model, modules[0]),
        bias="none",
    )
    device = [model.device] if model.device.type == "cuda" else []
    try:
        with torch.random.fork_rng(devices=device):
            torch.manual_seed(seed)
            inject_adapter_in_model(config, other)
        for name, factor in other.named_parameters():
            if "lora_" in name:
                factor.data = factor.data.float()  # trained in fp32, as heads are, whatever the model's dtype
        adapted_model = Model(model.name, other.eval(), model.tokenizer, license=model.license, mixed=model.mixed)
        yield adapted_model, LoraFactors(adapted_model)
    finally:
        # PEFT freezes what it adapts, and the parameters are the model's own.
        for parameter in trainable:
            parameter.requires_grad_(True)


def projections_of(model: Model) -> tuple[str, ...]:
    """The modules with the queries and the values of every layer, each once (some models fuse them)."""
    layouts = [head_layout(model.hf, layer) for layer in range(model.n_layers)]
    return tuple(dict.fromkeys(f"{layout.name}.{layout.module(part)}" for layout in layouts for part in "qv"))


def fit_lora(
    setting: Setting,
    reference: TextReference,
    *,
    rank: int = RANK,
    learning_rates: Sequence[float] = LEARNING_RATES,
    progress: bool = False,
) -> Lora:
    """Trains a LoRA for as many steps as all heads together get, once for each learning rate, and takes the best.

    Each rate keeps the checkpoint that the loop over heads would keep, by the same limits and patience. The rate with
    the best validation accuracy is taken; of equally good ones the first.

    Args:
        setting: the model, the questions, the recipe and the limits; its heads count the steps, and are not tuned.
        reference: the validation text as the base model reads it.
        rank: of the factors.
        learning_rates: to choose from.
        progress: a bar over steps.

    Raises:
        AlignmentError: a loss that is no number at every rate.

    Caveat: terms of an objective that read attention are about heads, and left out; with no others, it is `Answer()`.

    Source: LoRA is the usual baseline; how it is fitted here is ours.
    """
    start, modules = time.perf_counter(), projections_of(setting.model)
    answers = _asked(setting.model, setting.val, reference=True)
    untuned = Untuned.of(setting.val, answers, setting.recipe)
    base = ValidationMetrics.of(_labels(setting), answers, untuned=untuned)
    tried, text = [], KeptText(setting.model) if setting.recipe.keep_text else None
    # A fresh LoRA changes nothing, so at every rate training begins where the base model is.
    before = _asked(setting.model, setting.probe, reference=True)
    with tqdm(total=len(learning_rates), desc="training LoRA", unit="rate", disable=not progress) as bar:
        for rate in learning_rates:
            tried.append(_train(setting, reference, base, untuned, modules, rank, rate, text, before))
            bar.update()
    limits = setting.limits
    allowed = [trial for trial in tried if trial.checkpoint.refusal(limits) is None]
    if not allowed and all(trial.failed for trial in tried):
        raise AlignmentError(f"the LoRA failed at every rate: {tried[-1].checkpoint.reason}; give lower learning rates")
    best = min(allowed, key=lambda trial: _worth(trial.checkpoint.metrics)) if allowed else None
    rows = tuple({**trial.row(limits), "taken": trial is best} for trial in tried)
    return Lora(rank, modules, best.checkpoint.state if best else None, setting.seed, rows, time.perf_counter() - start)


def _worth(metrics: ValidationMetrics) -> float:
    """Smaller is better: the accuracy lost, or without labels the loss."""
    return metrics.loss if math.isnan(metrics.accuracy) else -metrics.accuracy


@dataclass(frozen=True, eq=False)
class _Trial:
    """One learning rate, and its best checkpoint."""

    rate: float
    checkpoint: Checkpoint
    failed: bool = False

    def row(self, limits: Limits) -> dict[str, Any]:
        metrics = self.checkpoint.metrics
        numbers = {"accuracy": metrics.accuracy, "imbalance": metrics.worst_imbalance, "auc": metrics.mean_auc}
        verdict = self.checkpoint.verdict(limits)
        return {"learning_rate": self.rate, "step": self.checkpoint.step, **numbers, "reason": verdict}


def _train(
    setting: Setting,
    reference: TextReference,
    base: ValidationMetrics,
    untuned: Untuned,
    modules: Sequence[str],
    rank: int,
    rate: float,
    text: KeptText | None,
    before: Mapping[str, Answers],
) -> _Trial:
    recipe = replace(setting.recipe, learning_rate=rate, objective=_of_answers(setting.recipe.loss()))
    steps = recipe.steps * -(-len(setting.heads) // (recipe.heads_at_once or len(setting.heads)))
    with adapted(setting.model, modules, rank, setting.seed) as (model, weights):
        # all layers are trained, so every step begins at the lowest
        trainer = Trainer(model, setting.probe, (0,), recipe, text=text, answers=before)
        mean = RunningMean(weights, recipe.averaging)
        losses = mean.over(trainer.steps(weights, np.random.default_rng([setting.seed, 0])))

        def evaluate(step: int, loss: float) -> Checkpoint:
            with mean.instead():
                metrics = ValidationMetrics.of(_labels(setting), _asked(model, setting.val), untuned=untuned)
                return Checkpoint(step, loss, metrics, weights.state(), metrics.refusal(base, base, setting.limits))

        def ratio_of(checkpoint: Checkpoint) -> float:
            weights.load(checkpoint.state)
            with weights.inserted():
                return reference.ratio(model)

        try:
            checkpoints = train_until_no_better(losses, evaluate, recipe, setting.limits, steps)
        except DivergedError as error:
            return _Trial(rate, Checkpoint(0, float("nan"), base, None, str(error)), failed=True)
        checkpoints = read_text(checkpoints, setting.limits, ratio_of)
        return _Trial(rate, select_checkpoint(checkpoints, setting.limits))


def _of_answers(objective: Objective) -> Objective:
    """The part of an objective about answers, as a LoRA has no heads of its own; `Answer()` where there is none."""
    terms = objective.terms if isinstance(objective, WeightedSum) else ((1.0, objective),)
    of_answers = tuple((weight, term) for weight, term in terms if "attention" not in term.reads)
    if len(of_answers) == len(terms):
        return objective
    return WeightedSum(of_answers) if of_answers else Answer()


def _asked(model: Model, prompts: PromptSet, reference: bool = False) -> dict[str, Answers]:
    """These questions, asked of the whole model."""
    return {batch.order: RestartablePrompts(model, batch, ()).decide(reference=reference) for batch in prompts}


def _labels(setting: Setting) -> Bool[np.ndarray, " question"] | None:
    labels = setting.val.batches[0].labels
    return None if labels is None else labels.numpy()
