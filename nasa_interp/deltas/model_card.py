"""The files that go with an exported change: a model card, the base's licence, and a record for programs."""

import html
import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch

from ..models import Model
from ..models.slice_values import plain_view
from ..models.slices import PROJECTIONS, group_of, head_slices
from ..run import library_versions
from .card_texts import DEMO_CHANGE, DEMO_NOTE, DEMO_SOURCE, INTENDED, LIBRARY, LIMITS, UNDO, USE, WHOLE
from .delta import HeadDelta
from .gguf_model import MODEL_FILE, GGUFBase
from .license import license_of, public_name, without_folders
from .model_index import evaluation_results


@dataclass(frozen=True)
class Exported:
    """What a card says about one export.

    Args:
        format: "hf", "peft", "delta", "gguf" or "gguf-lora".
        folder: the folder's name.
        result_hash: `Model.weights_hash()` with the change applied.
        notes: free text from the user.
        base: the base's GGUF file, for the GGUF formats.
        stored: the type of changed tensors in a GGUF file.
    """

    format: str
    folder: str
    result_hash: str
    notes: str = ""
    base: GGUFBase | None = None
    stored: str = "float32"


def model_card(model: Model, delta: HeadDelta, exported: Exported) -> str:
    """The README.md of an export: a YAML header, what was changed, how it was made and measured, limits, how to undo.

    The measurements come from the delta's log: its entry "measured", a dictionary of measures, each a number or a
    dictionary such as {"before": 0.50, "after": 0.81}; and its entries "base" and "tuned", the validation questions'
    measures before and after. Absolute paths in the log are cut to their last part.
    """
    base = public_name(delta.base_model)
    sections = _sections(model, delta, exported)
    paragraphs = [
        _first(model, delta) if delta.slices else f"`{base}` as it is, written by nasa_interp for other programs.",
        *([DEMO_NOTE.format(DEMO_CHANGE if delta.slices else "")] if delta.base_model == "demo" else []),
        *([exported.notes] if exported.notes else []),
    ]
    body = "\n\n".join(f"## {title}\n\n{text}" for title, text in sections.items())
    return (
        f"---\n{_header(model, delta, exported)}\n---\n\n# {exported.folder}\n\n"
        + "\n\n".join(paragraphs)
        + f"\n\n{body}\n"
    )


def _sections(model: Model, delta: HeadDelta, exported: Exported) -> dict[str, str]:
    """The card's parts by title; of a model without a change those that aren't about one."""
    how = f"```python\n{_filled(USE, delta, exported)}\n```"
    if not delta.slices:
        stored = f"hash of the weights: `{delta.base_hash}`, stored as {str(model.dtype).removeprefix('torch.')}"
        return {"Weights": stored, "How to use it": how, "Licence": _licence(model, changed=False)}
    return {
        "What was changed": _changed(model, delta, exported),
        "How it was made": _made(delta),
        "How it was measured": _measured(delta),
        "How to use it": how,
        "Limits": LIMITS,
        "Intended use": INTENDED,
        "How to undo it": _filled(UNDO, delta, exported),
        "Licence": _licence(model),
    }


def _first(model: Model, delta: HeadDelta) -> str:
    """What it is, in a sentence."""
    changed = sum(bool(used) for _, used, _ in _heads(model, delta))
    bias, answer = _bias(delta)
    return (
        f"`{public_name(delta.base_model)}` with weights of {_count(changed, 'attention head')} changed by "
        f"nasa_interp, to lower its {bias} bias: answering {answer} too often to yes-no questions. What the change did "
        f"is under [How it was measured](#how-it-was-measured)."
    )


def _bias(delta: HeadDelta) -> tuple[str, str]:
    """The bias that validation measured before the change, by name, and the answer that was given too often."""
    base = delta.log.get("base")
    imbalances = list(base["imbalance"].values()) if isinstance(base, dict) and base.get("imbalance") else []
    if not imbalances:
        return "yes-no", "Yes or No"
    return ("negative", "No") if sum(imbalances) >= 0 else ("positive", "Yes")


