"""Slices of a HookedTransformer's weights as those of the plain model that it was made from: told by the values."""

import re
from collections.abc import Sequence

import torch
from torch import Tensor

from ..errors import DeltaError
from ..models import Model
from ..models.slice_values import read_slices
from ..models.slices import WeightSlice

# A head's own weights in TransformerLens's layout; an underscore marks keys and values kept once per group.
NAME = re.compile(r"blocks\.(?P<layer>\d+)\.attn\.(?P<grouped>_?)(?P<kind>[Wb])_(?P<projection>[QKVO])")


def carry_slices(
    model: Model, slices: Sequence[WeightSlice], before: Sequence[Tensor], after: Sequence[Tensor]
) -> tuple[tuple[WeightSlice, ...], list[tuple[Tensor, Tensor]]]:
    """The slices of a plain model that hold these values, and the values before and after in its layout.

    Raises:
        DeltaError: slices that are no HookedTransformer's, or values that the plain model doesn't hold.

    Source: ours.
    """
    carried = [_carry(model, *row) for row in zip(slices, before, after, strict=True)]
    return tuple(piece for piece, _ in carried), [values for _, values in carried]


def _carry(
    model: Model, piece: WeightSlice, before: Tensor, after: Tensor
) -> tuple[WeightSlice, tuple[Tensor, Tensor]]:
    match = NAME.fullmatch(piece.parameter)
    if match is None:
        raise DeltaError(f"{piece.parameter} is no weight of a HookedTransformer's heads; export the delta as it is")
    layer, (index,) = int(match["layer"]), piece.index
    head = index * len(model.group_of(layer, 0)) if match["grouped"] else index
    own = model.head_slices(layer, head, match["projection"].lower(), bias=True)
    target = next((s for s in own if s.parameter.endswith("bias") == (match["kind"] == "b")), None)
    if target is None:
        raise DeltaError(f"{model.name} has no bias where {piece.parameter} was tuned; tune again without biases")
    (held,) = read_slices(model, [target]).values()
    # Linear modules hold the transpose; which of the two it is, the values tell.
    for turn in (lambda values: values[0], lambda values: values[0].T):
        if turn(before).shape == held.shape and torch.equal(turn(before), held):
            return target, (held, turn(after).contiguous())
    raise DeltaError(
        f"{model.name} doesn't hold the values that {piece.parameter} began from: another model, or TransformerLens "
        f"processed the weights; load the HookedTransformer with from_pretrained_no_processing, and tune again"
    )
