"""Looks at validation while something is tuned: taken until they get no better, and the best kept that may be kept."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Any

from .checks import Check, perplexity_refusal
from .recipe import Limits, Recipe


@dataclass(frozen=True, eq=False)
class Look:
    """What is tuned, at one step, as validation sees it.

    Args:
        step, loss: how many steps were taken, and the loss of the last.
        check: the answers to the validation questions.
        state: the tuned tensors, to go back to.
        reason: why it can't be kept, or None.
        answers: what `Validation.keep` takes; of several looks the best alone holds them, as they are large.
        price: the perplexity on the validation text as a multiple of the base model's; NaN where it was not read.
    """

    step: int
    loss: float
    check: Check
    state: Any
    reason: str | None
    answers: Any = None
    price: float = float("nan")

    @property
    def said(self) -> str:
        """Why it was kept, or why not."""
        return self.reason or "imbalance shrank within the limits"

    def rank(self, limits: Limits) -> tuple[bool, bool, float]:
        """Smaller is better: what can be kept, then what reaches the target, then the smaller loss."""
        return (self.reason is not None, not self.check.within(limits), self.check.loss)


def take_looks(
    losses: Iterable[float], look_at: Callable[[int, float], Look], recipe: Recipe, limits: Limits, steps: int
) -> list[Look]:
    """Takes steps, at most so many, and looks every few of them, until so many looks in a row were no better."""
    looks, waited = [], 0
    for step, loss in enumerate(losses, start=1):
        if step % recipe.check_every and step < steps:
            continue
        look = look_at(step, loss)
        if better := all(look.rank(limits) < each.rank(limits) for each in looks):
            looks = [replace(each, answers=None) for each in looks]
        looks.append(look if better else replace(look, answers=None))
        waited = 0 if better else waited + 1
        if waited >= recipe.patience or step >= steps:
            break
    return looks


def choose(looks: list[Look], limits: Limits, price_of: Callable[[Look], float]) -> Look:
    """The best look that the validation text allows; where there is none, the best one, with the reason against it.

    Args:
        looks: to choose from; what the text says of a look is put down in its place.
        limits: on the perplexity.
        price_of: goes back to a look and reads the text; the look that is returned, if it can be kept, was the last.
    """
    ranked = sorted(range(len(looks)), key=lambda place: looks[place].rank(limits))
    for place in ranked:
        if looks[place].reason is not None:
            break
        price = price_of(looks[place])
        looks[place] = replace(looks[place], price=price, reason=perplexity_refusal(price, limits))
        if looks[place].reason is None:
            return looks[place]
    return looks[ranked[0]]
