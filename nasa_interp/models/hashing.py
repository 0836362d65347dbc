"""The hash of a model's weights, which says in every result of which weights it is; offloaded ones are read lazily."""

import hashlib
from typing import Any

import torch
from torch import Tensor, nn

from .offload import Offloaded, find_offloaded


def hash_weights(module: nn.Module, known: dict[str, str]) -> str:
    """SHA-256 over every named tensor, in the order of the names, wherever each of them lies.

    One tensor is in memory at a time. What lies on disk is read once: as long as the files are the same (by size and
    time) and so is what lies in memory (by its bytes), the hash is the one that was found before.

    Args:
        module: the model that names the weights.
        known: hashes that were found before, which this function keeps; wholly in memory a model is always read anew.

    Returns:
        The hash; empty where a weight lies nowhere that it could be read from.
    """
    tensors = dict(sorted(module.state_dict().items()))
    elsewhere = {name: find_offloaded(module, name) for name, tensor in tensors.items() if tensor.is_meta}
    found = {name: place for name, place in elsewhere.items() if place is not None}
    if len(found) < len(elsewhere):
        return ""
    if not found:
        return _digest(tensors, {})
    key = _digest(tensors, found, read=False)
    if key not in known:
        known.clear()
        known[key] = _digest(tensors, found)
    return known[key]


def _digest(tensors: dict[str, Tensor], offloaded: dict[str, Offloaded], read: bool = True) -> str:
    """The hash; or, not read, one over what is in memory and where the rest lies."""
    digest = hashlib.sha256()
    for name, tensor in tensors.items():
        place = offloaded.get(name)
        origin = None if read or place is None else place.origin()
        value: Any = tensor if place is None else origin or place.read()
        if isinstance(value, Tensor):
            _add(digest, name, value)
        else:
            digest.update(f"{name} {value}".encode())
    return digest.hexdigest()


def _add(digest: Any, name: str, tensor: Tensor) -> None:
    digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
    digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