def record(model: Model, delta: HeadDelta, exported: Exported) -> dict[str, Any]:
    """The same as plain values for programs: hashes, heads, share of the weights, the whole log, versions."""
    return {
        "kind": "export",
        "format": exported.format,
        "base_model": public_name(delta.base_model),
        "base_hash": delta.base_hash,
        "result_hash": exported.result_hash,
        "license": license_of(model),
        "heads": {head: {"projections": used, "shared_with": others} for head, used, others in _heads(model, delta)},
        "slices": len(delta.slices),
        "changed_entries": delta.n_changed,
        "share": delta.share(model),
        "dtype": str(model.dtype).removeprefix("torch."),
        "log": without_folders(delta.log),
        "notes": exported.notes,
        "versions": library_versions(),
    }


def _header(model: Model, delta: HeadDelta, exported: Exported) -> str:
    from huggingface_hub import ModelCardData

    base = DEMO_SOURCE if delta.base_model == "demo" else public_name(delta.base_model)
    known: dict[str, Any] = {}
    # The hub takes only ids; a folder's name would be mistaken for one.
    if base.count("/") == 1:
        known["base_model"] = base
        if delta.slices:
            known["base_model_relation"] = "finetune" if exported.format in WHOLE else "adapter"
    if license := license_of(model):
        known["license"] = license
    lora = ["lora"] if exported.format in ("peft", "gguf-lora") else []
    if results := evaluation_results(delta):
        known |= {"model_name": exported.folder, "eval_results": results}
    return ModelCardData(
        library_name=LIBRARY[exported.format],
        pipeline_tag="text-generation",
        tags=[
            "nasa-interp",
            *([f"{_bias(delta)[0]}-bias", "attention-heads"] if delta.slices else []),
            *lora,
        ],
        **known,
    ).to_yaml()


def _changed(model: Model, delta: HeadDelta, exported: Exported) -> str:
    rows = [("head", "projections", "shared with"), ("---", "---", "---")]
    rows += [
        (head, ", ".join(used) or "unchanged", ", ".join(others) or "none")
        for head, used, others in _heads(model, delta)
    ]
    frame = delta.to_dataframe()
    lines = [
        f"{delta.n_changed:,} weights in {_count(len(delta.slices), 'slice')}: {delta.share(model):.4%} of the model.",
        "Layers and heads count from 0. Query rows and output columns are a head's own; key and value rows serve all "
        "query heads of a group, which the last column names.",
        _table(rows),
        f"Largest change of a slice, against its own norm: {frame.relative.max():.3g}. All other weights "
        f"are the base's, bit for bit.",
        f"- hash of the base's weights: `{delta.base_hash or 'unknown'}`\n"
        f"- hash of the changed weights: `{exported.result_hash or 'unknown'}`\n"
        f"- stored as: {_stored(model, exported)}",
    ]
    return "\n\n".join(lines)


def _stored(model: Model, exported: Exported) -> str:
    dtype = str(model.dtype).removeprefix("torch.")
    if exported.base is None:
        return dtype
    # The other tensors are the base file's own, whatever they are stored as.
    return f"{exported.stored if exported.format == 'gguf' else 'float32'} (what was changed)"


def _made(delta: HeadDelta) -> str:
    log = {name: value for name, value in delta.log.items() if name not in ("measured", "measured_on", "base", "tuned")}
    rows = list(_flat(without_folders(log)))
    if not rows:
        return "The change came without a log."
    shown = [("entry", "value"), ("---", "---"), *((name, _text(value)) for name, value in rows[:60])]
    return f"{_table(shown)}\n\nThe whole log is in `nasa_interp/export.json`."


