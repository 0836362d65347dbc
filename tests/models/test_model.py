"""Loading: the embedded model, folders, GGUF files, what the user already has; and what can't be loaded."""

import copy
import time

import pytest
import torch
from families import tiny_model, tiny_tokenizer

from nasa_interp import load_model
from nasa_interp.errors import ModelError
from nasa_interp.models.bridge import build_bridge
from nasa_interp.models.gguf import converted
from nasa_interp.models.loading import demo_file


@pytest.fixture
def folder(tmp_path):
    tiny_model("llama").save_pretrained(tmp_path / "tiny")
    tiny_tokenizer().save_pretrained(tmp_path / "tiny")
    return tmp_path / "tiny"


def test_a_folder_loads_with_its_tokenizer(folder):
    model = load_model(folder)
    assert (model.n_layers, model.n_heads) == (2, 4)
    assert model.tokenizer.chat_template
    assert model.dtype == torch.float32
    assert not model.hf.training


@pytest.mark.parametrize("dtype", ["bfloat16", "bf16", torch.bfloat16])
def test_dtype_by_name_or_value(folder, dtype):
    assert load_model(folder, dtype=dtype).dtype == torch.bfloat16


def test_unknown_dtype_is_refused(folder):
    with pytest.raises(ModelError, match="dtype 'int8' is unknown"):
        load_model(folder, dtype="int8")


@pytest.mark.parametrize("name", ["./nowhere", "/nowhere", "nowhere.gguf"])
def test_a_missing_path_is_one_clear_line(name):
    with pytest.raises(ModelError) as error:
        load_model(name)
    assert "nowhere" in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("size", [0, 100, 10_000, 5_000_000])
@pytest.mark.parametrize("kind", ["cut", "random"])
def test_a_gguf_file_cut_short_or_of_random_bytes_is_refused(tmp_path, monkeypatch, kind, size):
    monkeypatch.setenv("NASA_INTERP_CACHE", str(tmp_path / "cache"))
    with demo_file().open("rb") as file:
        content = file.read(size)
    if kind == "random":
        content = torch.randint(0, 256, (size,), dtype=torch.uint8, generator=torch.Generator()).numpy().tobytes()
    path = tmp_path / "broken.gguf"
    path.write_bytes(content)
    with pytest.raises(ModelError, match=r"broken\.gguf") as error:
        load_model(path)
    assert "\n" not in str(error.value)
    assert not list(tmp_path.glob("cache/**/model.safetensors"))


def test_the_embedded_model_is_converted_once(demo):
    first = converted(demo_file())
    modified = (first / "model.safetensors").stat().st_mtime_ns
    start = time.perf_counter()
    again = load_model("demo")
    assert converted(demo_file()) == first
    assert (first / "model.safetensors").stat().st_mtime_ns == modified
    assert again.weights_hash() == demo.weights_hash()
    # Not a benchmark: a conversion takes 15 s and more.
    assert time.perf_counter() - start < 15


def test_a_transformers_model_needs_its_tokenizer():
    model = tiny_model("llama")
    with pytest.raises(ModelError, match="tokenizer=tokenizer"):
        load_model(model)
    assert load_model(model, tokenizer=tiny_tokenizer()).hf is model


def test_a_bridge_is_accepted_as_it_is():
    hf, tokenizer = tiny_model("llama"), tiny_tokenizer()
    bridge = build_bridge(hf, tokenizer, "mine")
    model = load_model(bridge)
    assert model.bridge is bridge
    assert (model.n_layers, model.n_heads) == (2, 4)
    assert {id(p) for p in model.hf.parameters()} <= {id(p) for p in bridge.original_model.parameters()}
    tokens = torch.arange(5, 20)[None]
    mask = torch.ones_like(tokens, dtype=torch.bool)
    plain = load_model(hf, tokenizer=tokenizer).answer_logits(tokens, mask)
    assert torch.allclose(model.answer_logits(tokens, mask), plain, atol=1e-4)


def test_anything_else_is_refused():
    with pytest.raises(ModelError, match="dict is not a model"):
        load_model({})


def test_the_views_share_their_weights_and_the_plain_one_is_left_alone(tiny):
    hf = copy.deepcopy(tiny.hf)
    model = load_model(hf, tokenizer=tiny.tokenizer)
    keys, implementation = list(hf.state_dict()), hf.config._attn_implementation
    tokens = torch.arange(5, 20)[None]
    with torch.no_grad():
        before = hf(tokens).logits
        assert torch.allclose(model.bridge(tokens), before, atol=1e-4)
        hf.model.layers[1].self_attn.q_proj.weight[:8] = 0
        edited = model.hf(tokens).logits
        assert not torch.allclose(edited, before, atol=1e-3)
        assert torch.allclose(model.bridge(tokens), edited, atol=1e-4)
    assert list(hf.state_dict()) == keys
    assert hf.config._attn_implementation == implementation
    assert all(a is b for a, b in zip(hf.parameters(), model.bridge.original_model.parameters(), strict=True))


def test_the_weights_hash_sees_one_changed_entry(tiny):
    model = load_model(copy.deepcopy(tiny.hf), tokenizer=tiny.tokenizer)
    before = model.weights_hash()
    assert before == tiny.weights_hash()
    with torch.no_grad():
        model.hf.get_input_embeddings().weight[0, 0] += 1
    assert model.weights_hash() != before
