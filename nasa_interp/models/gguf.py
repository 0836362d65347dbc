"""GGUF files: converted once into a cache folder, then recognized by size and time."""

import hashlib
import json
import os
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

from filelock import FileLock

from ..errors import ModelError, first_line, warn_user
from ..run import file_sha256, write_json
from .gguf_layout import open_gguf
from .quiet import quiet_transformers
from .whole import check_converted, check_whole, warn_unused

RECORD = "source.json"
UNLISTED = "it lists no files"

DOWNLOAD_AGAIN = "download the file again, or convert the model to GGUF again"


def cache_folder() -> Path:
    """`$NASA_INTERP_CACHE`, or `nasa_interp` in the user's cache folder."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(os.environ.get("NASA_INTERP_CACHE") or Path(base) / "nasa_interp")


def converted(path: str | Path) -> Path:
    """A folder with this GGUF file's model in transformers' format (fp32), converted on the first call.

    The file's SHA-256 is computed at the conversion and names the folder; afterwards size and modification time show
    whether the file and the folder's files are unchanged. A damaged folder gives a UserWarning and is rebuilt. Tensors
    of the file that transformers doesn't read give a UserWarning too.

    Raises:
        ModelError: where the file is missing, cut short, lacks weights, or is not a GGUF model that transformers reads.
    """
    path = Path(path).resolve()
    try:
        stat = path.stat()
    except OSError as error:
        raise ModelError(f"{path} can't be read ({error.strerror}); check the path") from error
    stamp = {"path": str(path), "size": stat.st_size, "mtime_ns": stat.st_mtime_ns}
    key = hashlib.sha256(json.dumps(stamp, sort_keys=True).encode()).hexdigest()[:16]
    pointer = cache_folder() / "gguf" / f"{key}.json"
    known = _known(pointer)
    if known is None:
        _check(path)
    digest = known or file_sha256(path)
    folder = pointer.parent / digest
    if _damage(folder):
        _renew(path, folder, {**stamp, "sha256": digest})
    if known is None:
        write_json(pointer, {**stamp, "sha256": digest})
    unused = _record(folder).get("unused", ())
    warn_unused(str(path), unused, "transformers doesn't read them: load the model's own folder or hub id")
    return folder


def _known(pointer: Path) -> str | None:
    """The file's SHA-256 from an earlier conversion, or None."""
    try:
        digest = json.loads(pointer.read_text(encoding="utf-8"))["sha256"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return digest if isinstance(digest, str) and digest else None


def _record(folder: Path) -> dict[str, Any]:
    return json.loads((folder / RECORD).read_text(encoding="utf-8"))


def _damage(folder: Path) -> str | None:
    """What is wrong with a converted folder, or None where it is intact."""
    try:
        record = _record(folder)
        if "files" not in record:
            return UNLISTED
        faults = (_fault(folder / name, written) for name, written in record["files"].items())
        return next((fault for fault in faults if fault), None)
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return f"{RECORD} can't be read"


def _fault(file: Path, written: dict[str, Any]) -> str | None:
    """What is wrong with one file, or None; its content is read only where its time changed."""
    try:
        stat = file.stat()
        if stat.st_size != written["size"]:
            return f"{file.name} has {stat.st_size} bytes in place of {written['size']}"
        if stat.st_mtime_ns != written["mtime_ns"] and file_sha256(file) != written["sha256"]:
            return f"{file.name} holds something else than was written"
    except OSError as error:
        return f"{file.name} can't be read ({error.strerror})"
    return None


def _check(path: Path) -> None:
    """Reads the file's own index of tensors before anything is converted."""
    if not open_gguf(path).tensors:
        raise ModelError(f"{path} holds no tensors; it is not a model")


def _renew(path: Path, folder: Path, source: dict[str, Any]) -> None:
    """Converts the file under a lock; processes that waited for it find the work done."""
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(folder.with_suffix(".lock")):
            if damage := _damage(folder):
                # An earlier version listed no files to compare with: its folder is rebuilt once, silently.
                if folder.exists() and damage != UNLISTED:
                    warn_user(f"the cached {folder} is damaged: {damage}; {path} is converted again")
                _convert(path, folder, source)
    except (OSError, NotImplementedError) as error:
        raise ModelError(
            f"the converted model can't be kept in {folder.parent} ({error}); set NASA_INTERP_CACHE"
        ) from error


def _convert(path: Path, folder: Path, source: dict[str, Any]) -> None:
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".part-", ignore_cleanup_errors=True) as made:
        part, old = Path(made) / "new", Path(made) / "old"
        part.mkdir()
        with quiet_transformers():
            model, tokenizer, unused = _read(path, part)
            model.save_pretrained(part)
            tokenizer.save_pretrained(part)
        files = {file.name: _written(file) for file in sorted(part.iterdir())}
        write_json(part / RECORD, {**source, "unused": unused, "files": files})
        if folder.exists():
            os.replace(folder, old)
        os.replace(part, folder)


