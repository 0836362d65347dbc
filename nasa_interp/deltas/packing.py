"""Tensors and JSON values in one safetensors file, with a checksum that detects every changed bit."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from ..errors import DeltaError
from ..results import ENTRY, check_place
from ..run import jsonable, write_bytes


def pack(path: str | Path, content: dict[str, Any], tensors: Mapping[str, Tensor]) -> Path:
    """Writes the complete file, with a checksum of content and tensors; the same content gives the same bytes.

    Args:
        path: of the file.
        content: plain values; with a "kind", they never overwrite a file of another kind.
        tensors: by name.

    Raises:
        ResultError: a file of another kind exists.
        NasaInterpError: the path can't be written.
    """
    if "kind" in content:
        check_place(path, content["kind"])
    content = jsonable(content)
    text = json.dumps({"sha256": _digest(content, tensors), "content": content}, allow_nan=False)
    packed = {name: tensor.contiguous() for name, tensor in tensors.items()}
    return write_bytes(path, save(packed, {ENTRY: text}))


def unpack(path: str | Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """The content and the tensors.

    Raises:
        DeltaError: a file that is missing, cut short, modified, or of another kind.
    """
    if not Path(path).exists():
        raise DeltaError(f"{path} does not exist; check the path")
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
    except (OSError, SafetensorError) as error:
        raise DeltaError(f"{path} can't be read as a delta ({error}); it may be cut short: copy it again") from error
    if ENTRY not in metadata:
        raise DeltaError(f"{path} holds no delta; write one with HeadDelta.save or export(format='delta')")
    try:
        read = json.loads(metadata[ENTRY])
        whole = read["sha256"] == _digest(read["content"], tensors)
    except (KeyError, TypeError, ValueError):
        whole = False
    if not whole:
        raise DeltaError(f"{path} is damaged: its content doesn't match its checksum; copy it again")
    return read["content"], tensors


def bits(tensor: Tensor) -> bytes:
    """The tensor's bytes; tensors of one dtype and shape are equal where their bytes are."""
    return tensor.detach().contiguous().flatten().view(torch.uint8).numpy().tobytes()


def _digest(content: Any, tensors: Mapping[str, Tensor]) -> str:
    digest = hashlib.sha256(json.dumps(content).encode())
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
        digest.update(bits(tensor))
    return digest.hexdigest()
