"""A delta as a LoRA adapter for llama.cpp: the exact factors, with their rows in the order of the GGUF file."""

from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from ..errors import DeltaError
from ..models.gguf_layout import open_gguf, tensor_values
from .delta import HeadDelta
from .gguf_model import GGUFBase
from .lora import adapter_factors

ADAPTER_FILE = "adapter.gguf"

Pair = tuple[Float[np.ndarray, "rank in"], Float[np.ndarray, "out rank"]]


def gguf_factors(base: GGUFBase, delta: HeadDelta) -> dict[str, Pair]:
    """A [rank, in] and B [out, rank] of each changed tensor, by its name in the file; all of one rank.

    llama.cpp scales each pair by alpha over its rank, with one alpha for all; padded with zeros to one rank that is 1.

    Raises:
        DeltaError: a delta of biases, an empty one, or a file of another model.
    """
    factors = adapter_factors(base.model, delta)
    rank, pairs = max(a.shape[0] for a, _ in factors.values()), {}
    for module, (a, b) in factors.items():
        base.distance(f"{module}.weight")
        name, missing = base.name(f"{module}.weight"), rank - a.shape[0]
        outputs = base.layout.stored(name, b.float().numpy())
        pairs[name] = (np.pad(a.float().numpy(), ((0, missing), (0, 0))), np.pad(outputs, ((0, 0), (0, missing))))
    return pairs


def write_gguf_lora(base: GGUFBase, delta: HeadDelta, path: Path) -> dict[str, Any]:
    """Writes the adapter, for `llama-server -m BASE.gguf --lora adapter.gguf`; returns what a record says of it."""
    from gguf import GGUFWriter

    pairs = gguf_factors(base, delta)
    writer = GGUFWriter(path, base.layout.architecture)
    writer.add_type("adapter")
    writer.add_string("adapter.type", "lora")
    rank = next(iter(pairs.values()))[0].shape[0]
    writer.add_float32("adapter.lora.alpha", float(rank))
    for name, (a, b) in pairs.items():
        writer.add_tensor(f"{name}.lora_a", np.ascontiguousarray(a))
        writer.add_tensor(f"{name}.lora_b", np.ascontiguousarray(b))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return {"base_file": base.path.name, "tensors": list(pairs), "stored": "float32", "rank": rank}


def check_gguf_lora(base: GGUFBase, delta: HeadDelta, path: Path) -> None:
    """Reads a written adapter again: its products are the change, without rounding.

    Raises:
        DeltaError: where they aren't.
    """
    held = {tensor.name: tensor_values(tensor) for tensor in open_gguf(path).tensors}
    for module, (a, b) in adapter_factors(base.model, delta).items():
        name = base.name(f"{module}.weight")
        change = held[f"{name}.lora_b"] @ held[f"{name}.lora_a"]
        if not np.array_equal(base.layout.restored(name, change), (b @ a).float().numpy()):
            raise DeltaError(f"the written adapter changes {name} otherwise; the export was not kept")
