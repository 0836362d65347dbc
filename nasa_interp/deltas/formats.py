"""Exports a change: a folder that transformers, PEFT or llama.cpp loads, or the delta by itself."""

import copy
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from jaxtyping import Float
from torch import Tensor

from ..errors import DeltaError, first_line
from ..models import Model
from ..models.bridge import eager_twin
from ..models.gguf import load_gguf
from ..models.loading import quiet_transformers
from ..models.offload import check_in_memory
from ..models.slice_values import plain_view, read_slices
from ..results import whole_folder
from ..run import write_json
from ..torch_defaults import under_torch_defaults
from .delta import HeadDelta
from .gguf_lora import ADAPTER_FILE, check_gguf_lora, write_gguf_lora
from .gguf_model import MODEL_FILE, TENSOR_TYPES, GGUFBase, check_gguf_model, write_gguf_model
from .license import public_name, write_license
from .lora import adapter_factors, write_adapter
from .model_card import Exported, model_card, record

Format = Literal["hf", "peft", "delta", "gguf", "gguf-lora"]

DELTA_FILE = "delta.safetensors"
RECORD_FOLDER = "nasa_interp"
PROBE = "You are given a question and you MUST answer Yes or No.\n\nQuestion: Is 12 + 7 = 19?\nAnswer:"

# As a share of the largest logit. An adapter in half precision rounds differently from the changed weights.
TOLERANCES = {torch.float64: 1e-5, torch.float32: 1e-5}
HALF_TOLERANCE = 0.05


@under_torch_defaults
def export(
    model: Model,
    delta: HeadDelta | None,
    folder: str | Path,
    format: str = "hf",
    notes: str = "",
    verify: bool = True,
    base: str | Path | None = None,
    stored: str = "float32",
) -> Path:
    """Writes a changed model, or the change alone, into a new folder with a model card and the base's licence.

    Args:
        model: the delta's base model, with the delta applied or not; it is left as it is.
        delta: the change; None writes the model as it is, as "hf".
        folder: a new or empty folder; it appears complete or not at all.
        format: "hf", the whole model for transformers, with tokenizer and, in the subfolder nasa_interp, the delta;
            "peft", an exact LoRA for PEFT; "delta", the HeadDelta's own file; "gguf", the base's GGUF file with the
            changed tensors, all else byte for byte; "gguf-lora", the exact LoRA for llama.cpp.
        notes: free text for the model card.
        verify: load the export with the plain library and compare it, before the folder gets its name. For "hf", and
            for "gguf" where the model came from the base's file, this needs memory for a second copy of the model.
        base: for the two GGUF formats, a GGUF file of the base model; not needed where it was loaded from one.
        stored: how "gguf" stores the changed tensors: "float32" or "float16".

    Returns:
        the folder.

    Raises:
        DeltaError: an unknown format, a folder with files in it, a model other than the base, biases in a LoRA, a GGUF
            file of another model, or an export that doesn't reproduce the changed model's logits.
        ModelError: a GGUF file of an architecture whose order of rows isn't known, or a model whose weights
            aren't all in memory.

    Caveat:
        a LoRA adds its change to the layer's output: in fp32 its logits agree to 1e-5 of the largest one, in bf16
        only roughly; merged, it agrees to the last rounding. It can't carry biases. The delta's own file keeps its log
        as it is, with the paths that it names; card and record don't. A GGUF file that isn't the one the model was
        loaded from may hold its other tensors in less precision; the record says how far its changed ones were.

    Source: ours.
    """
    if format not in get_args(Format):
        raise DeltaError(f"there is no export format {format!r}; use one of {', '.join(get_args(Format))}")
    check_in_memory(model.weights, model.name, "export")
    if stored not in TENSOR_TYPES:
        raise DeltaError(f"tensors can't be stored as {stored!r}; use one of {', '.join(TENSOR_TYPES)}")
    if delta is None and format != "hf":
        raise DeltaError(f"model {model.name!r} alone has no change to write as {format!r}; use 'hf', or give a change")
    file = GGUFBase.of(model, base) if format.startswith("gguf") else None
    delta = HeadDelta.nothing(model) if delta is None else delta
    with whole_folder(folder, DeltaError) as (part, place), _base(model, delta):
        exported = Exported(format, place.name, _result_hash(model, delta), notes, file, stored)
        _write(model, delta, part, exported)
        if verify:
            VERIFY[format](model, delta, part, exported)
    return place


