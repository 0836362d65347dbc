"""Laws of GGUF files: all that wasn't changed stays byte for byte, what was is llama.cpp's own order of rows."""

import importlib
import json
import shutil
from pathlib import Path

import families
import numpy as np
import pytest
import torch
from gguf import GGMLQuantizationType, GGUFReader, GGUFWriter, quantize
from huggingface_hub import metadata_load
from llama_files import CONFIGS, llama_file, llama_tokenizer, tiny_for
from llama_server import llama_server
from test_delta import one_thread, tuned  # noqa: F401 (the fixture)
from tiny_gguf import CONFIGS as READ
from tiny_gguf import gguf_tensors, write_gguf
from transformers import AutoModelForCausalLM

from nasa_interp import HeadDelta, PromptStyle, decide, load_model, load_server
from nasa_interp.deltas import export
from nasa_interp.errors import DeltaError, ModelError
from nasa_interp.models import Model
from nasa_interp.models.gguf_layout import GGUFLayout, tensor_values
from nasa_interp.models.loading import demo_file

writing = importlib.import_module("nasa_interp.deltas.gguf_model")
PLAIN = PromptStyle(kind="plain")


def based(kind: str, folder: Path) -> tuple[Model, Path]:
    """A tiny model and its GGUF file."""
    model = load_model(tiny_for(kind), tokenizer=llama_tokenizer())
    return model, llama_file(folder / "tiny.gguf", model.hf, kind)


def held(path: Path) -> dict[str, np.ndarray]:
    return {tensor.name: tensor_values(tensor) for tensor in GGUFReader(path).tensors}


@pytest.mark.parametrize("kind", CONFIGS)
def test_what_was_not_changed_is_the_base_s_byte_for_byte(kind, tmp_path):
    model, base = based(kind, tmp_path)
    delta = tuned(model, projections="qo", bias=False)
    folder = export(model, delta, tmp_path / "out", "gguf", base=base)
    old, new = GGUFReader(base), GGUFReader(folder / "model.gguf")
    assert [t.name for t in old.tensors] == [t.name for t in new.tensors]
    changed = {a.name for a, b in zip(old.tensors, new.tensors, strict=True) if not np.array_equal(a.data, b.data)}
    query = "attn_qkv" if kind in ("phi3", "gpt2") else "attn_q"
    assert changed == {f"blk.{layer}.{part}.weight" for layer in (0, 1) for part in (query, "attn_output")}
    # Nothing moved: the same bytes up to the first tensor, as F32 stays F32 here.
    start = min(t.data_offset for t in old.tensors)
    assert base.read_bytes()[:start] == (folder / "model.gguf").read_bytes()[:start]
    assert model.weights_hash() == delta.base_hash
    assert HeadDelta.load(folder / "nasa_interp" / "delta.safetensors") == delta


@pytest.mark.filterwarnings("ignore:answer mass under:UserWarning")
@pytest.mark.parametrize("kind", CONFIGS)
def test_llama_cpp_decides_as_the_tuned_model_does(kind, tmp_path):
    """The proof of the order of rows: another one gives decisions that are far away."""
    model, base = based(kind, tmp_path)
    delta = tuned(model, projections="qkvo", bias=False)
    whole = export(model, delta, tmp_path / "out", "gguf", base=base, verify=False) / "model.gguf"
    adapter = export(model, delta, tmp_path / "lora", "gguf-lora", base=base) / "adapter.gguf"
    before = decide(model, families.QUESTIONS, style=PLAIN, progress=False).logit_differences
    with delta.applied(model):
        ours = decide(model, families.QUESTIONS, style=PLAIN, progress=False).logit_differences
    assert np.abs(ours - before).max() > 0.5
    for path, lora in ((whole, None), (base, adapter)):
        with llama_server(path, lora) as server:
            served = load_server(server.url, "tiny", top=600)
            theirs = decide(served, families.QUESTIONS, style=PLAIN, progress=False).logit_differences
        # llama.cpp looks GELU up in a table of fp16.
        allowed = 1e-3 if kind in ("gpt2", "gemma3") else 1e-4
        assert np.abs(theirs - ours).max() < allowed * np.abs(ours).max()


@pytest.mark.parametrize("kind", CONFIGS)
def test_rows_go_there_and_back_exactly(kind, tmp_path):
    model, base = based(kind, tmp_path)
    reader = GGUFReader(base)
    layout = GGUFLayout.of(reader, base)
    turned = kind == "gpt2"
    for parameter, values in model.weights.named_parameters():
        if "attn" in parameter and "norm" not in parameter:
            name = layout.tensor(parameter)
            mine = values.detach().numpy().T if turned and values.ndim == 2 else values.detach().numpy()
            theirs = next(tensor_values(t) for t in reader.tensors if t.name == name)
            assert np.array_equal(layout.stored(name, mine), theirs), parameter
            assert np.array_equal(layout.restored(name, theirs), mine), parameter
    # Only Llama's rows move.
    size = layout.heads * 16
    assert (layout.rows("blk.0.attn_q.weight", size).tolist() != list(range(size))) == (kind == "llama")


