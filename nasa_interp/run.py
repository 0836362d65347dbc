"""Where a result came from, and how results reach the disk: whole or not at all."""

import hashlib
import json
import math
import os
import platform
import tempfile
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any

from .errors import NasaInterpError, ResultError
from .reading import parse_json


@dataclass(frozen=True)
class RunInfo:
    """Everything that one needs to get a result again.

    Args:
        model: the name that was asked for; `model_hash` is the hash of its weights.
        data: the data specification, or a description of questions that were handed over as a list.
        n_questions: how many questions were used; `orders` in which candidate orders.
        template: "chat" or "plain", with the instruction and candidates as they were used.
        seed: of the bootstrap and of any sampling; `draws`: bootstrap draws.
        engine, device, dtype: what computed it.
        versions: of Python and the libraries that matter to numbers.
        created: UTC time in ISO format; `seconds`: wall time of the computation.
    """

    model: str
    data: str
    n_questions: int
    orders: tuple[str, ...]
    model_hash: str = ""
    template: dict[str, Any] = field(default_factory=dict)
    seed: int = 0
    draws: int = 0
    engine: str = ""
    device: str = ""
    dtype: str = ""
    versions: dict[str, str] = field(default_factory=lambda: library_versions())
    created: str = field(default_factory=lambda: time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()))
    seconds: float = math.nan
    notes: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        return jsonable(asdict(self))

    @classmethod
    def from_dict(cls, content: dict[str, Any]) -> "RunInfo":
        """The inverse of `to_dict`; raises ResultError where a field is missing or unknown."""
        try:
            known: dict[str, Any] = {k: tuple(v) if k in ("orders", "notes") else v for k, v in content.items()}
            known["seconds"] = math.nan if known.get("seconds") is None else known["seconds"]
            return cls(**known)
        except (TypeError, AttributeError) as error:
            raise ResultError(f"the run's details can't be read ({error}); was the file written by us?") from error

    def summary(self) -> str:
        """One line for figure captions: model, data, number of questions, orders."""
        return f"{self.model}, {self.data}, {self.n_questions} questions, order {' and '.join(self.orders)}"


def library_versions() -> dict[str, str]:
    """Versions of Python, this package and the libraries whose release can change a number."""
    names = ("nasa-interp", "torch", "transformers", "transformer-lens", "numpy", "scipy", "torchmetrics")
    versions = {"python": platform.python_version()}
    for name in names:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            versions[name] = "not installed"
    return versions


def jsonable(value: Any) -> Any:
    """Plain JSON values: arrays and tuples as lists, NaN and infinities as null, paths as text."""
    if isinstance(value, dict):
        return {str(key): jsonable(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [jsonable(item) for item in value]
    if hasattr(value, "tolist"):
        return jsonable(value.tolist())
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Path):
        return str(value)
    return value


def file_sha256(path: Path) -> str:
    """SHA-256 of a file's bytes; raises OSError where it can't be read."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def digest_of(values: Iterable[Any]) -> str:
    """A short hash of plain or frozen values, in order, by their repr."""
    return hashlib.sha256("\0".join(map(repr, values)).encode()).hexdigest()[:16]


@contextmanager
def whole(path: str | Path) -> Iterator[Path]:
    """A temporary file beside `path` that gets its name at the end: readers see all of the file or none.

    Where something goes wrong before, it vanishes. Raises NasaInterpError where the place can't be written.
    """
    path = Path(path)
    with _writing(path):
        part = _part(path)
    try:
        with _writing(path):
            yield part
            os.chmod(part, 0o666 & ~_umask())
            os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)


def try_place(path: str | Path) -> None:
    """Makes a file beside `path` for a moment; raises NasaInterpError where it can't be written.

    Folders that aren't there yet are tried under another name, so that nothing stays of a run that fails later.
    """
    path = Path(path)
    # The current folder and the root have no parents; they are refused by their kind.
    there = next((folder for folder in path.parents if os.path.lexists(folder)), path.parent)
    with _writing(path):
        if there == path.parent:
            _part(path).unlink()
            return
        with tempfile.TemporaryDirectory(dir=there, prefix=".", suffix=".part") as folder:
            _part(Path(folder, path.relative_to(there))).unlink()


def write_text(path: str | Path, text: str) -> Path:
    """Writes a text file whole."""
    return write_bytes(path, text.encode("utf-8"))


def write_bytes(path: str | Path, content: bytes) -> Path:
    """Writes a file whole."""
    with whole(path) as part:
        part.write_bytes(content)
    return Path(path)


def write_json(path: str | Path, content: Any) -> Path:
    """Writes a JSON file whole, NaN as null."""
    return write_text(path, json_text(content))


def json_text(content: Any) -> str:
    """What `write_json` writes."""
    return json.dumps(jsonable(content), indent=1, allow_nan=False) + "\n"


def read_json(path: str | Path, error: type[NasaInterpError] = ResultError) -> Any:
    """Reads a JSON file; raises `error` with the path and the place where it can't, or would lose something."""
    try:
        return parse_json(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise error(f"{path} does not exist; check the path") from None
    except (OSError, ValueError) as problem:
        raise error(f"{path} can't be read as JSON ({problem}); copy it again, or compute it again") from problem


@contextmanager
def _writing(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise NasaInterpError(f"{path} can't be written ({error.strerror or error}); name another place") from error


def _part(path: Path) -> Path:
    """A new file beside `path`; raises OSError also where `path` itself is a name that no file can have."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with suppress(FileNotFoundError):
        path.lstat()
    # Not the whole name, which may be as long as names can be.
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name[:40]}.", suffix=".part")
    os.close(handle)
    return Path(name)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
