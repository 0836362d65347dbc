"""Controls: would any heads have done it, and does a ranking that knows nothing find anything?"""

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd
from tqdm.auto import tqdm

from ..errors import HeadError
from ..heads import HeadList, Side
from ..scoring import HeadScores
from .effect import MEASURES, AblationEffect, Ablator
from .values import Intervention

# Measures that rise (1) or fall (-1) where the model leans more to No: farther from the heads' side is better. Of all
# other measures more is.
LEANING = {"mean_logit_difference": 1, "imbalance": 1, "yes_rate": -1}


@dataclass(frozen=True)
class RandomControl:
    """The chosen heads against random ones, on one measure.

    Args:
        effect: change of the measure under the intervention on the chosen heads.
        random: the same for each random set.
        p: (r + 1) / (n + 1), r the number of random sets that do as well or better: that move the mean logit
            difference, the imbalance or the yes rate as far away from `toward` or farther, or that leave any other
            measure as high or higher.
        matched: whether random sets take as many heads from each layer.
        measure: what changes.
        order: the candidate order that was asked in; None: both together.
        toward: the answer that the heads are held to push to.
    """

    effect: float
    random: tuple[float, ...]
    p: float
    matched: bool
    measure: str = "mean_logit_difference"
    order: str | None = None
    toward: Side = "no"

    @property
    def mean(self) -> float:
        """The random sets' average; NaN without any."""
        return float(np.mean(self.random)) if self.random else math.nan

    @property
    def ratio(self) -> float:
        """How many times as far the chosen heads go as random ones do on average."""
        return self.effect / self.mean if self.mean else math.nan

    def __str__(self) -> str:
        kind = "layer-matched" if self.matched else "unmatched"
        sets = f"{len(self.random)} {kind} random sets"
        return f"{self.effect:+.2f} against {self.mean:+.2f} on average of {sets}, p = {self.p:.2f}"


@dataclass(frozen=True, repr=False)
class RandomControls:
    """The chosen heads against one family of random sets, on every measure and in every candidate order.

    Args:
        chosen: the effect on the chosen heads.
        random: for each order (None: both together) and measure, the change under each random set.
        matched: whether random sets take as many heads from each layer.
    """

    chosen: AblationEffect
    random: dict[str | None, dict[str, tuple[float, ...]]]
    matched: bool

    @classmethod
    def against(cls, chosen: AblationEffect, others: Iterable[AblationEffect], matched: bool) -> "RandomControls":
        """The effect on the chosen heads beside those on random sets, of which one at a time is held."""
        orders = (None, *dict.fromkeys(chosen.base.order))
        found: dict[str | None, dict[str, list[float]]] = {o: {name: [] for name in MEASURES} for o in orders}
        for effect in others:
            for order, measures in found.items():
                for name, (before, after) in effect.points(order).items():
                    measures[name].append(after - before)
        random = {order: {name: tuple(values) for name, values in each.items()} for order, each in found.items()}
        return cls(chosen, random, matched)

    def of(self, measure: str = "mean_logit_difference", order: str | None = None) -> RandomControl:
        """The control on one measure, in one order or in both together.

        Raises:
            HeadError: for a measure or an order that there is not.
        """
        if order not in self.random or measure not in MEASURES:
            known = f"measures {', '.join(MEASURES)}; orders {', '.join(str(each) for each in self.random)}"
            raise HeadError(f"no control on {measure!r} in order {order!r}; there are {known}")
        own, random = self.chosen.change(measure, order), self.random[order][measure]
        sign = LEANING.get(measure, -1)
        if measure in LEANING and self.chosen.toward == "yes":
            sign = -sign
        better = sum(sign * value <= sign * own for value in random)
        p = math.nan if math.isnan(own) else (better + 1) / (len(random) + 1)
        return RandomControl(own, random, p, self.matched, measure, order, self.chosen.toward)

    def to_dataframe(self) -> pd.DataFrame:
        """One row an order and measure: effect, mean of the random sets, the ends of their middle 95%, ratio, p."""
        rows = []
        for order in self.random:
            for measure in MEASURES:
                found = self.of(measure, order)
                low, high = np.quantile(found.random, [0.025, 0.975]) if found.random else (math.nan, math.nan)
                numbers = (found.effect, found.mean, low, high, found.ratio, found.p)
                rows.append((order or "both", measure, *numbers))
        names = ["order", "measure", "effect", "random_mean", "random_low", "random_high", "ratio", "p"]
        return pd.DataFrame(rows, columns=names)

    def __repr__(self) -> str:
        lines = ", ".join(f"{order or 'both orders'}: {self.of(order=order)}" for order in self.random)
        return f"RandomControls(mean logit difference; {lines})"

    def _repr_html_(self) -> str:
        return self.to_dataframe().to_html(index=False, float_format="%.3f")


