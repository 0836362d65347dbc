"""Random heads as a control: would any heads have done it?"""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..errors import HeadError
from ..heads import HeadList
from .effect import Ablator
from .values import Intervention


@dataclass(frozen=True)
class RandomControl:
    """The chosen heads against random ones.

    Args:
        effect: change of the mean logit difference under the intervention on the chosen heads.
        random: the same for each random set.
        p: (r + 1) / (n + 1), r the number of random sets that move it toward Yes as far or farther.
        matched: whether random sets take as many heads from each layer.
    """

    effect: float
    random: tuple[float, ...]
    p: float
    matched: bool

    def __str__(self) -> str:
        kind = "layer-matched" if self.matched else "unmatched"
        mean = float(np.mean(self.random)) if self.random else math.nan
        sets = f"{len(self.random)} {kind} random sets"
        return f"{self.effect:+.2f} against {mean:+.2f} on average of {sets}, p = {self.p:.2f}"


def random_control(
    ablator: Ablator,
    heads: HeadList | Iterable[Any],
    intervention: Intervention | None = None,
    n: int = 19,
    matched: bool = True,
    seed: int = 0,
) -> RandomControl:
    """Does the choice of heads matter? The same intervention on random sets of the same size.

    Args:
        ablator: asks the questions.
        heads: the chosen heads; random sets never hold one of them.
        n: random sets; 99 for a claim, fewer for a look.
        matched: as many heads from each layer, from neighbouring layers where it has too few left.
        seed: of the draws.

    Source: ours.
    """
    chosen = HeadList.of(heads)
    own = ablator.effect(chosen, intervention).mean_logit_difference_change
    rng = np.random.default_rng(seed)
    shape = (ablator.model.n_layers, ablator.model.n_heads)
    random = tuple(
        ablator.effect(random_heads(chosen, *shape, rng, matched), intervention).mean_logit_difference_change
        for _ in range(n)
    )
    return RandomControl(own, random, (sum(r <= own for r in random) + 1) / (n + 1), matched)


def random_heads(
    chosen: HeadList, n_layers: int, n_heads: int, rng: np.random.Generator, matched: bool = True
) -> HeadList:
    """As many random heads, none of them chosen; matched by layer, or from the nearest layer that has any left.

    Raises:
        HeadError: where the model has too few other heads.
    """
    left = [(layer, index) for layer in range(n_layers) for index in range(n_heads) if (layer, index) not in chosen]
    if len(left) < len(chosen):
        raise HeadError(f"the model has {len(left)} other heads, too few for a random set of {len(chosen)}")
    picked = []
    for head in chosen:
        distance = [abs(layer - head.layer) if matched else 0 for layer, _ in left]
        nearest = [place for place, far in enumerate(distance) if far == min(distance)]
        picked.append(left.pop(nearest[rng.integers(len(nearest))]))
    return HeadList.of(picked)
