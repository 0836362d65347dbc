"""A changed model as a GGUF file: the base's own file with the changed tensors in place of its own."""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from transformers.pytorch_utils import Conv1D

from ..errors import DeltaError
from ..models import Model
from ..models.gguf_layout import GGUFLayout, Stored, open_gguf, tensor_values
from ..models.loading import demo_file
from ..models.slice_values import plain_view
from .delta import HeadDelta

MODEL_FILE = "model.gguf"

TENSOR_TYPES = {"float32": np.float32, "float16": np.float16}

# A quantized tensor is up to a third of its own size away from what it was made of; another one, or one with its rows
# in another order, is some 1.4 away.
FAR = 0.5


@dataclass(frozen=True, eq=False)
class GGUFBase:
    """The GGUF file of a delta's base model.

    Args:
        path: of the file.
        model: the base model, without the delta.
        own: whether the model was loaded from this file.
    """

    path: Path
    model: Model
    own: bool = False

    @classmethod
    def of(cls, model: Model, path: str | Path | None) -> "GGUFBase":
        """The file that was named, or the one that the model was loaded from.

        Raises:
            DeltaError: a model that was loaded from elsewhere, and no file named.
        """
        if path is not None:
            return cls(Path(path).expanduser(), model)
        if model.name == "demo":
            return cls(demo_file(), model, own=True)
        if model.name.lower().endswith(".gguf"):
            return cls(Path(model.name).expanduser(), model, own=True)
        raise DeltaError(
            f"model {model.name!r} was not loaded from a GGUF file; give one of the same model: base='FILE.gguf' "
            f"(--base FILE.gguf)"
        )

    @cached_property
    def reader(self) -> Any:
        """The file's index."""
        return open_gguf(self.path)

    @cached_property
    def layout(self) -> GGUFLayout:
        """Names and row orders of its tensors; raises ModelError for an unknown architecture."""
        return GGUFLayout.of(self.reader, self.path)

    @cached_property
    def tensors(self) -> dict[str, Any]:
        """The file's tensors by name."""
        return {tensor.name: tensor for tensor in self.reader.tensors}

    def name(self, parameter: str) -> str:
        """The name of a parameter's tensor; raises DeltaError where the file has none."""
        name = self.layout.tensor(parameter)
        if name not in self.tensors:
            raise DeltaError(
                f"{self.path} has no tensor {name} for {parameter}; take a file of the model that was tuned"
            )
        return name

    def parameter(self, name: str) -> Stored:
        """A parameter's current values in fp32, outputs in rows, in the file's order."""
        hf, (module, _, _) = plain_view(self.model), name.rpartition(".")
        values = hf.get_parameter(name).detach().float().cpu()
        turned = isinstance(hf.get_submodule(module), Conv1D) and values.ndim == 2
        return self.layout.stored(self.name(name), (values.T if turned else values).contiguous().numpy())

    def distance(self, parameter: str) -> float:
        """How far the file's tensor is from the base's, as a share of the base's size; 0 where it is the same.

        Raises:
            DeltaError: a tensor of another shape, or of another model.
        """
        name, mine = self.name(parameter), self.parameter(parameter)
        theirs = tensor_values(self.tensors[name])
        far = np.inf if theirs.shape != mine.shape else float(np.linalg.norm(theirs - mine) / np.linalg.norm(mine))
        if not far <= FAR:
            raise DeltaError(
                f"{name} in {self.path} is not {parameter} of model {self.model.name!r} (relative distance {far:.2g}); "
                f"take a file of that very model"
            )
        return far


def changed_parameters(delta: HeadDelta) -> list[str]:
    """The names of the parameters that a delta changes, in its order."""
    rows = zip(delta.slices, delta.before, delta.after, strict=True)
    names = dict.fromkeys(piece.parameter for piece, before, after in rows if not torch.equal(before, after))
    if not names:
        raise DeltaError("the delta changes nothing that a file could carry; tune some heads first")
    return list(names)


