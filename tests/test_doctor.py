"""What the doctor finds in tiny models whose peculiarities are known."""

import json
import math

import pytest
import torch
from families import ENGINE_REFUSES, LAYER_WINDOWS, SUPPORTED, WINDOW, tiny_model, tiny_tokenizer

from nasa_interp.doctor import Diagnosis, diagnose, tuning_refusal
from nasa_interp.errors import ModelError
from nasa_interp.models import load_model
from nasa_interp.models.slices import group_of
from nasa_interp.scoring import fused


def doctored(family: str, **changes) -> Diagnosis:
    model = tiny_model(family)
    for name, value in changes.items():
        setattr(model, name, value)
    return diagnose(load_model(model, tokenizer=tiny_tokenizer()))


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.mark.parametrize("family", SUPPORTED)
def test_it_says_what_the_family_is_and_which_engine_is_exact(family):
    found = doctored(family)
    assert found.ok
    for engine in ("fused", "hooked"):
        words, reason = ENGINE_REFUSES.get((family, engine)), found.engines[engine]
        assert reason is None if words is None else words in (reason or "")
    assert found.engine == ("hooked" if (family, "fused") in ENGINE_REFUSES else "fused")
    assert found.windows == list(LAYER_WINDOWS.get(family, (None, None)))
    assert found.group_sizes == [len(group_of(tiny_model(family), layer, 0)) for layer in range(found.n_layers)]
    assert math.isnan(found.fused_off) if found.engine == "hooked" else 0 < found.fused_off <= 1e-4
    assert found.check is not None
    assert found.check.problem is None
    assert found.tuning is None
    assert (found.no_token, found.yes_token) == ("No", "Yes")
    assert 0 < found.answer_mass < 1


def test_each_line_is_one_fact():
    lines = {line[:13].strip(): line[13:] for line in doctored("mistral").text().splitlines()}
    assert lines["model"] == "MistralForCausalLM (MistralForCausalLM), float32 on cpu"
    assert lines["heads"] == "2 layers x 4 heads"
    assert lines["groups"] == "2 heads share a key and a value"
    assert lines["windows"] == f"2 of 2 layers look back {WINDOW} keys"
    assert (lines["fused"], lines["hooked"], lines["engine"]) == ("exact", "exact", "fused")
    assert lines["tuning"] == "possible"
    assert lines["prompts"] == "chat; compares 'No' with 'Yes'"
    assert {"hook check", "fused check", "answer mass", "memory"} <= set(lines)


def test_it_is_plain_json():
    found = json.loads(json.dumps(doctored("gpt2").to_dict()))
    assert (found["engine"], found["ok"], found["group_sizes"]) == ("fused", True, [1, 1])
    assert json.loads(json.dumps(doctored("gptj").to_dict()))["fused_off"] is None


def test_soft_caps_are_named():
    assert (doctored("gemma2").engines["fused"] or "").startswith("scores are soft-capped at 2: ")


def test_sinks_are_refused_by_both_engines():
    found = doctored("gpt_oss")
    assert not found.ok
    assert (found.engines["fused"] or "").startswith("attention sinks")
    assert "attention sinks" in (found.engines["hooked"] or "")
    assert "none: the model can't be scored" in found.text()


@pytest.mark.parametrize(
    ("family", "words"), [("t5", "encoder and a decoder"), ("mamba", "recurrent layers"), ("lfm2", "kind 'conv'")]
)
def test_models_without_heads_are_refused_in_one_line(family, words):
    with pytest.raises(ModelError, match=words) as caught:
        doctored(family)
    assert "\n" not in str(caught.value)


def test_a_quantized_base_is_scored_and_not_tuned():
    found = doctored("llama", is_quantized=True)
    assert found.ok
    assert "quantized" in (found.tuning or "")


def test_attention_of_an_unknown_layout_is_not_tuned():
    model = tiny_model("llama")
    model.model.layers[1].self_attn.q_proj = torch.nn.Linear(48, 96)
    assert "can't tell heads" in (tuning_refusal(load_model(model, tokenizer=tiny_tokenizer())) or "")


def test_norms_over_all_heads_are_noted():
    assert any("normed over all heads" in note for note in doctored("olmo2").notes)
    assert not doctored("qwen3").notes


def test_fused_scores_that_are_off_are_refused(monkeypatch):
    read = fused._score
    monkeypatch.setattr(fused, "_score", lambda *args: tuple(part * 1.01 for part in read(*args)))
    found = doctored("llama")
    assert found.engine == "hooked"
    assert "off those of plain eager attention" in (found.engines["fused"] or "")


def test_a_plain_model_that_is_not_its_own_eager_self_is_refused():
    """As with Falcon's ALiBi in transformers, whose SDPA attention computes something else than its eager one."""
    model = tiny_model("llama")
    unembed = model.lm_head.forward
    model.lm_head.forward = lambda hidden: unembed(hidden) + torch.arange(600) % 7
    found = diagnose(load_model(model, tokenizer=tiny_tokenizer()))
    assert 'attn_implementation="eager"' in (found.engines["hooked"] or "")


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("family", ["llama", "olmo2", "falcon", "mistral"])
def test_roundings_of_narrow_dtypes_are_no_problem(family, dtype):
    found = diagnose(load_model(tiny_model(family).to(dtype), tokenizer=tiny_tokenizer()))
    assert found.engines["hooked"] is None
    assert found.engines["fused"] is None or family == "falcon"


def test_a_handed_over_bridge_runs_on_its_plain_view_or_hooked_where_the_user_hung_hooks():
    bridge = load_model(tiny_model("llama"), tokenizer=tiny_tokenizer()).bridge
    found = diagnose(load_model(bridge))
    assert (found.engine, found.tuning) == ("fused", None)
    assert "handed over as a bridge, run on its plain view: the same weights" in found.notes
    bridge.add_hook("blocks.0.hook_resid_pre", lambda value, hook: value)
    found = diagnose(load_model(bridge))
    assert (found.engine, found.tuning) == ("hooked", None)
    assert "hooks of the user's" in (found.engines["fused"] or "")
    assert "no plain view to compare with" in found.text()
