"""Steps of tuning: the loss of some questions in both orders, from the lowest tuned layer on."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from itertools import count

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from ..errors import DivergedError
from ..heads import HeadList
from ..mixed_precision import in_bfloat16, multiplies_bfloat16
from ..models import Model
from ..objectives import Step
from ..restartable import Answers, RestartablePrompts
from ..session import PromptSet
from .kept_text import KeptText
from .recipe import Recipe
from .targets import own_decisions, strata_of, wordings_of
from .tuned import Tuned

NO_HEADS = HeadList(())
# Prompts at once through one layer's attention.
LOCAL_BATCH = 64


class Trainer:
    """The questions to tune on, with what enters every layer that will be tuned.

    Args:
        model: the model, as it is now.
        asked: the prompts of these questions.
        layers: of all heads that will be tuned.
        recipe: how to tune.
        untuned: d of the model before any tuning, by order; None where that is how it is now.
        text: the plain text whose predictions are kept, as they were before any tuning; None keeps none.
        answers: what the model says of these prompts, by order, where it was asked already, held to the plain model.
    """

    def __init__(
        self,
        model: Model,
        asked: PromptSet,
        layers: Sequence[int],
        recipe: Recipe,
        untuned: Mapping[str, Float[np.ndarray, " question"]] | None = None,
        text: KeptText | None = None,
        answers: Mapping[str, Answers] | None = None,
    ):
        self.model = model
        self.labels = asked.batches[0].labels
        self.recipe = recipe.resolved(labeled=self.labels is not None)
        self.in_bfloat16 = steps_in_bfloat16(model, recipe)
        self.text = text if "answer" in self.recipe.loss().reads else None
        self.wording = torch.from_numpy(wordings_of(asked))
        self.lengths = torch.stack([prompts.last_pos for prompts in asked]).amax(0)
        self.orders = {prompts.order: RestartablePrompts(model, prompts, layers) for prompts in asked}
        self.log_mass: dict[str, Tensor] = {}
        self.d: dict[str, Tensor] = {}
        if answers is None:
            self.refresh(reference=True)
        else:
            self._take(answers)
        # Before anything is tuned: whoever goes on with tuned heads hands over what the untuned model decided.
        before = {order: d.double().numpy() for order, d in self.d.items()} if untuned is None else dict(untuned)
        own = own_decisions(before, strata_of(asked, recipe.recentre), recipe.prior)
        self.d_before, self.own = ({o: torch.from_numpy(d).float() for o, d in each.items()} for each in (before, own))

    def refresh(self, layer: int = 0, reference: bool = False) -> None:
        """Runs all questions from this layer on, below which the weights haven't changed since the last time."""
        if any(tuned >= layer for restarted in self.orders.values() for tuned in restarted.layers):
            self._take({order: restarted.decide(layer, reference) for order, restarted in self.orders.items()})

    def _take(self, answers: Mapping[str, Answers]) -> None:
        """Goes on from these answers to all questions."""
        for order, restarted in self.orders.items():
            restarted.restart_from(answers[order])
            self.d[order] = torch.from_numpy(answers[order].d).float()
            self.log_mass[order] = torch.from_numpy(answers[order].mass).log().float()

    def steps(
        self, tuned: Tuned, rng: np.random.Generator, heads: HeadList = NO_HEADS, rate: float | None = None
    ) -> Iterator[float]:
        """Takes one step after another and yields its loss; the caller decides when it is enough.

        Args:
            tuned: what may change.
            rng: draws the questions of each step.
            heads: the tuned ones; steps begin at their lowest layer, and at the first one without heads.
            rate: relative to what is tuned (`Tuned.sizes`); None takes the recipe's.

        Raises:
            DivergedError: a loss that is no number; the weights are those before that step.
        """
        rate = self.recipe.learning_rate if rate is None else rate
        groups = [{"params": [v], "lr": rate * size} for v, size in zip(tuned.values, tuned.sizes(), strict=True)]
        optimizer = torch.optim.Adam(groups, betas=(0.9, 0.99))
        paid = self.mass_before(heads) if "attention" in self.recipe.loss().reads else {}
        for turn in count():
            rows = self._draw(rng)
            with torch.enable_grad(), tuned.inserted():
                loss = self.recipe.loss()(self.see(heads, rows, paid))
                if self.text is not None:
                    with self._arithmetic():
                        loss = loss + self.recipe.keep_text * self.text.divergence(self.model, turn)
                optimizer.zero_grad()
                loss.backward()
            if not torch.isfinite(loss):
                raise DivergedError(f"the loss became {loss.item()}; tune with a lower rate, or in float32")
            optimizer.step()
            yield loss.item()

    def _draw(self, rng: np.random.Generator) -> list[int]:
        """As many questions of either label, or any where labels aren't known; longest first."""
        if self.labels is None:
            rows = rng.permutation(len(self.lengths))[: self.recipe.questions]
        else:
            half = max(1, self.recipe.questions // 2)
            sides = [np.flatnonzero(self.labels.numpy() == label) for label in (True, False)]
            rows = np.concatenate([rng.permutation(side)[:half] for side in sides])
        return rows[np.argsort(-self.lengths[rows].numpy(), kind="stable")].tolist()

    def see(self, heads: HeadList, rows: list[int], paid: Mapping[str, Tensor]) -> Step:
        """What the objective reads of these questions; `paid` is `mass_before`, where it reads attention."""
        reads, lowest = self.recipe.loss().reads, min((head.layer for head in heads), default=0)
        d, log_mass, nas, mass = {}, {}, {}, {}
        for order, restarted in self.orders.items():
            if "answer" in reads:
                with self._arithmetic():
                    d[order], log_mass[order] = restarted.answer(lowest, rows)
            if "attention" in reads:
                nas[order], mass[order] = _attention(restarted, heads, rows)
        before = {order: self.log_mass[order][rows] for order in d}
        mass_before = {order: values[rows] for order, values in paid.items()}
        labels = None if self.labels is None else self.labels[rows]
        was, own = ({order: values[order][rows] for order in d} for values in (self.d_before, self.own))
        return Step(labels, self.wording[rows], d, was, own, log_mass, before, nas, mass, mass_before)

    def _arithmetic(self) -> AbstractContextManager[None]:
        return in_bfloat16(self.model.network, self.model.device) if self.in_bfloat16 else nullcontext()

    @torch.no_grad()
    def mass_before(self, heads: HeadList) -> dict[str, Tensor]:
        """What these heads pay to both candidates on every question, as the model is now; for each order."""
        chunks = torch.arange(len(self.lengths)).split(LOCAL_BATCH)
        return {
            order: torch.cat([_attention(restarted, heads, rows.tolist())[1] for rows in chunks])
            for order, restarted in self.orders.items()
        }


def steps_in_bfloat16(model: Model, recipe: Recipe) -> bool:
    """Whether steps of this recipe multiply in bfloat16 on this model."""
    if recipe.mixed_precision is not None:
        return recipe.mixed_precision
    return model.has_hf and model.dtype == torch.float32 and multiplies_bfloat16(model.device)


def _attention(restarted: RestartablePrompts, heads: HeadList, rows: Sequence[int]) -> tuple[Tensor, Tensor]:
    """NAS of these heads and what they pay to the candidates; each layer takes what entered it before this tuning."""
    by_layer = {layer: restarted.attention(layer, rows) for layer in {head.layer for head in heads}}
    nas, mass = (torch.stack([by_layer[head.layer][part][:, head.index] for head in heads], 1) for part in (0, 1))
    return nas, mass
