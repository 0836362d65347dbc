"""A LoRA through PEFT, trained as the heads are: the same questions, loss, number of steps and limits."""

import copy
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm.auto import tqdm

from ..alignment.checks import Check
from ..alignment.looks import Look, choose, take_looks
from ..alignment.objectives import Answer, Objective, WeightedSum
from ..alignment.restarted import Restarted
from ..alignment.setting import Setting
from ..alignment.trainer import Trainer
from ..alignment.tuned import TunedSlices
from ..deltas.lora import is_conv1d
from ..errors import AlignmentError, DivergedError
from ..evaluation import TextReference
from ..heads import Head, HeadList
from ..models import Model
from ..models.slices import head_layout

LEARNING_RATES = (3e-4, 1e-3, 3e-3)
RANK = 8

State = tuple[Tensor, ...]


@dataclass(frozen=True, eq=False)
class Lora:
    """A trained LoRA of the query and value projections of all layers.

    Args:
        rank: of every factor; the change is scaled by 2, as is usual.
        modules: the projections' names.
        state: the factors; None where no look at validation was within the limits, so that nothing is changed.
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


class LoraWeights(TunedSlices):
    """The factors of a LoRA as what is tuned; they are in the model's graph already."""

    def __init__(self, model: Model):
        super().__init__(model, ())
        self.values = [value for name, value in model.hf.named_parameters() if "lora_" in name]

    @contextmanager
    def inserted(self) -> Iterator[None]:
        """Inside, the model computes with the factors, as it always does."""
        yield


@contextmanager
def adapted(model: Model, modules: Sequence[str], rank: int, seed: int) -> Iterator[tuple[Model, LoraWeights]]:
    """A second tree of modules around the very same weights, with a fresh LoRA in it; the first isn't touched.

    Args:
        model: with a plain view.
        modules: names of the modules that get factors.
        rank: of the factors.
        seed: of their first values; the change is 0 until they are trained.
    """
    # Imported here, since it takes seconds and no other part needs it.
    from peft import LoraConfig, inject_adapter_in_model

    kept = [*model.hf.parameters(), *model.hf.buffers()]
    asked = [parameter for parameter in model.hf.parameters() if parameter.requires_grad]
    other = copy.deepcopy(model.hf, {id(tensor): tensor for tensor in kept})
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
        adapted_model = Model(model.name, other.eval(), model.tokenizer, license=model.license)
        yield adapted_model, LoraWeights(adapted_model)
    finally:
        # PEFT freezes what it adapts, and the parameters are the model's own.
        for parameter in asked:
            parameter.requires_grad_(True)


def projections_of(model: Model) -> tuple[str, ...]:
    """The modules with the queries and the values of every layer, each once (some models fuse them)."""
    layouts = [head_layout(model.hf, layer) for layer in range(model.n_layers)]
    return tuple(dict.fromkeys(f"{each.name}.{each.module(part)}" for each in layouts for part in "qv"))


def fit_lora(
    setting: Setting,
    reference: TextReference,
    *,
    rank: int = RANK,
    learning_rates: Sequence[float] = LEARNING_RATES,
    progress: bool = False,
) -> Lora:
    """Trains a LoRA for as many steps as all heads together get, once for each learning rate, and takes the best.

    Of each rate the look at validation is kept that the loop over heads would keep, by the same limits and patience. Of
    the rates the one with the best validation accuracy is taken; of equally good ones the first.

    Args:
        setting: the model, the questions, the recipe and the limits; its heads count the steps, and are not tuned.
        reference: the validation text as the base model reads it.
        rank: of the factors.
        learning_rates: to choose from.
        progress: a bar over steps.

    Raises:
        AlignmentError: a loss that is no number at every rate.

    Caveat: what an objective says of attention is about heads, and left out; where nothing is left, it is `Answer()`.

    Source: LoRA is the usual baseline; how it is fitted here is ours.
    """
    start, modules = time.perf_counter(), projections_of(setting.model)
    base = _check(setting.model, setting, reference=True)
    found = []
    with tqdm(total=len(learning_rates), desc="training LoRA", unit="rate", disable=not progress) as bar:
        for rate in learning_rates:
            found.append(_train(setting, reference, base, modules, rank, rate))
            bar.update()
    kept = [each for each in found if each.look.reason is None]
    if not kept and all(each.failed for each in found):
        raise AlignmentError(f"the LoRA failed at every rate: {found[-1].look.reason}; give lower learning rates")
    best = max(kept, key=lambda each: each.look.check.accuracy) if kept else None
    rows = tuple({**each.row(), "taken": each is best} for each in found)
    return Lora(rank, modules, best.look.state if best else None, setting.seed, rows, time.perf_counter() - start)


@dataclass(frozen=True, eq=False)
class _Tried:
    """One learning rate, and its best look at validation."""

    rate: float
    look: Look
    failed: bool = False

    def row(self) -> dict[str, Any]:
        check = self.look.check
        numbers = {"accuracy": check.accuracy, "imbalance": check.worst_imbalance, "auc": check.mean_auc}
        return {"learning_rate": self.rate, "step": self.look.step, **numbers, "reason": self.look.said}


def _train(
    setting: Setting, reference: TextReference, base: Check, modules: Sequence[str], rank: int, rate: float
) -> _Tried:
    recipe = replace(setting.recipe, learning_rate=rate, objective=_of_answers(setting.recipe.objective))
    steps = recipe.steps * -(-len(setting.heads) // (recipe.heads_at_once or len(setting.heads)))
    with adapted(setting.model, modules, rank, setting.seed) as (model, weights):
        # all layers are trained, so every step begins at the lowest
        trainer = Trainer(model, setting.batches, (0,), recipe)
        losses = trainer.steps(HeadList((Head(0, 0),)), weights, np.random.default_rng([setting.seed, 0]))

        def look_at(step: int, loss: float) -> Look:
            check = _check(model, setting)
            return Look(step, loss, check, weights.state(), check.refusal(base, base, setting.limits))

        def price_of(look: Look) -> float:
            weights.load(look.state)
            return reference.ratio(model)

        try:
            looks = take_looks(losses, look_at, recipe, setting.limits, steps)
        except DivergedError as error:
            return _Tried(rate, Look(0, float("nan"), base, None, str(error)), failed=True)
        return _Tried(rate, choose(looks, setting.limits, price_of))


def _of_answers(objective: Objective) -> Objective:
    """What of an objective is about answers, as a LoRA has no heads of its own; where nothing is, `Answer()`."""
    terms = objective.terms if isinstance(objective, WeightedSum) else ((1.0, objective),)
    kept = tuple((weight, term) for weight, term in terms if "attention" not in term.reads)
    if len(kept) == len(terms):
        return objective
    return WeightedSum(kept) if kept else Answer()


def _check(model: Model, setting: Setting, reference: bool = False) -> Check:
    """The validation questions, asked of the whole model."""
    answers = {batch.order: Restarted(model, batch, ()).decide(reference=reference) for batch in setting.val_batches}
    return Check.of(setting.val_batches[0].labels.numpy(), answers)
