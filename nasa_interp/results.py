"""Results on disk: a file says what it holds, never overwrites another kind, and knows which files belong to it."""

import hashlib
import json
import os
import re
import shutil
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from safetensors import SafetensorError, safe_open
from safetensors.numpy import load, save

from .errors import NasaInterpError, ResultError
from .run import file_sha256, json_text, jsonable, read_json, try_place, whole, write_json, write_text

# The only entry of a tensor file's metadata: safetensors writes several in an order that varies between runs.
ENTRY = "nasa_interp"
# In the JSON: the hash of the tensor file next to it, null where none was written.
HASH = "tensors_sha256"
# In the JSON: the hashes of other files that belong to it.
FILES = "files_sha256"
# First lines of tables of earlier versions, and the same table's today: head lists didn't say where heads look.
EARLIER_TABLES = {
    f"{columns},by": f"{columns},by,toward" for columns in ("rank,head,layer,index,score", "rank,head,layer,index")
}

Arrays = dict[str, np.ndarray]


def write_result(path: str | Path, content: dict[str, Any]) -> Path:
    """Writes a result as JSON; `content["kind"]` says what it is.

    Raises:
        ResultError: the file exists and holds another kind of result.
        NasaInterpError: the place can't be written.
    """
    check_place(path, content["kind"])
    return write_json(path, content)


def read_result(path: str | Path, kind: str, what: str, how: str, earlier: Iterable[str] = ()) -> dict[str, Any]:
    """The content of a result's JSON file, once its kind and the files that belong to it are checked.

    Args:
        path: of the file.
        kind: what it must hold.
        what: the kind in words, for the error where it holds something else.
        how: to get such a file, for the same error, such as "write one with `nasa-interp decide`".
        earlier: names of the kind in versions before.

    Raises:
        ResultError: the file is missing, is no JSON or of another kind, or a file that belongs to it is another one.
    """
    content = read_json(path)
    if not isinstance(content, dict) or content.get("kind") not in (kind, *earlier):
        raise ResultError(f"{path} does not hold {what}; {how}")
    check_files(path, content)
    return content


def hold_setting(
    path: Path, setting: Mapping[str, Any], folder: Any, error: type[NasaInterpError] = ResultError
) -> None:
    """Writes what must be the same for a run in a folder to go on, or compares it with what was written.

    Args:
        path: of the file; setting: plain values; folder: what the error names.

    Raises:
        error: the folder holds a run with another setting.
    """
    now = jsonable(dict(setting))
    if not path.exists():
        write_json(path, now)
        return
    saved = read_json(path)
    if other := sorted(name for name in now if not isinstance(saved, dict) or saved.get(name) != now[name]):
        raise error(f"{folder} holds a run with another {', '.join(other)}; name another folder, or delete it")


@contextmanager
def parsing_result(path: str | Path, again: str, *also: type[NasaInterpError]) -> Iterator[None]:
    """Whatever a damaged file makes of the code within, which takes its content apart, becomes one error that names it.

    A field that is missing, too short or of another type raises what Python happens to raise there. Errors of this
    package pass through as they are: they say already what is wrong.

    Args:
        path: of the file, for the error.
        again: what to do, for the error, such as "decide again".
        also: errors of this package that mean a damaged file too.

    Raises:
        ResultError: in place of KeyError, IndexError, TypeError, ValueError, AttributeError, and those of `also`.
    """
    try:
        yield
    except (KeyError, IndexError, TypeError, ValueError, AttributeError, *also) as error:
        raise ResultError(f"{path} is damaged ({error!r}); {again}") from error


def write_table(path: str | Path, frame: pd.DataFrame) -> Path:
    """Writes a table as CSV; it replaces only a table with the same columns. Raises as `write_result` does."""
    check_place(path, table_kind(frame.columns))
    return write_text(path, frame.to_csv(index=False))


