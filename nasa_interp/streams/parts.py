"""A run's finished parts on disk: each a Parquet file with its checksum, so that a killed run goes on."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from ..errors import ResultError, warn_user
from ..results import hold_setting, read_result, write_result
from ..run import file_sha256, whole

KIND, SETTING = "part", "stream_setting"


class Part(NamedTuple):
    """A finished part: its rows, and what stands beside them."""

    table: pa.Table
    about: dict[str, Any]


class Parts:
    """The parts of one run, of which each is there whole or not at all.

    Args:
        folder: of the run.
        setting: plain values that must be the same for a run to go on: the model, the questions, how they are asked.
        n: how many parts the whole run has.

    Raises:
        ResultError: the folder holds another run's parts.
    """

    def __init__(self, folder: str | Path, setting: Mapping[str, Any], n: int):
        self.folder, self.n, self._known = Path(folder), n, set[int]()
        hold_setting(self.folder / "setting.json", {"kind": SETTING, **setting, "parts": n}, self.folder)

    @classmethod
    def opened(cls, folder: str | Path) -> "Parts":
        """The parts of a run that was begun; raises ResultError where there is none."""
        setting = read_result(
            Path(folder) / "setting.json", SETTING, "the setting of a run in parts", "begin one with --parts"
        )
        return cls(folder, setting, setting.pop("parts"))

    def missing(self) -> list[int]:
        """The parts that aren't there; one that is damaged counts as missing, with a warning."""
        return [number for number in range(self.n) if not self._is_whole(number)]

    def clear(self) -> None:
        """Removes what a killed process left behind of a part that it was writing."""
        for left in self.folder.glob(".part-*.part"):
            left.unlink(missing_ok=True)

    def write(self, number: int, table: pa.Table, about: Mapping[str, Any]) -> None:
        """Writes a part; `about` are plain values that are kept beside its rows."""
        path = self._path(number)
        with whole(path) as file:
            pq.write_table(table, file, compression="zstd", write_page_checksum=True)
        # The last that is written: where it is, the part is whole.
        content = {"kind": KIND, "rows": table.num_rows, "sha256": file_sha256(path), **about}
        write_result(path.with_suffix(".json"), content)
        self._known.discard(number)

    def read(self, number: int, columns: list[str] | None = None) -> Part:
        """A part's rows, all columns or these; raises ResultError where it is missing or damaged."""
        path = self._path(number)
        fault = ResultError(f"{path} is missing or damaged; start the run again, which computes it anew")
        # The whole file is held to its hash once; after that the checksums of the pages that are read do.
        if number not in self._known and not self._is_whole(number):
            raise fault
        self._known.add(number)
        try:
            return Part(pq.read_table(path, columns=columns, page_checksum_verification=True), self.about(number))
        except (OSError, pa.ArrowException) as error:
            raise fault from error

    def __iter__(self) -> Iterator[Part]:
        return (self.read(number) for number in range(self.n))

    def _is_whole(self, number: int) -> bool:
        path = self._path(number)
        if not path.exists() or not path.with_suffix(".json").exists():
            return False
        good = self.about(number).get("sha256") == file_sha256(path)
        if not good:
            warn_user(f"{path} is damaged and is computed again")
        return good

    def about(self, number: int) -> dict[str, Any]:
        """What stands beside a part."""
        return read_result(self._path(number).with_suffix(".json"), KIND, "a part", "start the run again")

    def _path(self, number: int) -> Path:
        return self.folder / f"part-{number:06}.parquet"