def random_controls(
    ablator: Ablator,
    heads: HeadList | Iterable[Any],
    intervention: Intervention | None = None,
    n: int = 19,
    matched: bool = True,
    seed: int = 0,
    progress: bool = False,
) -> RandomControls:
    """The same intervention on random sets of the same size, each asked once and measured in every way.

    Args:
        ablator: asks the questions.
        heads: the chosen heads; random sets never hold one of them.
        intervention: `Zero()` by default.
        n: random sets; 99 for a claim, fewer for a look.
        matched: as many heads from each layer, from neighbouring layers where it has too few left. False draws from
            all layers alike: an easier control, as heads of some layers matter more whichever they are.
        seed: of the draws.
        progress: a bar over sets.

    Source: ours.
    """
    chosen = HeadList.of(heads)
    own, rng = ablator.effect(chosen, intervention), np.random.default_rng(seed)
    shape = (ablator.model.n_layers, ablator.model.n_heads)
    sets = tqdm(range(n), desc="random heads", unit="set", disable=not progress)
    others = (ablator.effect_of(random_heads(chosen, *shape, rng, matched), intervention) for _ in sets)
    return RandomControls.against(own, others, matched)


def random_heads(
    chosen: HeadList, n_layers: int, n_heads: int, rng: np.random.Generator, matched: bool = True
) -> HeadList:
    """As many random heads, none of them chosen; matched by layer, or from the nearest layer that has any left.

    Raises:
        HeadError: where the model has too few other heads.
    """
    left = [(layer, index) for layer in range(n_layers) for index in range(n_heads) if (layer, index) not in chosen]
    if len(left) < len(chosen):
        raise HeadError(
            f"the model has {len(left)} other heads, too few for a random set of {len(chosen)}; choose fewer heads"
        )
    picked = []
    for head in chosen:
        distance = [abs(layer - head.layer) if matched else 0 for layer, _ in left]
        nearest = [place for place, far in enumerate(distance) if far == min(distance)]
        picked.append(left.pop(nearest[rng.integers(len(nearest))]))
    return HeadList.of(picked)


def shuffle_scores(scores: HeadScores, seed: int = 0) -> HeadScores:
    """The same scores dealt out to other heads: a ranking that knows nothing, which must find nothing.

    Args:
        scores: of all heads.
        seed: of the one permutation that columns, intervals and prompts share.

    Source: ours, as the negative control of everything that ranks heads.
    """
    places = np.random.default_rng(seed).permutation(scores.values.size)

    def deal(grid: np.ndarray) -> np.ndarray:
        return grid.reshape(*grid.shape[:-2], -1)[..., places].reshape(grid.shape)

    return replace(
        scores,
        columns={name: deal(grid) for name, grid in scores.columns.items()},
        intervals={name: deal(ends) for name, ends in scores.intervals.items()},
        per_prompt={order: deal(each) for order, each in scores.per_prompt.items()},
        quantity=f"shuffled {scores.quantity}",
    )