def write_with_tensors(path: str | Path, content: dict[str, Any], arrays: Mapping[str, np.ndarray]) -> Path:
    """Writes a result as JSON, and its arrays into a tensor file next to it, whose hash the JSON holds.

    Both files are written before either gets its name, so a full disk leaves an earlier pair intact. The tensors are
    renamed first: a reader that finds them next to the earlier JSON notices by the hash.

    Args:
        path: of the JSON; the tensors go to the same name plus ".safetensors".
        content: as for `write_result`.
        arrays: where empty, no tensor file is written, and that of an earlier result of this kind is removed.

    Raises:
        ResultError: a file of another kind exists, or the JSON's name ends in .safetensors.
        NasaInterpError: the place can't be written.
    """
    path, beside = Path(path), tensors_of(path)
    if not arrays:
        check_place(path, content["kind"])
        write_json(path, {**content, HASH: None})
        if kind_of(beside) == _tensors(content["kind"]):
            beside.unlink()
        return path
    check_with_tensors(path, content["kind"])
    packed = save({name: np.ascontiguousarray(a) for name, a in arrays.items()}, _about(_tensors(content["kind"])))
    with whole(path) as part, whole(beside) as tensors:
        tensors.write_bytes(packed)
        part.write_text(json_text({**content, HASH: hashlib.sha256(packed).hexdigest()}), encoding="utf-8")
    return path


def read_tensors(path: str | Path, content: dict[str, Any], gives: Callable[[Arrays], bool]) -> Arrays | None:
    """The arrays that were written with this JSON, bit for bit; None where their file is missing.

    Args:
        path: of the JSON.
        content: what it holds.
        gives: whether arrays match the numbers in the JSON, for old files without a hash (their tensors had the JSON's
            name with another suffix, so that those of two results could collide).

    Raises:
        ResultError: the tensor file belongs to another result, or can't be read.
    """
    path, expected = Path(path), content.get(HASH, "")
    if expected is None:
        return {}
    beside = tensors_of(path) if expected else path.with_suffix(".safetensors")
    try:
        packed = beside.read_bytes()
        if hashlib.sha256(packed).hexdigest() == expected if expected else gives(load(packed)):
            return load(packed)
    except FileNotFoundError:
        return None
    except (OSError, SafetensorError, KeyError, TypeError, ValueError) as error:
        raise ResultError(f"{beside} can't be read ({error}); copy it again, or compute {path} again") from error
    raise _other(beside, path)


def tensors_of(path: str | Path) -> Path:
    """The path of a result's tensors: a different one for every JSON name."""
    path = Path(path)
    return path.with_name(f"{path.name}.safetensors")


def file_hashes(folder: str | Path, names: Iterable[str]) -> dict[str, dict[str, str]]:
    """The entry of a JSON file that ties other files of its folder to it, by their SHA-256."""
    return {FILES: {name: file_sha256(Path(folder) / name) for name in names}}


def check_files(path: str | Path, content: Any) -> None:
    """Raises ResultError where a file that was written with a JSON file is missing or was replaced."""
    for name, expected in content.get(FILES, {}).items() if isinstance(content, dict) else ():
        file = Path(path).parent / name
        if not file.exists():
            raise ResultError(f"{file} is missing, which {path} was saved with; copy both again, or compute them again")
        if file_sha256(file) != expected:
            raise _other(file, path)


def check_place(path: str | Path, kind: str) -> None:
    """Makes sure that a result of this kind can be written here; its folder may be new.

    Args:
        path: of the file.
        kind: as in the result's JSON, or `table_kind` of its columns.

    Raises:
        ResultError: a folder or a file of another kind exists.
        NasaInterpError: the place can't be written.
    """
    path = Path(path)
    try_place(path)
    if path.is_dir():
        raise ResultError(f"{path} is a folder; name a file in it")
    if path.exists() and not path.is_file():
        raise ResultError(f"{path} is no plain file; name another")
    if path.exists() and path.stat().st_size and (existing := kind_of(path)) != kind:
        raise ResultError(
            f"{path} exists and holds something else ({existing or 'no result of ours'}, not {kind}); "
            f"name another file, or delete it"
        )


def check_with_tensors(path: str | Path, kind: str) -> None:
    """As `check_place`, for a result and its tensor file."""
    if Path(path).suffix.lower() == ".safetensors":
        raise ResultError(f"{path}: the tensors go beside the result; give it a name that ends in .json")
    check_place(path, kind)
    check_place(tensors_of(path), _tensors(kind))


