"""A delta as an exact LoRA: the change of some rows is their difference times a matrix that selects them."""

from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from safetensors.torch import save_file
from torch import Tensor
from transformers.pytorch_utils import Conv1D

from ..errors import DeltaError
from ..models import Model
from ..models.slice_values import plain_view
from ..models.slices import WeightSlice
from ..run import read_json, write_json
from .delta import HeadDelta

Factors = tuple[Float[Tensor, "rank in"], Float[Tensor, "out rank"]]


def lora_factors(change: Float[Tensor, "rows columns"], index: tuple[int, ...], size: int, outputs: bool) -> Factors:
    """The two factors of a change of some outputs, or of some inputs, of a linear map.

    Args:
        change: the change as a piece of the map's [out, in] matrix: [rank, in] for outputs, [out, rank] for inputs.
        index: which outputs (or inputs) change.
        size: how many outputs (or inputs) the map has.
        outputs: whether outputs change.

    Returns:
        A [rank, in] and B [out, rank]; the selector holds a single 1 per rank, so that B @ A is the change without
        rounding.

    Source: ours.
    """
    selector = torch.zeros(len(index), size, dtype=change.dtype)
    selector[torch.arange(len(index)), torch.tensor(index)] = 1
    return (change, selector.T) if outputs else (selector, change)


def adapter_factors(model: Model, delta: HeadDelta) -> dict[str, Factors]:
    """The factors for each module that the delta changes, by the module's name; half precision becomes fp32.

    Raises:
        DeltaError: a delta of biases, or an empty one.
    """
    by_module: dict[str, list[tuple[Tensor, Tensor]]] = {}
    for piece, before, after in zip(delta.slices, delta.before, delta.after, strict=True):
        name, _, leaf = piece.parameter.rpartition(".")
        if torch.equal(before, after):
            continue
        if leaf != "weight":
            raise DeltaError(
                f"the delta changes {piece.parameter}, and a LoRA carries no biases; export it as 'hf' or 'delta'"
            )
        wide = torch.promote_types(before.dtype, torch.float32)
        by_module.setdefault(name, []).append(_factors(model, piece, name, after.to(wide) - before.to(wide)))
    if not by_module:
        raise DeltaError("the delta changes nothing that a LoRA could carry; tune some heads first")
    return {name: _stack(parts) for name, parts in by_module.items()}


def write_adapter(model: Model, delta: HeadDelta, folder: Path, base: str) -> None:
    """Writes adapter_config.json and adapter_model.safetensors, which PEFT loads.

    Args:
        folder: an existing folder.
        base: how the configuration names the base model.

    Raises:
        DeltaError: as `adapter_factors`.
    """
    # Imported here, since it takes seconds and no other part needs it.
    from peft import LoraConfig

    factors = adapter_factors(model, delta)
    ranks = {name: a.shape[0] for name, (a, _) in factors.items()}
    rank = max(ranks.values())
    LoraConfig(
        r=rank,
        lora_alpha=rank,
        lora_dropout=0.0,
        target_modules=list(factors),
        rank_pattern=ranks,
        # The scaling of each module is alpha over rank: 1.
        alpha_pattern=ranks,
        fan_in_fan_out=is_conv1d(model, next(iter(factors))),
        bias="none",
        task_type="CAUSAL_LM",
        base_model_name_or_path=base,
        inference_mode=True,
    ).save_pretrained(str(folder))
    config = read_json(folder / "adapter_config.json")
    # PEFT writes the modules in the order of a set, which differs between processes.
    write_json(folder / "adapter_config.json", {**config, "target_modules": sorted(config["target_modules"])})
    tensors = {}
    for name, (a, b) in factors.items():
        tensors[f"base_model.model.{name}.lora_A.weight"] = a.contiguous()
        tensors[f"base_model.model.{name}.lora_B.weight"] = b.contiguous()
    save_file(tensors, folder / "adapter_model.safetensors", {"format": "pt"})


def is_conv1d(model: Model, name: str) -> bool:
    """Whether the module stores the transpose of what Linear stores (GPT-2)."""
    return isinstance(plain_view(model).get_submodule(name), Conv1D)


def _factors(model: Model, piece: WeightSlice, name: str, change: Tensor) -> Factors:
    weight: Any = plain_view(model).get_parameter(piece.parameter)
    turned = is_conv1d(model, name)
    outputs = (piece.dim == 0) != turned
    return lora_factors(change.T if turned else change, piece.index, weight.shape[piece.dim], outputs)


def _stack(parts: list[tuple[Tensor, Tensor]]) -> Factors:
    return torch.cat([a for a, _ in parts]), torch.cat([b for _, b in parts], 1)