@contextmanager
def _base(model: Model, delta: HeadDelta) -> Iterator[None]:
    """Gives the base model inside the block; afterwards the model is as before, with or without the delta."""
    was_applied = delta.is_applied(model)
    if was_applied:
        delta.revert(model)
    try:
        # The one check of the whole base; what follows compares only the slices.
        with delta.applied(model):
            pass
        yield
    finally:
        if was_applied:
            delta.apply(model, check=False)


def _result_hash(model: Model, delta: HeadDelta) -> str:
    with delta.applied(model, check=False):
        return model.weights_hash()


def _write(model: Model, delta: HeadDelta, part: Path, exported: Exported) -> None:
    """All files of the export."""
    about: dict[str, Any] = {}
    if exported.format == "hf":
        with delta.applied(model, check=False):
            _save_pretrained(model, part)
        # Not next to the weights: some programs load every safetensors file in that folder.
        if delta.slices:
            delta.save(part / RECORD_FOLDER / DELTA_FILE)
    elif exported.format == "peft":
        write_adapter(model, delta, part, public_name(delta.base_model))
    elif exported.base is not None:
        about = {"gguf": _write_gguf(exported.base, delta, part, exported)}
        delta.save(part / RECORD_FOLDER / DELTA_FILE)
    else:
        delta.save(part / DELTA_FILE)
    write_license(model, part)
    write_json(part / RECORD_FOLDER / "export.json", {**record(model, delta, exported), **about})
    (part / "README.md").write_text(model_card(model, delta, exported), encoding="utf-8")


def _write_gguf(base: GGUFBase, delta: HeadDelta, part: Path, exported: Exported) -> dict[str, Any]:
    if exported.format == "gguf":
        return write_gguf_model(base, delta, part / MODEL_FILE, exported.stored)
    return write_gguf_lora(base, delta, part / ADAPTER_FILE)


def _save_pretrained(model: Model, part: Path) -> None:
    """Weights, configuration, generation settings and tokenizer, for `from_pretrained`."""
    hf = plain_view(model)
    if any(not parameter.is_floating_point() for parameter in hf.parameters()):
        raise DeltaError(f"model {model.name!r} holds quantized weights; load it in float32 or bfloat16 to export it")
    try:
        with quiet_transformers(), _own_settings(hf):
            hf.save_pretrained(part)
            model.tokenizer.save_pretrained(part)
    except (ValueError, RuntimeError) as error:
        raise DeltaError(
            f"transformers can't save model {model.name!r} ({first_line(error)}); export it as 'peft' or 'delta'"
        ) from error


@contextmanager
def _own_settings(hf: Any) -> Iterator[None]:
    """Gives `hf` clean copies of its configurations: saving writes into them, and refuses the marks of a GGUF file."""
    names = [name for name in ("config", "generation_config", "hf_quantizer") if getattr(hf, name, None) is not None]
    kept = {name: getattr(hf, name) for name in names}
    for name in names:
        setattr(hf, name, None if name == "hf_quantizer" else copy.deepcopy(kept[name]))
    if hasattr(hf.config, "quantization_config"):
        delattr(hf.config, "quantization_config")
    try:
        yield
    finally:
        for name in names:
            setattr(hf, name, kept[name])


def _verify_hf(model: Model, delta: HeadDelta, part: Path, exported: Exported) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    with quiet_transformers():
        attention = plain_view(model).config._attn_implementation
        loaded: Any = AutoModelForCausalLM.from_pretrained(part, dtype=model.dtype, attn_implementation=attention)
        tokenizer = AutoTokenizer.from_pretrained(part)
    again = Model(part.name, loaded.to(model.device).eval(), tokenizer)
    mine = model.tokenizer
    if tokenizer(PROBE)["input_ids"] != mine(PROBE)["input_ids"] or tokenizer.chat_template != mine.chat_template:
        raise DeltaError(
            f"AutoTokenizer reads the exported {type(mine).__name__} as {type(tokenizer).__name__}, which gives other "
            f"tokens; load model {model.name!r} with its family's own tokenizer, or export it as 'peft' or 'delta'"
        )
    exact = read_slices(again, delta.slices)
    if not all(torch.equal(exact[piece], after) for piece, after in zip(delta.slices, delta.after, strict=True)):
        raise DeltaError("the exported weights are not the tuned ones when loaded again; the export was not kept")
    _compare(model, _tuned_logits(model, delta), _logits(model, loaded))


