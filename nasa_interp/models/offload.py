"""Weights that lie on disk, or in another memory than the one that computes: accelerate fetches them layer by layer.

Such a parameter is on the meta device until its layer runs. Here is told which these are, and where each is read from.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from ..errors import ModelError, first_line


class Origin(NamedTuple):
    """Where a weight that lies on disk is read from, and how to see that the file is the same as before."""

    file: str
    size: int
    mtime_ns: int
    name: str
    dtype: str


@dataclass(frozen=True)
class Offloaded:
    """One weight that is fetched when its layer runs.

    Args:
        weights: accelerate's map of names to weights, which reads a file when it is asked.
        name: of the weight in that map.
    """

    weights: Mapping[str, Any]
    name: str

    def read(self) -> Tensor:
        """The weight, as the layer gets it: of a safetensors file in the same dtype its mapped pages, no copy."""
        try:
            return self.weights[self.name]
        except Exception as error:  # safetensors and numpy have their own
            place = self._file() or "where it lay"
            raise ModelError(
                f"the weight {self.name} in {place} can't be read any more ({first_line(error)}); load the model again"
            ) from error

    def origin(self) -> Origin | None:
        """The file that it lies in; None where it lies in memory, or nobody knows."""
        if (file := self._file()) is None:
            return None
        try:
            stat = file.stat()
        except OSError:
            return None
        told = self._told()
        name = told.get("weight_name", self.name)
        return Origin(str(file.resolve()), stat.st_size, stat.st_mtime_ns, name, str(told.get("dtype")))

    @property
    def known(self) -> bool:
        """Whether the map has the weight; asked itself, accelerate's map would read it."""
        held = getattr(self.weights, "state_dict", None)
        return self.name in self.weights if held is None else self.name in held or bool(self._told())

    def _told(self) -> Mapping[str, Any]:
        """What accelerate's index says of the weight; empty for one in memory, which goes before the index."""
        inside = self.name in getattr(self.weights, "state_dict", {})
        return {} if inside else getattr(self.weights, "index", {}).get(self.name, {})

    def _file(self) -> Path | None:
        told, folder = self._told(), getattr(self.weights, "save_folder", None)
        if not told:
            return None
        return Path(told.get("safetensors_file") or Path(folder or "") / f"{self.name}.dat")


def offloaded_names(module: nn.Module) -> list[str]:
    """Names of the parameters that are elsewhere until their layers run."""
    # By all their names: weights that are tied become two objects when they are fetched for the first time.
    return [name for name, parameter in module.named_parameters(remove_duplicate=False) if parameter.is_meta]


def find_offloaded(module: nn.Module, name: str) -> Offloaded | None:
    """Where the weight of this name is read from; None where no hook of accelerate's fetches it."""
    parts = name.split(".")
    # The module that holds the weight, and then those around it: a hook may fetch for all that lie within.
    for end in range(len(parts) - 1, -1, -1):
        owner, leaf = ".".join(parts[:end]), ".".join(parts[end:])
        for hook in _hooks(module.get_submodule(owner)):
            weights = getattr(hook, "weights_map", None)
            if weights is not None and (place := _unwrapped(weights, leaf)).known:
                return place
    return None


def _hooks(module: Any) -> Iterator[Any]:
    hook = getattr(module, "_hf_hook", None)
    yield from getattr(hook, "hooks", () if hook is None else (hook,))


def _unwrapped(weights: Any, name: str) -> Offloaded:
    """Without accelerate's wrappers, each of which puts a prefix before the name."""
    while hasattr(weights, "dataset") and hasattr(weights, "prefix"):
        weights, name = weights.dataset, f"{weights.prefix}{name}"
    return Offloaded(weights, name)


def execution_device(module: nn.Module) -> torch.device | None:
    """The device that hooks of accelerate's fetch this model's weights to; None without any."""
    for part in module.modules():
        for hook in _hooks(part):
            if (device := getattr(hook, "execution_device", None)) is not None:
                return torch.device(device)
    return None


def offload_note(module: nn.Module) -> str | None:
    """How many weights are fetched when their layers run, for the notes of a result; None where none is."""
    names = offloaded_names(module)
    total = sum(1 for _ in module.named_parameters(remove_duplicate=False))
    return f"{len(names)} of {total} weights lie outside the memory that computes (offloaded)" if names else None


def check_in_memory(module: nn.Module, model: str, what: str) -> None:
    """Refuses what reads or writes weights by itself where some are elsewhere.

    Args:
        module: the model's weights.
        model: what the user calls it.
        what: that needs them, as the beginning of a sentence, such as "alignment".

    Raises:
        ModelError: naming the first of them, how many they are and what to do.
    """
    if names := offloaded_names(module):
        raise ModelError(
            f"{what} needs all weights of {model} in memory, and {len(names)} of them are offloaded ({names[0]}, ...); "
            f"load it onto one device (without auto, a device map or a limit), such as with dtype='bfloat16'"
        )