def _measured(delta: HeadDelta) -> str:
    measured, base, tuned = (delta.log.get(name) for name in ("measured", "base", "tuned"))
    parts = []
    if isinstance(measured, dict) and measured:
        if on := delta.log.get("measured_on"):
            parts.append(f"On {on}; low and high are the ends of the change's 95% interval:")
        parts.append(_measures(measured))
    if isinstance(base, dict) and isinstance(tuned, dict):
        before, after = dict(_flat(base)), dict(_flat(tuned))
        parts.append(
            "On the validation questions, by which tuning was steered and stopped, so that new questions will look "
            "worse; yes_no and no_yes are the orders of the candidates in the prompt:"
        )
        parts.append(_measures({name: {"before": before[name], "after": after.get(name)} for name in before}))
    return "\n\n".join(parts) or "**Not measured.** Measure it on your own questions before use: `nasa-interp decide`."


def _measures(measures: dict[str, Any]) -> str:
    """One row per measure, with its values (before, after, ...) in columns."""
    rows = {name: value if isinstance(value, dict) else {"value": value} for name, value in measures.items()}
    columns = list(dict.fromkeys(column for row in rows.values() for column in row))
    head = [("measure", *columns), ("---",) * (len(columns) + 1)]
    return _table(head + [(name, *(_text(row.get(column)) for column in columns)) for name, row in rows.items()])


def _licence(model: Model, changed: bool = True) -> str:
    name = license_of(model)
    if not name:
        return "The base's licence is not known to the program that wrote this. Find it before you pass this on."
    modified = " Weights of the base were modified as described above." if changed else ""
    return f"The base model's licence, {name}, holds for this too; see the files beside this one.{modified}"


def _heads(model: Model, delta: HeadDelta) -> Iterator[tuple[str, list[str], list[str]]]:
    """Each head, its changed projections, and the other heads that share them."""
    hf, rows = plain_view(model), zip(delta.slices, delta.before, delta.after, strict=True)
    moved = {piece for piece, before, after in rows if not torch.equal(before, after)}
    for head in delta.heads:
        used = [p for p in PROJECTIONS if moved & set(head_slices(hf, head.layer, head.index, p, bias=True))]
        others = [f"{head.layer}.{other}" for other in group_of(hf, head.layer, head.index) if other != head.index]
        yield str(head), used, others if set(used) & set("kv") else []


def _filled(texts: dict[str, str], delta: HeadDelta, exported: Exported) -> str:
    dtype = str(delta.before[0].dtype).removeprefix("torch.") if delta.before else "auto"
    exactly = f"weights_hash() {delta.base_hash[:12]}..., {dtype}"
    within = "/nasa_interp" if exported.format == "hf" else ""
    # Quoted as JSON, so that no name can end the string around it.
    names = {"folder": exported.folder, "base": public_name(delta.base_model)}
    names |= {"file": f"{exported.folder}{within}/delta.safetensors", "gguf": f"{exported.folder}/{MODEL_FILE}"}
    quoted = {key: json.dumps(name) for key, name in names.items()}
    return texts[exported.format].format(**quoted, exactly=exactly, dtype=dtype)


def _flat(value: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    """Nested values as rows of dotted name and value; long or nested lists become a count."""
    if isinstance(value, dict):
        for key, item in value.items():
            yield from _flat(item, f"{name}.{key}" if name else str(key))
    elif isinstance(value, list) and (len(value) > 12 or any(isinstance(item, (dict, list)) for item in value)):
        yield name, _count(len(value), "entry", "entries")
    else:
        yield name, value


def _text(value: Any) -> str:
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return "not measured"
    if isinstance(value, float):
        return f"{value:.4g}"
    return ", ".join(map(_text, value)) if isinstance(value, list) else str(value)


def _table(rows: list[tuple[str, ...]]) -> str:
    """A Markdown table; bars, line breaks and tags in cells are escaped."""
    clean = [[html.escape(cell, quote=False).replace("|", "\\|").replace("\n", " ") for cell in row] for row in rows]
    return "\n".join(f"| {' | '.join(row)} |" for row in clean)


def _count(number: int, one: str, many: str = "") -> str:
    return f"{number} {one if number == 1 else many or one + 's'}"
