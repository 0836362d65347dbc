"""How llama.cpp keeps a head's weights in a GGUF file: under which name, and in which order of rows."""

import functools
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from ..errors import ModelError, first_line

# Where llama.cpp's converter leaves rows as they are ("plain"), and where it interleaves the two halves of each query
# and key head that rotary embedding turns ("pairs"). One that fuses rows in an order of its own (Falcon) isn't here.
ROW_ORDERS = {
    "llama": "pairs",
    "qwen2": "plain",
    "qwen3": "plain",
    "gemma3": "plain",
    "phi3": "plain",
    "gpt2": "plain",
}

Stored = Float[np.ndarray, "..."]


@dataclass(frozen=True)
class GGUFLayout:
    """The names and row orders of one GGUF file's attention weights.

    Args:
        architecture: llama.cpp's name of it.
        n_layers: of the model.
        heads, groups: query heads, and key and value heads.
    """

    architecture: str
    n_layers: int
    heads: int
    groups: int

    @classmethod
    def of(cls, reader: Any, path: Path) -> "GGUFLayout":
        """The layout that a file's metadata tell.

        Raises:
            ModelError: an architecture whose order of rows isn't known, one of several files, numbers of heads that
                differ by layer.
        """
        architecture = str(_entry(reader, path, "general.architecture"))
        if architecture not in ROW_ORDERS:
            raise ModelError(
                f"{path} has the architecture {architecture!r}, whose order of rows in GGUF files isn't known here "
                f"(known: {', '.join(ROW_ORDERS)}); export the change as 'hf', and convert that with llama.cpp's script"
            )
        if "split.count" in reader.fields and reader.fields["split.count"].contents() > 1:
            raise ModelError(f"{path} is one of several parts of a model; merge them with llama-gguf-split first")
        counts = [_entry(reader, path, f"{architecture}.{name}") for name in ("block_count", "attention.head_count")]
        groups = reader.fields.get(f"{architecture}.attention.head_count_kv")
        counts.append(counts[1] if groups is None else groups.contents())
        if not all(isinstance(count, int) for count in counts):
            raise ModelError(f"{path} has other numbers of heads in every layer; export the change as 'hf' or 'delta'")
        return cls(architecture, *counts)

    def tensor(self, parameter: str) -> str:
        """The name of a parameter's tensor, as llama.cpp maps it.

        Raises:
            ModelError: a parameter that the architecture has no tensor for.
        """
        name = _name_map(self.architecture, self.n_layers).get_name(parameter, (".weight", ".bias"))
        if name is None:
            raise ModelError(
                f"GGUF files of the architecture {self.architecture!r} have no tensor for {parameter}; take a base "
                f"file of the model that was tuned"
            )
        return name

    def rows(self, tensor: str, size: int) -> Int[np.ndarray, " row"]:
        """Which of the model's rows each row of the stored tensor is."""
        kind = tensor.split(".")[2] if tensor.startswith("blk.") else ""
        if ROW_ORDERS[self.architecture] == "plain" or kind not in ("attn_q", "attn_k"):
            return np.arange(size)
        heads = self.heads if kind == "attn_q" else self.groups
        return np.arange(size).reshape(heads, 2, -1).swapaxes(1, 2).reshape(-1)

    def stored(self, tensor: str, values: Stored) -> Stored:
        """A weight [out, in], or a bias, with its rows in the file's order."""
        return values[self.rows(tensor, len(values))]

    def restored(self, tensor: str, values: Stored) -> Stored:
        """The inverse of `stored`, exactly."""
        return values[np.argsort(self.rows(tensor, len(values)))]


@functools.cache
def _name_map(architecture: str, n_layers: int) -> Any:
    """llama.cpp's own names of a model's weights; slow to make."""
    from gguf import MODEL_ARCH_NAMES, get_tensor_name_map

    return get_tensor_name_map(next(a for a, name in MODEL_ARCH_NAMES.items() if name == architecture), n_layers)


def open_gguf(path: Path) -> Any:
    """The file's index, as the gguf package reads it.

    Raises:
        ModelError: where the file is missing or no whole GGUF file.
    """
    from gguf import GGUFReader

    try:
        return GGUFReader(path)
    except OSError as error:
        raise ModelError(f"{path} can't be read ({error.strerror or error}); check the path") from error
    except Exception as error:  # on broken bytes the reader raises whatever numpy raises
        raise ModelError(
            f"{path} is not a whole GGUF file ({first_line(error)}); it may be cut short: download it again"
        ) from error


def tensor_values(tensor: Any) -> Stored:
    """A stored tensor's values in fp32, as llama.cpp and transformers dequantize them."""
    from gguf import dequantize

    return np.asarray(dequantize(tensor.data, tensor.tensor_type), dtype=np.float32)


def _entry(reader: Any, path: Path, key: str) -> Any:
    field = reader.fields.get(key)
    if field is None:
        raise ModelError(f"{path} has no entry {key!r}; it is no model that llama.cpp runs")
    return field.contents()
