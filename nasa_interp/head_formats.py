"""Head lists of other tools: pairs of layer and head as NumPy's `.npy`, and as JSON `[[layer, head], ...]`."""

import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from .errors import HeadError, first_line
from .results import check_place
from .run import write_bytes, write_text

Pairs = Sequence[tuple[int, int]]
_MANY = 1_000_000  # more heads than any model has: a file of another kind


def write_npy(path: str | Path, pairs: Pairs) -> Path:
    """Writes an int64 array [head, 2]; raises as `write_result` does."""
    check_place(path, "npy")
    file = io.BytesIO()
    np.save(file, np.array(pairs, dtype=np.int64).reshape(-1, 2), allow_pickle=False)
    return write_bytes(path, file.getvalue())


def write_pairs(path: str | Path, pairs: Pairs) -> Path:
    """Writes JSON `[[layer, head], ...]`, a pair a line; raises as `write_result` does."""
    check_place(path, "pairs")
    rows = ",\n".join(f" [{layer}, {index}]" for layer, index in pairs)
    return write_text(path, f"[\n{rows}\n]\n" if rows else "[]\n")


def read_npy(path: str | Path) -> list[tuple[int, int]]:
    """The pairs of an integer array [head, 2].

    Raises:
        HeadError: naming the file, where it is no such array, or holds Python objects (a pickle), which aren't loaded.
    """
    try:
        content = Path(path).read_bytes()
    except OSError as error:
        raise HeadError(f"{path} can't be read ({error.strerror}); check the path") from None
    try:
        array = np.lib.format.read_array(io.BytesIO(content), allow_pickle=False)
    except (ValueError, EOFError, SyntaxError, TypeError, MemoryError, OverflowError) as error:
        pickled = "Object arrays" in str(error)
        reason = "it holds Python objects, which aren't loaded" if pickled else first_line(error)
        raise HeadError(f"{path} is not a NumPy array of heads ({reason}); save integers with numpy.save") from error
    return _checked(path, array)


def _checked(path: str | Path, array: np.ndarray) -> list[tuple[int, int]]:
    if array.ndim != 2 or array.shape[1] != 2 or len(array) > _MANY:
        raise HeadError(f"{path} holds an array of shape {array.shape}; save one of [heads, 2]: layer and head")
    if not np.issubdtype(array.dtype, np.integer):
        raise HeadError(f"{path} holds {array.dtype}, not integers; save it as array.astype(int)")
    if (wrong := np.flatnonzero((array < 0).any(1))).size:
        layer, index = array[wrong[0]]
        raise HeadError(f"{path}, row {wrong[0] + 1} is layer {layer}, head {index}, and both count from 0; correct it")
    return [(int(layer), int(index)) for layer, index in array]
