"""Parts on disk: damage is noticed whenever it happens."""

import numpy as np
import pyarrow as pa
import pytest

from nasa_interp.errors import ResultError
from nasa_interp.streams.parts import Parts


@pytest.fixture
def parts(tmp_path) -> Parts:
    found = Parts(tmp_path, {"what": "a test"}, 1)
    numbers = np.random.default_rng(0).normal(size=(2, 4000))
    found.write(0, pa.table({"a": numbers[0], "b": numbers[1]}), {})
    return found


def damage(parts: Parts) -> None:
    """Turns a bit in the middle of the first column's values."""
    path = parts.folder / "part-000000.parquet"
    content = bytearray(path.read_bytes())
    content[len(content) // 4] ^= 1
    path.write_bytes(bytes(content))


def test_a_part_that_is_damaged_before_it_is_read_is_refused(parts) -> None:
    damage(parts)
    with pytest.warns(UserWarning, match="is damaged"), pytest.raises(ResultError, match="missing or damaged"):
        parts.read(0, ["b"])


def test_a_part_that_is_damaged_later_is_refused_by_its_pages(parts) -> None:
    """Its whole hash is taken once; a page that isn't read may be wrong."""
    whole = parts.read(0).table
    damage(parts)
    assert parts.read(0, ["b"]).table.equals(whole.select(["b"]))
    with pytest.raises(ResultError, match="missing or damaged; start the run again"):
        parts.read(0, ["a"])
    (parts.folder / "part-000000.parquet").unlink()
    with pytest.raises(ResultError, match="missing or damaged"):
        parts.read(0, ["b"])
