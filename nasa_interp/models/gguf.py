"""GGUF files: converted once into a cache folder, found again by size and time."""

import hashlib
import json
import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

from ..errors import ModelError
from ..run import write_json


def cache_folder() -> Path:
    """`$NASA_INTERP_CACHE`, or `nasa_interp` in the user's cache folder."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(os.environ.get("NASA_INTERP_CACHE") or Path(base) / "nasa_interp")


def converted(path: str | Path) -> Path:
    """A folder in transformers' format (fp32) that holds the model of this GGUF file, converting it the first time.

    The file's SHA-256 is taken at the conversion and names the folder; afterwards size and modification time tell
    that the file is the same.

    Raises:
        ModelError: where the file is missing, cut short, or no GGUF model that transformers can read.
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
    if known is not None:
        return known
    _check(path)
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    folder = pointer.parent / digest
    if not (folder / "source.json").exists():
        _convert(path, folder, {**stamp, "sha256": digest})
    write_json(pointer, {**stamp, "sha256": digest})
    return folder


def _known(pointer: Path) -> Path | None:
    """The folder that an earlier conversion left, if it did."""
    try:
        folder = pointer.parent / json.loads(pointer.read_text())["sha256"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return folder if (folder / "source.json").exists() else None


def _check(path: Path) -> None:
    """Reads the file's own index of tensors before anything is converted."""
    from gguf import GGUFReader

    try:
        tensors = GGUFReader(path).tensors
    except Exception as error:  # the reader raises whatever numpy happens to raise on broken bytes
        raise ModelError(
            f"{path} is not a whole GGUF file ({_first_line(error)}); it may be cut short: download it again"
        ) from error
    if not tensors:
        raise ModelError(f"{path} holds no tensors; it is not a model")


def _convert(path: Path, folder: Path, source: dict[str, Any]) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        part = Path(tempfile.mkdtemp(dir=folder.parent, prefix=".part-"))
    except OSError as error:
        raise ModelError(f"the cache {folder.parent} can't be written ({error}); set NASA_INTERP_CACHE") from error
    try:
        try:
            tokenizer = AutoTokenizer.from_pretrained(str(path.parent), gguf_file=path.name)
            model = AutoModelForCausalLM.from_pretrained(
                str(path.parent), gguf_file=path.name, dtype=torch.float32, attn_implementation="sdpa"
            )
        except Exception as error:  # transformers raises many kinds here, none of them its own
            raise ModelError(f"transformers can't read {path} ({_first_line(error)})") from error
        # The weights are plain fp32 now; with the quantization marks left on, saving is refused.
        if hasattr(model.config, "quantization_config"):
            delattr(model.config, "quantization_config")
        unmarked: Any = model
        unmarked.hf_quantizer, unmarked.is_quantized = None, False
        model.save_pretrained(part)
        tokenizer.save_pretrained(part)
        (part / "source.json").write_text(json.dumps(source, indent=1))
        # Another process may have been quicker; its folder is as good, and may be in use.
        if not (folder / "source.json").exists():
            shutil.rmtree(folder, ignore_errors=True)
            os.replace(part, folder)
    except OSError as error:
        raise ModelError(
            f"the converted model can't be kept in {folder.parent} ({error.strerror}); set NASA_INTERP_CACHE"
        ) from error
    finally:
        shutil.rmtree(part, ignore_errors=True)


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