def test_transformers_reads_the_tuned_weights(tmp_path):
    """The whole way: a file is loaded, its heads are tuned, the export is loaded like any other file."""
    hf = families.tiny_model("llama_tied")

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        hf = AutoModelForCausalLM.from_config(READ["llama"](), dtype=torch.float32).eval()
    path = write_gguf(tmp_path / "tiny.gguf", hf, gguf_tensors(hf, "llama"))
    model = load_model(str(path))
    delta = tuned(model, projections="qkvo", bias=False)
    folder = export(model, delta, tmp_path / "out", "gguf")
    again = load_model(str(folder / "model.gguf"))
    with delta.applied(model):
        assert again.weights_hash() == model.weights_hash()
    assert again.tokenizer.chat_template == model.tokenizer.chat_template


def test_half_precision_is_rounded_and_nothing_else(tmp_path):
    model, base = based("qwen3", tmp_path)
    delta = tuned(model, projections="q", bias=False)
    folder = export(model, delta, tmp_path / "out", "gguf", base=base, stored="float16", verify=False)
    new = {tensor.name: tensor for tensor in GGUFReader(folder / "model.gguf").tensors}
    halves = {name for name, tensor in new.items() if tensor.tensor_type == GGMLQuantizationType.F16}
    assert halves == {"blk.0.attn_q.weight", "blk.1.attn_q.weight"}
    with delta.applied(model):
        values = model.weights.get_parameter("model.layers.0.self_attn.q_proj.weight").detach().numpy().copy()
    assert np.array_equal(tensor_values(new["blk.0.attn_q.weight"]), values.astype(np.float16).astype(np.float32))
    with pytest.raises(DeltaError, match="can't be stored as 'int8'; use one of float32, float16"):
        export(model, delta, tmp_path / "no", "gguf", base=base, stored="int8")
    with pytest.raises(DeltaError, match="holds values that float16 can't"):
        export(model, delta.scaled(1e7), tmp_path / "no", "gguf", base=base, stored="float16")
    assert not (tmp_path / "no").exists()


def rewritten(path: Path, new: Path, change) -> Path:
    """The file with entries and tensors changed by a function of the name and the values."""
    reader = GGUFReader(path)
    writer = GGUFWriter(str(new), "")
    writer.kv_data[0].clear()
    for field in reader.fields.values():
        if not field.name.startswith("GGUF."):
            value = change(field.name, field.contents())
            inner = field.types[-1] if len(field.types) > 1 else None
            writer.add_key_value(field.name, value, field.types[0], sub_type=inner)
    for tensor in reader.tensors:
        values = change(tensor.name, tensor.data)
        writer.add_tensor(tensor.name, *(values if isinstance(values, tuple) else (values,)))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return new


def test_files_that_are_no_base_are_refused(tmp_path):
    model, base = based("llama", tmp_path)
    delta = tuned(model, projections="q", bias=False)

    def another(key, value):
        return lambda name, old: value if name == key else old

    falcon = rewritten(base, tmp_path / "falcon.gguf", another("general.architecture", "falcon"))
    with pytest.raises(ModelError, match=r"architecture 'falcon', whose order of rows.*isn't known.*'hf'"):
        export(model, delta, tmp_path / "out", "gguf", base=falcon)
    other = llama_file(tmp_path / "other.gguf", tiny_for("llama", seed=1), "llama")
    for format in ("gguf", "gguf-lora"):
        with pytest.raises(DeltaError, match=r"blk\.0\.attn_q\.weight in .*other\.gguf is not .*that very model"):
            export(model, delta, tmp_path / "out", format, base=other)
    # The same values in another order of rows are another model, too.
    turned = rewritten(base, tmp_path / "turned.gguf", lambda name, old: old[::-1].copy() if "attn_q" in name else old)
    with pytest.raises(DeltaError, match="take a file of that very model"):
        export(model, delta, tmp_path / "out", "gguf", base=turned)
    with pytest.raises(DeltaError, match=r"was not loaded from a GGUF file.*--base FILE\.gguf"):
        export(model, delta, tmp_path / "out", "gguf")
    with pytest.raises(ModelError, match=r"nowhere\.gguf can't be read"):
        export(model, delta, tmp_path / "out", "gguf", base=tmp_path / "nowhere.gguf")
    (tmp_path / "short.gguf").write_bytes(base.read_bytes()[:5000])
    with pytest.raises(ModelError, match=r"short\.gguf is not a whole GGUF file"):
        export(model, delta, tmp_path / "out", "gguf", base=tmp_path / "short.gguf")
    assert not (tmp_path / "out").exists()


