"""A model is loaded whole or not at all: partly loaded weights, adapters, damaged conversions, weights on disk."""

import copy
import json
import os
import shutil
import threading
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from families import QUESTIONS, SUPPORTED, tiny_model, tiny_tokenizer
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file
from tiny_gguf import CONFIGS, gguf_tensors, write_gguf
from torch import Tensor
from transformers import AutoModelForCausalLM, LlamaConfig, PreTrainedModel

from nasa_interp import HeadDelta, decide, load_model
from nasa_interp.deltas import export
from nasa_interp.errors import ModelError
from nasa_interp.heads import HeadList
from nasa_interp.models.gguf import RECORD, converted
from nasa_interp.models.quiet import quiet_transformers
from nasa_interp.models.slices import head_slices

TOKENS = torch.arange(5, 30)[None]

SAFETENSORS, BIN, INDEX = "model.safetensors", "pytorch_model.bin", "model.safetensors.index.json"

Change = Callable[[dict[str, Tensor]], dict[str, Tensor]]

# PEFT 0.21 asks transformers for a property that it warns of.
with_peft = pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is deprecated:FutureWarning")


@torch.no_grad()
def logits(hf: PreTrainedModel) -> Tensor:
    return hf(TOKENS).logits


def saved(model, folder: Path, **options) -> Path:
    with quiet_transformers():
        model.save_pretrained(folder, **options)
        tiny_tokenizer().save_pretrained(folder)
    return folder


def rewritten(folder: Path, change: Change, kind: str = SAFETENSORS) -> Path:
    """The folder with its weights changed, and kept in a file of that kind."""
    tensors = change(load_file(folder / SAFETENSORS))
    (folder / SAFETENSORS).unlink()
    if kind == BIN:
        torch.save(tensors, folder / BIN)
    else:
        save_file(tensors, folder / SAFETENSORS, {"format": "pt"})
    return folder


def behind(prefix: str) -> Change:
    return lambda tensors: {f"{prefix}{key}": tensor for key, tensor in tensors.items()}


def without(*names: str) -> Change:
    return lambda tensors: {key: tensor for key, tensor in tensors.items() if key not in names}


def changed(name: str, change: Callable[[Tensor], Tensor]) -> Change:
    return lambda tensors: tensors | {name: change(tensors[name]).contiguous()}