def write_gguf_model(base: GGUFBase, delta: HeadDelta, path: Path, stored: str) -> dict[str, Any]:
    """Writes the base's file with the changed tensors, all else byte for byte.

    Args:
        base: the base model without the delta, and its file.
        delta: the change.
        path: of the new file.
        stored: "float32" or "float16", for the changed tensors.

    Returns:
        What an export's record says of it: the changed tensors, and how far the base's were from the file's.

    Raises:
        DeltaError: a file of another model, or values too large for float16.
    """
    distances = {name: base.distance(name) for name in changed_parameters(delta)}
    with delta.applied(base.model, check=False):
        changed = {base.name(name): _as_type(base.parameter(name), name, stored) for name in distances}
    _copy(base.reader, path, changed)
    tensors = {base.name(name): far for name, far in distances.items()}
    return {"base_file": base.path.name, "tensors": list(tensors), "stored": stored, "distances": tensors}


def _as_type(values: Float[np.ndarray, "..."], name: str, stored: str) -> np.ndarray:
    with np.errstate(over="ignore"):
        cast = values.astype(TENSOR_TYPES[stored])
    if not np.isfinite(cast).all():
        raise DeltaError(f"{name} holds values that {stored} can't; store it as float32")
    return cast


def _copy(reader: Any, path: Path, changed: dict[str, np.ndarray]) -> None:
    """The reader's file again, with other values for some tensors."""
    from gguf import GGUFValueType, GGUFWriter

    writer = GGUFWriter(path, arch="", endianess=reader.endianess)
    # The writer begins with entries of its own; the file's order is to stay.
    writer.kv_data[0].clear()
    writer.data_alignment = reader.alignment
    for field in reader.fields.values():
        if not field.name.startswith("GGUF."):
            inner = field.types[-1] if field.types[0] == GGUFValueType.ARRAY else None
            writer.add_key_value(field.name, field.contents(), field.types[0], sub_type=inner)
    rows = [(tensor, changed.get(tensor.name)) for tensor in reader.tensors]
    for tensor, values in rows:
        data, kind = (tensor.data, tensor.tensor_type) if values is None else (values, None)
        writer.add_tensor_info(tensor.name, data.shape, data.dtype, data.nbytes, kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    for tensor, values in rows:
        if values is None:
            writer.write_tensor_data(tensor.data, tensor_endianess=reader.endianess)
        else:
            writer.write_tensor_data(values)
    writer.close()


def check_gguf_model(base: GGUFBase, delta: HeadDelta, path: Path, stored: str) -> None:
    """Reads a written file again: what was not changed is the base's byte for byte, what was gives the tuned weights.

    Raises:
        DeltaError: where anything differs.
    """
    new, changed = open_gguf(path), {base.name(name): name for name in changed_parameters(delta)}
    _same_entries(base.reader, new)
    with delta.applied(base.model, check=False):
        for old, tensor in zip(base.reader.tensors, new.tensors, strict=True):
            if old.name != tensor.name:
                raise DeltaError(f"the written file has {tensor.name} in place of {old.name}; the export was not kept")
            if tensor.name in changed:
                wanted = base.parameter(changed[tensor.name]).astype(TENSOR_TYPES[stored])
                same = np.array_equal(tensor_values(tensor), wanted.astype(np.float32))
            else:
                same = old.tensor_type == tensor.tensor_type and np.array_equal(old.data, tensor.data)
            if not same:
                raise DeltaError(f"{tensor.name} is another in the written file; the export was not kept")


def _same_entries(old: Any, new: Any) -> None:
    """Raises DeltaError where the metadata of two files differ, or their order."""
    ours, theirs = ([f for f in reader.fields.values() if not f.name.startswith("GGUF.")] for reader in (old, new))
    if [field.name for field in ours] != [field.name for field in theirs]:
        raise DeltaError("the written file has other entries than the base's; the export was not kept")
    for a, b in zip(ours, theirs, strict=True):
        same = len(a.parts) == len(b.parts) and all(map(np.array_equal, a.parts, b.parts))
        if a.types != b.types or not same:
            raise DeltaError(f"the written file has another {a.name} than the base's; the export was not kept")