def load_gguf(path: Path, empty: Path) -> tuple[Any, dict[str, Any]]:
    """The model of a GGUF file in fp32 and transformers' account of its weights, without any check."""
    import torch
    from transformers import AutoModelForCausalLM

    loaded: Any = AutoModelForCausalLM.from_pretrained(
        empty,
        gguf_file=str(path),
        dtype=torch.float32,
        attn_implementation="sdpa",
        output_loading_info=True,
        ignore_mismatched_sizes=True,
    )
    return loaded


def _read(path: Path, empty: Path) -> tuple[Any, Any, list[str]]:
    """Model and tokenizer of a GGUF file, and the names of its unused tensors.

    Args:
        path: of the file.
        empty: an empty folder to load from, as transformers would pick up adapters and settings next to the file.
    """
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(empty, gguf_file=str(path))
        loaded = load_gguf(path, empty)
        model, info = loaded
        unused, halved = _left_over(path, model)
    except Exception as error:  # transformers raises many kinds here
        check_converted(str(path), error, DOWNLOAD_AGAIN)
        raise ModelError(
            f"transformers can't read {path} ({first_line(error)}); fetch it again, or another quantization of it"
        ) from error
    check_whole(str(path), {**info, "missing_keys": info["missing_keys"] | halved}, DOWNLOAD_AGAIN)
    # The weights are plain fp32 now; transformers refuses to save them with the quantization marks on.
    if hasattr(model.config, "quantization_config"):
        delattr(model.config, "quantization_config")
    model.hf_quantizer, model.is_quantized = None, False
    return model, tokenizer, sorted(info["unexpected_keys"] | unused)


def _left_over(path: Path, model: Any) -> tuple[set[str], set[str]]:
    """The file's tensors that no weight uses, and the missing tensors of weights that combine several.

    transformers ignores both silently, and fills a missing half with 0.
    """
    # Its newer reader, so far for few architectures, reports them as for any other file.
    if getattr(model.hf_quantizer, "supported", False):
        return set(), set()
    from gguf import GGUFReader
    from transformers.modeling_gguf_pytorch_utils import TENSOR_PROCESSORS, TensorProcessor, get_gguf_hf_weights_map

    reader = GGUFReader(path)
    architecture = reader.fields["general.architecture"].contents()
    weights = get_gguf_hf_weights_map(model, TENSOR_PROCESSORS.get(architecture, TensorProcessor)())
    # The experts of a layer are one tensor, which the map names without its suffix in the file.
    weights = {name.removesuffix(".weight"): weight for name, weight in weights.items()}
    held = {tensor.name for tensor in reader.tensors}
    parts = Counter(weights.values())
    wanted = {f"{name}.weight" for name, weight in weights.items() if parts[weight] > 1}
    return {name for name in held if name.removesuffix(".weight") not in weights}, wanted - held


def _written(file: Path) -> dict[str, Any]:
    stat = file.stat()
    return {"size": stat.st_size, "mtime_ns": stat.st_mtime_ns, "sha256": file_sha256(file)}