def test_a_quantized_file_of_a_model_that_was_loaded_elsewhere(tmp_path):
    """Its other tensors stay, the changed ones are the tuned model's, and the record says how far the file was."""
    model, base = based("llama", tmp_path)

    def quantized(name, old):
        large = isinstance(old, np.ndarray) and old.ndim == 2 and old.shape[-1] % 32 == 0
        return (quantize(old, GGMLQuantizationType.Q8_0), None, GGMLQuantizationType.Q8_0) if large else old

    small = rewritten(base, tmp_path / "small.gguf", quantized)
    delta = tuned(model, projections="q", bias=False)
    folder = export(model, delta, tmp_path / "out", "gguf", base=small)
    record = json.loads((folder / "nasa_interp" / "export.json").read_text())["gguf"]
    assert record["tensors"] == ["blk.0.attn_q.weight", "blk.1.attn_q.weight"]
    assert all(0 < far < 0.05 for far in record["distances"].values())
    types = {tensor.name: tensor.tensor_type for tensor in GGUFReader(folder / "model.gguf").tensors}
    assert types["blk.0.attn_q.weight"] == GGMLQuantizationType.F32
    assert types["blk.0.attn_k.weight"] == GGMLQuantizationType.Q8_0


@pytest.mark.parametrize("format", ["gguf", "gguf-lora"])
def test_a_file_that_reads_back_otherwise_is_not_kept(format, tmp_path, monkeypatch):
    model, base = based("llama", tmp_path)
    delta, formats = tuned(model, projections="q", bias=False), importlib.import_module("nasa_interp.deltas.formats")
    write = formats._write

    def another(model, delta, part, exported):
        write(model, delta.scaled(0.9), part, exported)

    monkeypatch.setattr(formats, "_write", another)
    with pytest.raises(DeltaError, match="not kept"):
        export(model, delta, tmp_path / "out", format, base=base)
    assert not (tmp_path / "out").exists()


def test_the_adapter_is_exact_and_of_one_rank(tmp_path):
    model, base = based("llama", tmp_path)
    # Two heads in one layer and one in the other, rows that are permuted and columns that are not.
    delta = tuned(model, ("0.1", "0.3", "1.2"), "qo", bias=False)
    folder = export(model, delta, tmp_path / "out", "gguf-lora", base=base)
    reader, whole = (
        GGUFReader(folder / "adapter.gguf"),
        export(model, delta, tmp_path / "w", "gguf", base=base, verify=False),
    )
    factors, old, new = held(folder / "adapter.gguf"), held(base), held(whole / "model.gguf")
    assert {name: reader.fields[name].contents() for name in ("general.type", "adapter.type")} == {
        "general.type": "adapter",
        "adapter.type": "lora",
    }
    alpha = reader.fields["adapter.lora.alpha"].contents()
    for name in ("blk.0.attn_q.weight", "blk.1.attn_q.weight", "blk.0.attn_output.weight"):
        a, b = factors[f"{name}.lora_a"], factors[f"{name}.lora_b"]
        # llama.cpp multiplies by alpha over the rank.
        assert a.shape[0] == b.shape[1] == alpha
        assert np.allclose(old[name] + b @ a, new[name], atol=1e-6)
        assert np.abs(b @ a).max() > 0.01
    with pytest.raises(DeltaError, match="a LoRA carries no biases"):
        export(model, tuned(model, bias=True), tmp_path / "no", "gguf-lora", base=base)


def test_the_card_says_how_to_run_it(tmp_path):
    model, base = based("llama", tmp_path)
    delta = tuned(model, projections="q", bias=False)
    for format, said in (("gguf", "llama-server"), ("gguf-lora", "--lora")):
        folder = export(model, delta, tmp_path / format, format, base=base, verify=False)
        card, header = (folder / "README.md").read_text(), metadata_load(folder / "README.md")
        assert said in card
        assert header["library_name"] == "gguf"
        assert header["base_model_relation"] == ("finetune" if format == "gguf" else "adapter")
        assert str(tmp_path) not in card + (folder / "nasa_interp" / "export.json").read_text()


def test_the_embedded_model_s_own_file(demo, tmp_path):
    """Quantized tensors that stay, and two that become F32."""
    delta = tuned(demo, ("17.7", "22.8"), "q")
    # What transformers' reader makes of it, which takes long, `benchmarks/llama_cpp.py` looks at.
    folder = export(demo, delta, tmp_path / "out", "gguf", verify=False)
    old, new = GGUFReader(demo_file()), GGUFReader(folder / "model.gguf")
    types = {b.name for a, b in zip(old.tensors, new.tensors, strict=True) if a.tensor_type != b.tensor_type}
    assert types == {"blk.17.attn_q.weight", "blk.22.attn_q.weight"}
    same = [
        np.array_equal(a.data, b.data) for a, b in zip(old.tensors, new.tensors, strict=True) if b.name not in types
    ]
    assert len(same) == 270
    assert all(same)
    values = {tensor.name: tensor_values(tensor) for tensor in new.tensors if tensor.name in types}
    layout = GGUFLayout.of(new, folder)
    with delta.applied(demo):
        mine = demo.weights.get_parameter("model.layers.17.self_attn.q_proj.weight").detach().numpy().copy()
    assert np.array_equal(layout.restored("blk.17.attn_q.weight", values["blk.17.attn_q.weight"]), mine)
    assert metadata_load(folder / "README.md")["license"] == "apache-2.0"
    shutil.rmtree(folder)
