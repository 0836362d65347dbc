"""What a run has finished so far, on the disk after every head, so that a killed run goes on from there.

Heads that are tuned together are finished together: a run of one such step begins anew.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..deltas.packing import pack, unpack
from ..errors import AlignmentError
from ..models.slice_values import Values
from ..models.slices import WeightSlice
from ..run import jsonable

NAME = "progress.safetensors"


@dataclass
class Progress:
    """Heads that are finished, in order.

    Args:
        fingerprint: what must be the same for a run to go on: model, heads, questions, recipe, seed.
        path: where it is kept; None keeps nothing.
        next: index of the next head.
        rows: one row a finished head (or so many tuned together).
        values: the slices of the heads that were kept, as they are now.
    """

    fingerprint: dict[str, Any]
    path: Path | None = None
    next: int = 0
    rows: list[dict[str, Any]] = field(default_factory=list)
    values: dict[WeightSlice, Values] = field(default_factory=dict)

    @classmethod
    def open(cls, folder: str | Path | None, fingerprint: dict[str, Any]) -> "Progress":
        """What the folder holds of this very run; a new one where it holds none.

        Raises:
            AlignmentError: the folder holds another run.
        """
        fingerprint = jsonable(fingerprint)
        if folder is None:
            return cls(fingerprint)
        path = Path(folder) / NAME
        if not path.exists():
            # Written at once, so that a folder that can't be written shows before anything is tuned.
            progress = cls(fingerprint, path)
            progress.finish(0, [], {})
            return progress
        content, tensors = unpack(path)
        if content["fingerprint"] != fingerprint:
            other = sorted(key for key in fingerprint if content["fingerprint"].get(key) != fingerprint[key])
            raise AlignmentError(
                f"{folder} holds a run with another {', '.join(other)}; name another folder, or delete {path}"
            )
        slices = [WeightSlice(name, dim, tuple(index)) for name, dim, index in content["slices"]]
        values = {piece: tensors[str(number)] for number, piece in enumerate(slices)}
        # Versions before called checkpoints looks.
        rows = [
            {"checkpoints" if key == "looks" else key: value for key, value in row.items()} for row in content["rows"]
        ]
        return cls(fingerprint, path, content["next"], rows, values)

    def finish(self, next_head: int, rows: list[dict[str, Any]], values: Mapping[WeightSlice, Values]) -> None:
        """Adds finished heads and writes all, whole."""
        self.next = next_head
        self.rows += [jsonable(row) for row in rows]
        self.values |= values
        if self.path is None:
            return
        slices = [[piece.parameter, piece.dim, piece.index] for piece in self.values]
        content = {"fingerprint": self.fingerprint, "next": self.next, "rows": self.rows, "slices": slices}
        tensors = {str(number): value for number, value in enumerate(self.values.values())}
        pack(self.path, content, tensors)
