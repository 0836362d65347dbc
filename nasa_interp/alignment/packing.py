"""Tensors and a JSON text in one safetensors file that notices every changed bit."""

import hashlib
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from ..errors import DeltaError
from ..run import write_whole

# The name of the JSON text among the file's metadata.
TEXT = "nasa_interp"


def pack(path: str | Path, text: str, tensors: Mapping[str, Tensor]) -> Path:
    """Writes the file whole, with a checksum of text and tensors.

    Raises:
        NasaInterpError: the place can't be written.
    """
    metadata = {TEXT: text, "sha256": _digest(text, tensors)}
    packed = {name: tensor.contiguous() for name, tensor in tensors.items()}
    return write_whole(path, lambda part: save_file(packed, part, metadata))


def unpack(path: str | Path) -> tuple[str, dict[str, Tensor]]:
    """The text and the tensors.

    Raises:
        DeltaError: a file that is missing, cut short, changed since it was written, or of another kind.
    """
    if not Path(path).exists():
        raise DeltaError(f"{path} does not exist; check the path")
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (it is no dict)
    except (OSError, SafetensorError) as error:
        raise DeltaError(f"{path} can't be read as a delta ({error}); it may be cut short: copy it again") from error
    if TEXT not in metadata:
        raise DeltaError(f"{path} holds no delta; write one with HeadDelta.save or export(format='delta')")
    if metadata.get("sha256") != _digest(metadata[TEXT], tensors):
        raise DeltaError(f"{path} is damaged: its content doesn't match its checksum; copy it again")
    return metadata[TEXT], tensors


def bits(tensor: Tensor) -> bytes:
    """The tensor's bytes; two tensors of one dtype and shape are the same where these are."""
    return tensor.detach().contiguous().flatten().view(torch.uint8).numpy().tobytes()


def _digest(text: str, tensors: Mapping[str, Tensor]) -> str:
    digest = hashlib.sha256(text.encode())
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
        digest.update(bits(tensor))
    return digest.hexdigest()
