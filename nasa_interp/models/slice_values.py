"""Reads the values of weight slices from a model and writes them into it."""

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from ..errors import DeltaError
from .model import Model
from .slices import WeightSlice

Values = Float[Tensor, "..."]
"""A slice's values: the parameter's shape, except for the sliced dimension."""


def plain_view(model: Model) -> Any:
    """The model's plain transformers view; where there is none, raises DeltaError saying what to load."""
    if (reason := model.why_not_plain) is not None:
        raise DeltaError(
            f"model {model.name!r} can't be written as a transformers model: {reason}; take the change to the plain "
            f"model with delta.carried_to(load_model(...)), and export that"
        )
    return model.weights


def read_slices(model: Model, slices: Iterable[WeightSlice]) -> dict[WeightSlice, Values]:
    """Copies of the slices' current values, on the CPU, in the weights' own dtype.

    Raises:
        DeltaError: the model has no plain view, or no such parameter, or its weights are offloaded.
    """
    weights = model.weights
    return {piece: _select(_parameter(weights, model.name, piece), piece) for piece in slices}


def write_slices(model: Model, values: Mapping[WeightSlice, Values]) -> None:
    """Writes values into the model's parameters, in place, so that both views see them.

    Raises:
        DeltaError: as `read_slices`, or where a value's shape or dtype doesn't match its slice; nothing is written.
    """
    weights = model.weights
    targets = [(_parameter(weights, model.name, piece), piece, value) for piece, value in values.items()]
    for parameter, piece, value in targets:
        shape = tuple(len(piece.index) if dim == piece.dim else size for dim, size in enumerate(parameter.shape))
        if tuple(value.shape) != shape or value.dtype != parameter.dtype:
            raise DeltaError(
                f"values of shape {tuple(value.shape)} and {value.dtype} don't fit {piece.parameter}, whose slice in "
                f"model {model.name!r} has shape {shape} and {parameter.dtype}; load the model that they are "
                f"of, in their dtype"
            )
    with torch.no_grad():
        for parameter, piece, value in targets:
            parameter.index_copy_(piece.dim, _index(piece, parameter), value.to(parameter.device))
    # Asking for the weights carries the edit to a bridge that holds copies, also one that somebody already has.
    _ = model.weights


def overlap(slices: Iterable[WeightSlice]) -> WeightSlice | None:
    """The first slice that shares entries with an earlier one, or None."""
    seen: dict[str, tuple[int, set[int]]] = {}
    for piece in slices:
        dim, indices = seen.setdefault(piece.parameter, (piece.dim, set()))
        # Rows and columns of one parameter always cross.
        if dim != piece.dim or not indices.isdisjoint(piece.index) or len(set(piece.index)) < len(piece.index):
            return piece
        indices.update(piece.index)
    return None


def _parameter(hf: Any, name: str, piece: WeightSlice) -> Tensor:
    try:
        parameter = hf.get_parameter(piece.parameter)
    except AttributeError as error:
        raise DeltaError(f"model {name!r} has no parameter {piece.parameter}; was the delta made for it?") from error
    if parameter.is_meta:
        raise DeltaError(f"{piece.parameter} of model {name!r} is offloaded; load the model onto one device")
    if piece.dim >= parameter.ndim or max(piece.index) >= parameter.shape[piece.dim]:
        raise DeltaError(
            f"{piece.parameter} of model {name!r} has shape {tuple(parameter.shape)}, too small for place "
            f"{max(piece.index)} along dimension {piece.dim}; was the delta made for it?"
        )
    return parameter


def _index(piece: WeightSlice, parameter: Tensor) -> Tensor:
    return torch.tensor(piece.index, device=parameter.device)


def _select(parameter: Tensor, piece: WeightSlice) -> Values:
    return parameter.detach().index_select(piece.dim, _index(piece, parameter)).cpu()
