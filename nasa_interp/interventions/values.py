"""Interventions as small values: what is done to a head, and at which positions."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol, get_args, runtime_checkable

import torch
from jaxtyping import Bool
from torch import Tensor

from ..attention import CutEdges, Edit, ScaleHeads, Spans, SwapEdges
from ..errors import HeadError
from ..forward import SharesUpTo
from ..heads import HeadList
from ..prompts import PromptBatch

Positions = Literal["all", "after", "last"]
"""All positions, those after the instruction, or the last one, which predicts the answer."""


@runtime_checkable
class Intervention(Protocol):
    """Anything that can say how a layer's heads are changed in a pass."""

    def edit(self, layer: int, heads: tuple[int, ...], batch: PromptBatch, positions: range) -> Edit | None:
        """The edit of these heads of a layer; None where nothing changes at these positions.

        An intervention that need not do the same to all prompts is a `forward.SharesUpTo` too.
        """
        ...


@dataclass(frozen=True)
class Scale:
    """Multiplies a head's output by a factor."""

    factor: float
    positions: Positions = "all"

    def __post_init__(self):
        if not math.isfinite(self.factor):
            raise HeadError(f"heads can't be scaled by {self.factor}; give a finite factor")

    def edit(self, layer: int, heads: tuple[int, ...], batch: PromptBatch, positions: range) -> Edit | None:
        """See `Intervention`."""
        queries = marked_queries(batch, positions, self.positions)
        if not queries.any():
            return None
        return ScaleHeads(heads, torch.full((len(heads),), self.factor), queries)


@dataclass(frozen=True)
class Zero:
    """Zero ablation: takes a head's output away.

    Caveat: in a hooked model whose value biases TransformerLens folded, a head's output no longer has its bias, which
        stays; `Mean` replaces the same in either.
    """

    positions: Positions = "all"

    def edit(self, layer: int, heads: tuple[int, ...], batch: PromptBatch, positions: range) -> Edit | None:
        """See `Intervention`."""
        return Scale(0.0, self.positions).edit(layer, heads, batch, positions)


@dataclass(frozen=True)
class Knockout:
    """Attention knockout: cuts a head's attention from later queries to both candidates, and nothing else of it.

    Args:
        renormalize: True as if the candidates were masked before the softmax, so that other keys take their attention
            over; False loses it.
        positions: "all" means all queries from which the candidates can be seen.
    """

    renormalize: bool = True
    positions: Positions = "after"

    def edit(self, layer: int, heads: tuple[int, ...], batch: PromptBatch, positions: range) -> Edit | None:
        """See `Intervention`."""
        queries = marked_queries(batch, positions, self.positions)
        if not queries.any():
            return None
        keys = torch.arange(positions.stop)
        columns = torch.zeros(len(batch), positions.stop, dtype=torch.bool)
        for span in (batch.yes_span, batch.no_span):
            columns |= (keys >= span[:, :1]) & (keys < span[:, 1:])
        return CutEdges(heads, columns, queries, self.renormalize)


@dataclass(frozen=True)
class Swap:
    """Exchanges the attention that a head pays to the two candidates."""

    positions: Positions = "after"

    def edit(self, layer: int, heads: tuple[int, ...], batch: PromptBatch, positions: range) -> Edit | None:
        """See `Intervention`."""
        queries = marked_queries(batch, positions, self.positions)
        return SwapEdges(heads, Spans(batch.yes_span, batch.no_span), queries) if queries.any() else None


INTERVENTIONS: dict[str, type[Intervention]] = {"zero": Zero, "knockout": Knockout, "swap": Swap}
"""What `ablate --do` takes by name. To add an intervention, add a line."""


def marked_queries(batch: PromptBatch, positions: range, where: Positions) -> Bool[Tensor, "batch query"]:
    """Which of the running positions an intervention acts on, prompt by prompt.

    Raises:
        HeadError: where `where` is none of the known places.
    """
    place = torch.arange(positions.start, positions.stop).expand(len(batch), -1)
    if where == "all":
        return torch.ones_like(place, dtype=torch.bool)
    if where == "after":
        return place >= batch.first_query[:, None]
    if where == "last":
        return place == batch.last_pos[:, None]
    raise HeadError(f"positions {where!r} are unknown; use one of {', '.join(get_args(Positions))}")


@dataclass(frozen=True)
class InterventionEdits:
    """An intervention on the heads of several layers, as the fused forward pass takes it: called for each batch."""

    layers: Mapping[int, tuple[int, ...]]
    intervention: Intervention

    def __call__(self, batch: PromptBatch, positions: range) -> Mapping[int, Sequence[Edit]]:
        edit = self.intervention.edit
        found = {layer: edit(layer, heads, batch, positions) for layer, heads in self.layers.items()}
        return {layer: [edit] for layer, edit in found.items() if edit is not None}

    def shares_up_to(self, prompts: PromptBatch) -> int:
        """See `forward.SharesUpTo`; an intervention that isn't one does the same to all prompts."""
        what = self.intervention
        return what.shares_up_to(prompts) if isinstance(what, SharesUpTo) else prompts.tokens.shape[1]


def edits_of(heads: HeadList | Iterable[Any], intervention: Intervention) -> InterventionEdits:
    """The intervention on all of these heads, as the fused forward pass takes it."""
    layers: dict[int, tuple[int, ...]] = {}
    for head in HeadList.of(heads):
        layers[head.layer] = (*layers.get(head.layer, ()), head.index)
    return InterventionEdits(layers, intervention)