def with_lora(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """As the state of a model with an injected LoRA is saved."""
    lora = {"model.layers.1.self_attn.q_proj.lora_A.default.weight": torch.ones(2, 48)}
    return {key.replace("q_proj.weight", "q_proj.base_layer.weight"): tensor for key, tensor in tensors.items()} | lora


def one_line(error: pytest.ExceptionInfo) -> str:
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.mark.parametrize("family", SUPPORTED)
def test_every_family_loads_whole_and_without_a_word(family, tmp_path):
    model = tiny_model(family)
    loaded = load_model(saved(model, tmp_path / family))
    assert torch.equal(logits(loaded.hf), logits(model))


EXPERT = "model.layers.0.block_sparse_moe.experts.1.w1.weight"
NORM = "model.norm.weight"
VALUES = "model.layers.1.self_attn.v_proj.weight"

PARTLY: dict[str, tuple[str, Change, tuple[str, ...]]] = {
    "data parallel": ("llama", behind("module."), ("lack 29", "lm_head.weight", "removeprefix('module.')")),
    "compiled": ("llama", behind("_orig_mod."), ("lack 29", "removeprefix('_orig_mod.')")),
    "PEFT": ("llama", behind("base_model.model."), ("lack 29", "removeprefix('base_model.model.')")),
    "any wrapper": ("gpt2", behind("inner.lm."), ("lack 29", "h.0.attn", "removeprefix('inner.lm.')")),
    "wrapped, tied": ("llama_tied", behind("module."), ("lack 21", "removeprefix('module.')")),
    "unmerged LoRA": ("llama", with_lora, ("lack 2 ", "self_attn.q_proj.weight", "merge_and_unload()")),
    "one tensor": ("llama", without(VALUES), ("lack 1 ", VALUES, "fetch the files again")),
    "a bias": ("gpt_neox", without("gpt_neox.layers.0.mlp.dense_4h_to_h.bias"), ("lack 1 ", "dense_4h_to_h.bias")),
    "no head": ("llama", without("lm_head.weight"), ("lack 1 ", "lm_head.weight", "whole causal language model")),
    "no embeddings, tied": ("llama_tied", without("model.embed_tokens.weight"), ("lack 2 ", "model.embed_tokens")),
    "other names": ("llama", lambda _: {"blocks.0.W_Q": torch.ones(2)}, ("lack 29", "blocks.0.W_Q", "in their place")),
    "longer": ("llama", changed(NORM, lambda t: torch.cat([t, t])), ("hold 1 ", f"{NORM} (96,) for (48,)")),
    "transposed": ("llama", changed(VALUES, lambda t: t.T), ("hold 1 ", f"{VALUES} (48, 24) for (24, 48)")),
    "both": (
        "llama",
        lambda tensors: changed(NORM, lambda t: t[:5])(without(VALUES)(tensors)),
        ("lack 1 ", VALUES, "hold 1 ", f"{NORM} (5,)"),
    ),
    "an expert": ("mixtral", without(EXPERT), ("mlp.experts.gate_up_proj", "can't be put together")),
    "an expert's shape": ("mixtral", changed(EXPERT, lambda t: t[:5]), ("mlp.experts.gate_up_proj", "other shapes")),
}
"""Ways in which files hold less than a model: a family, what is done to its files, and words out of the error."""


@pytest.mark.parametrize("kind", [SAFETENSORS, BIN])
@pytest.mark.parametrize("case", PARTLY)
def test_a_partly_loaded_model_is_refused_by_the_names_of_its_weights(case, kind, tmp_path):
    family, change, words = PARTLY[case]
    folder = rewritten(saved(tiny_model(family), tmp_path / "tiny"), change, kind)
    with pytest.raises(ModelError, match="is not a whole model") as error:
        load_model(folder)
    message = one_line(error)
    for word in (*words, str(folder)):
        assert word in message


def test_the_way_out_of_a_prefix_leads_out(tmp_path):
    model = tiny_model("llama")
    folder = rewritten(saved(model, tmp_path / "tiny"), behind("module."))
    rewritten(folder, lambda tensors: {key.removeprefix("module."): tensor for key, tensor in tensors.items()})
    assert torch.equal(logits(load_model(folder).hf), logits(model))


def sharded(folder: Path) -> tuple[Path, dict[str, str]]:
    """A tiny Llama in shards, and which file holds which tensor."""
    saved(tiny_model("llama"), folder, max_shard_size="50KB")
    return folder, json.loads((folder / INDEX).read_text())["weight_map"]


@pytest.mark.parametrize("lost", ["from its shard", "from its shard and the index"])
def test_a_tensor_lost_from_a_shard_is_refused(lost, tmp_path):
    folder, files = sharded(tmp_path / "tiny")
    shard = folder / files.pop(VALUES)
    save_file(without(VALUES)(load_file(shard)), shard, {"format": "pt"})
    if lost == "from its shard and the index":
        (folder / INDEX).write_text(json.dumps({"metadata": {}, "weight_map": files}))
    with pytest.raises(ModelError, match=f"lack 1 of its weights .{VALUES}"):
        load_model(folder)


def test_a_tensor_lost_from_the_index_alone_is_there(tmp_path):
    folder, files = sharded(tmp_path / "tiny")
    del files[VALUES]
    (folder / INDEX).write_text(json.dumps({"metadata": {}, "weight_map": files}))
    assert torch.equal(logits(load_model(folder).hf), logits(tiny_model("llama")))


def test_a_shard_that_the_index_leaves_out_is_missed(tmp_path):
    folder, files = sharded(tmp_path / "tiny")
    left = {name: file for name, file in files.items() if file != files[VALUES]}
    assert 0 < len(left) < len(files)
    (folder / INDEX).write_text(json.dumps({"metadata": {}, "weight_map": left}))
    with pytest.raises(ModelError, match=f"lack {len(files) - len(left)} of its weights"):
        load_model(folder)


def test_a_configuration_with_more_layers_than_the_files_is_refused(tmp_path):
    folder = saved(tiny_model("llama"), tmp_path / "tiny")
    LlamaConfig.from_pretrained(folder, num_hidden_layers=3).save_pretrained(folder)
    with pytest.raises(ModelError, match=r"lack 13 of its weights .model\.layers\.2\."):
        load_model(folder)


def test_a_model_saved_without_its_head_is_refused(tmp_path):
    folder = saved(tiny_model("llama").model, tmp_path / "tiny")
    with pytest.raises(ModelError, match=r"lack 1 of its weights .lm_head\.weight"):
        load_model(folder)


@pytest.mark.parametrize("kind", [SAFETENSORS, BIN])
def test_a_tensor_too_many_is_named(kind, tmp_path):
    model = tiny_model("llama")
    extra = {"model.layers.0.self_attn.sinks": torch.ones(4)}
    folder = rewritten(saved(model, tmp_path / "tiny"), lambda tensors: tensors | extra, kind)
    with pytest.warns(
        UserWarning, match=r"1 of the tensors in its files are not used .model\.layers\.0\.self_attn\.si"
    ):
        loaded = load_model(folder)
    assert torch.equal(logits(loaded.hf), logits(model))


def test_layers_too_many_are_named(tmp_path):
    folder = saved(tiny_model("llama"), tmp_path / "tiny")
    LlamaConfig.from_pretrained(folder, num_hidden_layers=1).save_pretrained(folder)
    with pytest.warns(UserWarning, match=r"13 of the tensors .*layers\.1\.input_layernorm\.weight.* and 10 more"):
        load_model(folder)


def test_what_transformers_passes_over_is_passed_over(tmp_path):
    old = {"model.layers.0.self_attn.rotary_emb.inv_freq": torch.ones(6)}
    folder = rewritten(saved(tiny_model("llama"), tmp_path / "tiny"), lambda tensors: tensors | old)
    assert load_model(folder).n_layers == 2


@pytest.mark.parametrize("kind", [SAFETENSORS, BIN])
@pytest.mark.parametrize("head", ["left out", "kept"])
def test_a_tied_head_needn_t_be_in_the_files(head, kind, tmp_path):
    model = tiny_model("llama_tied")
    folder = saved(model, tmp_path / "tiny")
    assert "lm_head.weight" not in load_file(folder / SAFETENSORS)
    embeddings = model.model.embed_tokens.weight.detach().clone()
    rewritten(folder, lambda t: t if head == "left out" else t | {"lm_head.weight": embeddings}, kind)
    loaded = load_model(folder).hf
    assert loaded.lm_head.weight is loaded.model.embed_tokens.weight
    assert torch.equal(logits(loaded), logits(model))


def test_a_hub_id_is_checked_as_a_folder_is(tmp_path, monkeypatch):
    snapshot = tmp_path / "models--me--tiny" / "snapshots" / ("0" * 40)
    rewritten(saved(tiny_model("llama"), snapshot), without(VALUES))
    (tmp_path / "models--me--tiny" / "refs").mkdir()
    (tmp_path / "models--me--tiny" / "refs" / "main").write_text("0" * 40)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(ModelError, match=f"'me/tiny' is not a whole model: its files lack 1 .*{VALUES}"):
        load_model("me/tiny")
    with pytest.raises(ModelError, match="'me/other' can't be loaded") as error:
        load_model("me/other")
    assert "local cache holds" in one_line(error)


# GGUF files


@pytest.fixture
def cache(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("NASA_INTERP_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "gguf"


def gguf_model(kind: str = "llama") -> PreTrainedModel:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return AutoModelForCausalLM.from_config(CONFIGS[kind](), dtype=torch.float32).eval()


@pytest.fixture
def gguf(tmp_path) -> SimpleNamespace:
    """A tiny model and its GGUF file."""
    model = gguf_model()
    return SimpleNamespace(hf=model, path=write_gguf(tmp_path / "tiny.gguf", model, gguf_tensors(model, "llama")))


@pytest.mark.parametrize("kind", CONFIGS)
def test_a_gguf_file_gives_the_model_that_it_was_written_from(kind, cache, tmp_path):
    model = gguf_model(kind)
    path = write_gguf(tmp_path / "tiny.gguf", model, gguf_tensors(model, kind), kind)
    for _ in range(2):
        assert torch.equal(logits(load_model(path).hf), logits(model))


Arrays = dict[str, np.ndarray]

GGUF_PARTLY: dict[str, tuple[str, Callable[[Arrays], Arrays], str]] = {
    "a norm": (
        "llama",
        lambda t: t | {"output_norm.weight": np.ones(96, np.float32)},
        r"model\.norm\.weight .96,. for",
    ),
    "a shape": ("llama", lambda t: t | {"blk.0.ffn_up.weight": t["blk.0.ffn_up.weight"].T}, r"mlp\.up_proj.*48, 64"),
    "values": ("llama", lambda t: _less(t, "blk.1.attn_v.weight"), r"lack 1 .*layers\.1\.self_attn\.v_proj"),
    "embeddings": ("llama", lambda t: _less(t, "token_embd.weight"), r"lack 1 .*embed_tokens"),
    "gates of experts": ("qwen3moe", lambda t: _less(t, "blk.1.ffn_gate_exps.weight"), r"blk\.1\.ffn_gate_exps"),
    "halves of experts": ("qwen3moe", lambda t: _less(t, "blk.0.ffn_up_exps.weight"), r"blk\.0\.ffn_up_exps"),
}


def _less(tensors: Arrays, name: str) -> Arrays:
    return {key: tensor for key, tensor in tensors.items() if key != name}


@pytest.mark.parametrize("case", GGUF_PARTLY)
def test_a_gguf_file_that_lacks_weights_never_enters_the_cache(case, cache, tmp_path):
    kind, change, words = GGUF_PARTLY[case]
    model = gguf_model(kind)
    path = write_gguf(tmp_path / "tiny.gguf", model, change(gguf_tensors(model, kind)), kind)
    for _ in range(2):
        with pytest.raises(ModelError, match=words) as error:
            load_model(path)
        assert "download the file again" in one_line(error)
        assert [path.suffix for path in cache.iterdir()] == [".lock"]


def test_tensors_that_the_reader_drops_are_named_at_every_loading(cache, tmp_path):
    model = gguf_model()
    extra = {"rope_freqs.weight": np.ones(6, np.float32), "blk.0.attn_q.bias": np.ones(48, np.float32)}
    path = write_gguf(tmp_path / "tiny.gguf", model, gguf_tensors(model, "llama") | extra)
    for _ in range(2):
        with pytest.warns(UserWarning, match=r"2 of the tensors .*blk\.0\.attn_q\.bias, rope_freqs\.weight"):
            load_model(path)


def test_what_lies_beside_a_gguf_file_doesn_t_matter(cache, gguf):
    (gguf.path.parent / "adapter_config.json").write_text(
        '{"base_model_name_or_path": "me/other", "peft_type": "LORA"}'
    )
    (gguf.path.parent / "config.json").write_text('{"model_type": "gpt2"}')
    assert torch.equal(logits(load_model(gguf.path).hf), logits(gguf.hf))


def _cut(folder: Path):
    with (folder / SAFETENSORS).open("r+b") as file:
        file.truncate(1000)


def _flip(folder: Path):
    with (folder / SAFETENSORS).open("r+b") as file:
        file.seek(-4, os.SEEK_END)
        file.write(b"\x01\x02\x03\x04")


DAMAGES: dict[str, tuple[str, Callable[[Path], object]]] = {
    "cut short": (SAFETENSORS, _cut),
    "other content": (SAFETENSORS, _flip),
    "emptied": ("tokenizer.json", lambda folder: (folder / "tokenizer.json").write_text("")),
    "lost": ("config.json", lambda folder: (folder / "config.json").unlink()),
    "no record": (RECORD, lambda folder: (folder / RECORD).unlink()),
    "a record of nothing": (RECORD, lambda folder: (folder / RECORD).write_text('{"files": [1]}')),
    "a broken record": (RECORD, lambda folder: (folder / RECORD).write_text('{"files": {')),
    "a folder in place of a file": (SAFETENSORS, lambda folder: _folder_for(folder / SAFETENSORS)),
}


def _folder_for(file: Path):
    file.unlink()
    file.mkdir()


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_conversion_is_named_and_made_anew(damage, cache, gguf):
    folder = converted(gguf.path)
    file, change = DAMAGES[damage]
    change(folder)
    with pytest.warns(UserWarning, match=f"{folder} is damaged: {file}.* is converted again"):
        loaded = load_model(gguf.path)
    assert torch.equal(logits(loaded.hf), logits(gguf.hf))
    # Mended: not a word any more, and nothing is left lying about.
    assert converted(gguf.path) == folder
    assert sorted(path.suffix for path in cache.iterdir()) == ["", ".json", ".lock"]


def test_a_copied_cache_is_as_good(cache, gguf):
    folder = converted(gguf.path)
    for file in folder.iterdir():
        os.utime(file, ns=(0, 0))
    before = (folder / SAFETENSORS).stat()
    assert converted(gguf.path) == folder
    assert (folder / SAFETENSORS).stat().st_ino == before.st_ino


def test_what_an_earlier_version_left_is_made_anew_without_a_word(cache, gguf):
    folder = converted(gguf.path)
    record = json.loads((folder / RECORD).read_text())
    (folder / RECORD).write_text(json.dumps({key: record[key] for key in ("path", "size", "mtime_ns", "sha256")}))
    _cut(folder)
    assert torch.equal(logits(load_model(gguf.path).hf), logits(gguf.hf))
    assert json.loads((folder / RECORD).read_text())["files"].keys() >= {SAFETENSORS, "config.json", "tokenizer.json"}


@pytest.mark.parametrize("found", ["nothing", "an earlier version's"])
def test_converters_side_by_side_convert_once(found, cache, gguf):
    folder = converted(gguf.path)
    if found == "nothing":
        shutil.rmtree(cache)
    else:
        (folder / RECORD).write_text("{}")
    seen: list[tuple[Path, int]] = []
    start = threading.Barrier(4)

    def convert():
        start.wait()
        seen.append((converted(gguf.path), (folder / SAFETENSORS).stat().st_ino))

    threads = [threading.Thread(target=convert) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    # An exception in a thread is a warning and so an error here; one file stands for one conversion.
    assert seen == [seen[0]] * 4
    assert torch.equal(logits(load_model(gguf.path).hf), logits(gguf.hf))
    assert not list(cache.glob(".part-*"))


def test_a_cache_that_can_t_be_written_is_one_clear_line(cache, gguf):
    cache.parent.mkdir()
    cache.write_text("a file in its place")
    with pytest.raises(ModelError, match=r"can't be kept in .*; set NASA_INTERP_CACHE") as error:
        converted(gguf.path)
    one_line(error)


# What is no whole model


def adapted(model: PreTrainedModel):
    lora = get_peft_model(copy.deepcopy(model), LoraConfig(r=2, target_modules=["q_proj"], init_lora_weights=False))
    return lora.eval()


@with_peft
@pytest.mark.parametrize("beside", ["alone", "beside a model"])
def test_an_adapter_is_refused_and_its_way_out_leads_out(beside, tmp_path):
    model = tiny_model("llama")
    lora = adapted(model)
    lora.save_pretrained(tmp_path / "adapter")
    if beside == "beside a model":
        saved(model, tmp_path / "adapter")
    with pytest.raises(ModelError, match=r"holds a PEFT adapter.*merge_and_unload\(\)") as error:
        load_model(tmp_path / "adapter")
    assert str(tmp_path / "adapter") in one_line(error)
    merged = saved(lora.merge_and_unload(), tmp_path / "merged")
    assert not torch.equal(logits(load_model(merged).hf), logits(model))


@with_peft
def test_an_adapter_on_the_hub_is_refused(tmp_path, monkeypatch):
    saved(tiny_model("llama"), tmp_path / "base")
    lora = adapted(tiny_model("llama"))
    lora.peft_config["default"].base_model_name_or_path = str(tmp_path / "base")
    snapshot = tmp_path / "models--me--lora" / "snapshots" / ("0" * 40)
    lora.save_pretrained(snapshot)
    tiny_tokenizer().save_pretrained(snapshot)
    (tmp_path / "models--me--lora" / "refs").mkdir()
    (tmp_path / "models--me--lora" / "refs" / "main").write_text("0" * 40)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(ModelError, match=r"me/lora holds a PEFT adapter.*merge_and_unload\(\)"):
        load_model("me/lora")


@pytest.fixture
def delta(tiny) -> HeadDelta:
    before = {
        piece: tiny.hf.get_parameter(piece.parameter)[list(piece.index)].detach().clone()
        for piece in query_slices(tiny)
    }
    after = tuple(values.detach() + 1 for values in before.values())
    return HeadDelta(tiny.weights_hash(), "tiny", HeadList.of(["0.1"]), tuple(before), tuple(before.values()), after)


def query_slices(model):
    return head_slices(model.hf, 0, 1, "q")


@pytest.mark.parametrize("kind", ["delta", "run", "peft"])
def test_a_change_of_heads_is_refused_with_the_way_out(kind, delta, tiny, tmp_path):
    folder = tmp_path / "changed"
    if kind == "run":
        delta.save(folder / "delta.safetensors")
    else:
        export(tiny, delta, folder, format=kind, verify=False)
    way_out = "merge_and_unload" if kind == "peft" else r"HeadDelta\.load.*nasa-interp export .*--format hf"
    with pytest.raises(ModelError, match=way_out) as error:
        load_model(folder)
    assert str(folder) in one_line(error)


@pytest.mark.parametrize("name", [SAFETENSORS, "config.json"])
def test_a_file_of_a_model_folder_is_refused(name, tmp_path):
    folder = saved(tiny_model("llama"), tmp_path / "tiny")
    with pytest.raises(ModelError, match=f"{name} is a file and not a .gguf file; give the folder"):
        load_model(folder / name)


# Weights that don't fit into memory


@pytest.fixture
def no_memory(monkeypatch):
    """As where accelerate finds no device with room for a single layer."""
    monkeypatch.setattr("transformers.integrations.accelerate.get_balanced_memory", lambda *_, **__: {"cpu": 0})


@pytest.mark.filterwarnings("ignore:answer mass under 0.5")
@pytest.mark.parametrize("family", ["llama", "llama_tied", "gpt2"])
def test_a_model_that_lies_on_disk_decides_the_same(family, no_memory, tmp_path):
    folder = saved(tiny_model(family), tmp_path / "tiny")
    model = load_model(folder, device="auto")
    assert all(parameter.is_meta for parameter in model.hf.parameters())
    assert torch.equal(logits(model.hf), logits(tiny_model(family)))
    found, expected = (
        decide(each, QUESTIONS, progress=False).logit_differences for each in (model, load_model(folder, "cpu"))
    )
    assert np.array_equal(found, expected)


@pytest.mark.parametrize("case", ["data parallel", "one tensor"])
def test_a_partly_loaded_model_on_disk_is_refused(case, no_memory, tmp_path):
    family, change, words = PARTLY[case]
    folder = rewritten(saved(tiny_model(family), tmp_path / "tiny"), change)
    with pytest.raises(ModelError, match=words[1]):
        load_model(folder, device="auto")


def test_weights_that_must_be_written_to_disk_anew_are_refused_with_the_way_out(no_memory, tmp_path):
    folder = saved(tiny_model("mixtral"), tmp_path / "tiny")
    with pytest.raises(ModelError, match=r"give a folder with room for them: offload_folder=FOLDER") as error:
        load_model(folder, device="auto")
    one_line(error)