def _verify_peft(model: Model, delta: HeadDelta, part: Path, exported: Exported) -> None:
    """PEFT rewires the modules it gets, so it gets a second tree of modules around the same parameters."""
    from peft import PeftModel

    hf = plain_view(model)
    trainable = [parameter for parameter in hf.parameters() if parameter.requires_grad]
    try:
        with quiet_transformers():
            loaded: Any = PeftModel.from_pretrained(eager_twin(hf), str(part)).eval()
        for name, (a, b) in adapter_factors(model, delta).items():
            layer = loaded.base_model.model.get_submodule(name)
            change = layer.get_delta_weight("default").detach().cpu()
            if not torch.equal(change.T if layer.fan_in_fan_out else change, (b @ a).to(change)):
                raise DeltaError(f"PEFT reads another change of {name} than was written; the export was not kept")
        _compare(model, _tuned_logits(model, delta), _logits(model, loaded))
    finally:
        for parameter in trainable:
            parameter.requires_grad_(True)


def _verify_delta(model: Model, delta: HeadDelta, part: Path, exported: Exported) -> None:
    # The same bits written into the same model give the same logits: there is nothing to run.
    if HeadDelta.load(part / DELTA_FILE) != delta:
        raise DeltaError("the exported delta is another one when read again; the export was not kept")


def _verify_gguf(model: Model, delta: HeadDelta, part: Path, exported: Exported) -> None:
    """Byte for byte, and, where the model came from the base's file, by transformers' own reader too.

    Of a file that was named its reader may make another model: it doesn't know Llama's biases, for one.
    """
    assert exported.base is not None
    check_gguf_model(exported.base, delta, part / MODEL_FILE, exported.stored)
    if not exported.base.own:
        return
    with tempfile.TemporaryDirectory() as empty, quiet_transformers():
        loaded, _ = load_gguf(part / MODEL_FILE, Path(empty))
    allowed = HALF_TOLERANCE if exported.stored == "float16" else None
    _compare(model, _tuned_logits(model, delta), _logits(model, loaded.to(model.device, model.dtype).eval()), allowed)


def _verify_gguf_lora(model: Model, delta: HeadDelta, part: Path, exported: Exported) -> None:
    assert exported.base is not None
    check_gguf_lora(exported.base, delta, part / ADAPTER_FILE)


VERIFY = {
    "hf": _verify_hf,
    "peft": _verify_peft,
    "delta": _verify_delta,
    "gguf": _verify_gguf,
    "gguf-lora": _verify_gguf_lora,
}


def _tuned_logits(model: Model, delta: HeadDelta) -> Float[Tensor, "pos d_vocab"]:
    with delta.applied(model, check=False):
        return _logits(model, plain_view(model))


def _logits(model: Model, hf: Any) -> Float[Tensor, "pos d_vocab"]:
    tokens = torch.tensor([model.tokenizer(PROBE)["input_ids"]], device=model.device)
    with torch.no_grad():
        return hf(tokens, use_cache=False).logits[0].float().cpu()


def _compare(
    model: Model,
    expected: Float[Tensor, "pos d_vocab"],
    logits: Float[Tensor, "pos d_vocab"],
    allowed: float | None = None,
) -> None:
    apart = float((logits - expected).abs().max() / expected.abs().max())
    allowed = TOLERANCES.get(model.dtype, HALF_TOLERANCE) if allowed is None else allowed
    if not apart <= allowed:
        raise DeltaError(
            f"loaded again, the export's logits are {apart:.2g} of the largest one away from the tuned model's, "
            f"more than {allowed:.2g}; it was not kept"
        )