def check_folder(path: str | Path) -> None:
    """Makes sure that files can be written into this folder, new or not; raises as `check_place` does."""
    path = Path(path)
    try_place(path / "file" if os.path.isdir(path) else path)
    if path.exists() and not path.is_dir():
        raise ResultError(f"{path} is a file; name a folder")


@contextmanager
def whole_folder(path: str | Path, error: type[NasaInterpError] = ResultError) -> Iterator[tuple[Path, Path]]:
    """A folder under a temporary name, and its place: it gets there at the end of the block, complete or not at all.

    Raises:
        error: the place is a file, holds files already, or can't be written.
    """
    folder = Path(path).expanduser().resolve()
    if folder.exists() and not folder.is_dir():
        raise error(f"{folder} is a file; name a new folder")
    if folder.exists() and any(folder.iterdir()):
        raise error(f"{folder} is not empty; name a new folder, or empty it")
    part = folder.parent / f".{folder.name[:40]}.{uuid.uuid4().hex[:8]}.part"
    try:
        part.mkdir(parents=True)
        yield part, folder
        if folder.exists():
            folder.rmdir()
        part.rename(folder)
    except OSError as fault:
        raise error(f"{folder} can't be written ({fault.strerror or fault}); name another place") from fault
    finally:
        shutil.rmtree(part, ignore_errors=True)


def kind_of(path: str | Path) -> str | None:
    """What a file holds, by its content: a result's kind, "pasta", "pairs", "npy", "page", or a table's first line."""
    try:
        with Path(path).open("rb") as file:
            head = file.read(4096)
    except OSError:
        return None
    if head.startswith(b"\x93NUMPY"):
        return "npy"
    # A tensor file starts with the length of its header, in eight bytes.
    if b"\0" in head[:8]:
        return _kind_of_tensors(Path(path))
    if head.lstrip().startswith(b"{"):
        return _kind_of_json(Path(path))
    if head.lstrip().startswith(b"["):
        return _kind_of_list(Path(path))
    if head.lstrip()[:14].lower() == b"<!doctype html":
        return "page"
    first = head.partition(b"\n")[0].decode("utf-8", "replace").strip()
    first = EARLIER_TABLES.get(first, first)
    return first if "," in first and first.isprintable() else None


def table_kind(columns: Iterable[str]) -> str:
    """The kind of a CSV file: its first line."""
    return ",".join(columns)


def _kind_of_json(path: Path) -> str | None:
    try:
        content = read_json(path)
    except ResultError:
        return None
    # The demo's own file, as earlier versions wrote it.
    if "kind" not in content and {"verdict", "top_by_polarity", "seconds"} <= content.keys():
        return "demo"
    if "kind" in content:
        return content["kind"] if isinstance(content["kind"], str) else None
    steers = content and all(re.fullmatch(r"\d+", name) and isinstance(heads, list) for name, heads in content.items())
    return "pasta" if steers else None


def _kind_of_list(path: Path) -> str | None:
    """A list of pairs of whole numbers is a head list of another tool."""
    try:
        content = read_json(path)
    except ResultError:
        return None
    pairs = [isinstance(item, list) and len(item) == 2 and all(isinstance(n, int) for n in item) for item in content]
    return "pairs" if all(pairs) else None


def _kind_of_tensors(path: Path) -> str | None:
    try:
        with safe_open(path, framework="numpy") as file:
            about = file.metadata() or {}
        return about["kind"] if "kind" in about else json.loads(about[ENTRY])["content"]["kind"]
    except (OSError, SafetensorError, KeyError, TypeError, ValueError):
        return None


def _about(kind: str) -> dict[str, str]:
    return {ENTRY: json.dumps({"content": {"kind": kind}})}


def _tensors(kind: str) -> str:
    return f"tensors of {kind}"


def _other(file: Path, path: str | Path) -> ResultError:
    return ResultError(
        f"{file} is damaged or of another result: {path} was saved with other bytes; copy both again, or compute again"
    )
