"""A model in a state in which a run would mean something else is refused, by every verb and at every call."""

import numpy as np
import peft
import pytest
import torch
from families import tiny_model, tiny_tokenizer
from plain_pass import assert_true

import nasa_interp as ni
from nasa_interp import Recipe, build_prompts, decide, load_model
from nasa_interp.doctor import diagnose
from nasa_interp.errors import ModelError
from nasa_interp.scoring.fused import score_fused

pytestmark = [
    pytest.mark.filterwarnings("ignore:answer mass"),
    # PEFT asks transformers for a deprecated attribute.
    pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning"),
]
QUIET = {"draws": 10, "progress": False}


def with_dropout():
    model = tiny_model("gpt2")
    for part in model.modules():
        if isinstance(part, torch.nn.Dropout):
            part.p = 0.5
    return model


def align(model, questions):
    recipe = Recipe(steps=1, check_every=1, questions=2, probe_questions=None, val_questions=None)
    return ni.align_heads(model, ["1.1"], questions[:2], questions[2:4], recipe=recipe, texts=["a b c"], progress=False)


VERBS = {
    "decide": lambda m, q: decide(m, q, **QUIET),
    "generate": lambda m, q: ni.evaluation.decide_by_generation(m, q, progress=False),
    "score": lambda m, q: ni.score_heads(m, q, engine="fused", **QUIET),
    "score hooked": lambda m, q: ni.score_heads(m, q, engine="hooked", **QUIET),
    "patterns": lambda m, q: ni.attention_patterns(m, build_prompts(m, q), ["1.1"]),
    "view": lambda m, q: ni.view_heads(m, q[0], ["1.1"]),
    "ablate": lambda m, q: ni.ablation_effect(m, q, ["1.1"], **QUIET),
    "sweep": lambda m, q: ni.interventions.sweep_heads(m, build_prompts(m, q)),
    "estimate": lambda m, q: ni.attribution.estimate_zero_ablation(m, q, draws=10),
    "attribute": lambda m, q: ni.attribution.direct_logit_attribution(m, q, draws=10),
    "align": align,
}

MODES = {
    "the whole model": lambda hf: hf.train(),
    "one layer": lambda hf: hf.transformer.h[1].train(),
    "one attention": lambda hf: hf.transformer.h[0].attn.train(),
    "one dropout": lambda hf: hf.transformer.h[0].mlp.dropout.train(),
    "the embedding's dropout": lambda hf: hf.transformer.drop.train(),
}


@pytest.mark.parametrize("verb", VERBS)
def test_training_mode_is_refused_whatever_runs(questions, verb):
    model = load_model(with_dropout(), tokenizer=tiny_tokenizer())
    model.hf.train()
    with pytest.raises(ModelError, match=r"training mode, where dropout is random; call model.eval\(\)"):
        VERBS[verb](model, questions)
    model.hf.eval()
    if verb != "align":
        VERBS[verb](model, questions)


@pytest.mark.parametrize("mode", MODES)
def test_any_part_in_training_mode_is_named(questions, mode):
    model = load_model(with_dropout(), tokenizer=tiny_tokenizer())
    before = decide(model, questions, **QUIET).logit_differences
    MODES[mode](model.hf)
    with pytest.raises(ModelError, match="training mode"):
        decide(model, questions, **QUIET)
    with pytest.raises(ModelError, match="training mode"):
        decide(load_model(model.hf, tokenizer=tiny_tokenizer()), questions, **QUIET)
    model.hf.eval()
    assert np.array_equal(decide(model, questions, **QUIET).logit_differences, before)


ADAPTERS = {
    "prompt tuning": lambda: peft.PromptTuningConfig(num_virtual_tokens=5, task_type="CAUSAL_LM"),
    "prefix tuning": lambda: peft.PrefixTuningConfig(num_virtual_tokens=5, task_type="CAUSAL_LM"),
    "p-tuning": lambda: peft.PromptEncoderConfig(num_virtual_tokens=5, encoder_hidden_size=16, task_type="CAUSAL_LM"),
    "adaption prompt": lambda: peft.AdaptionPromptConfig(adapter_len=4, adapter_layers=1, task_type="CAUSAL_LM"),
    "IA3": lambda: peft.IA3Config(target_modules=["k_proj", "v_proj"], feedforward_modules=[], task_type="CAUSAL_LM"),
    "LoHa": lambda: peft.LoHaConfig(r=2, target_modules=["q_proj"], task_type="CAUSAL_LM"),
    "LoKr": lambda: peft.LoKrConfig(r=2, target_modules=["q_proj"], task_type="CAUSAL_LM"),
    "OFT": lambda: peft.OFTConfig(target_modules=["q_proj"], oft_block_size=4, task_type="CAUSAL_LM"),
    "VeRA": lambda: peft.VeraConfig(r=2, target_modules=["o_proj"], task_type="CAUSAL_LM"),
}


@pytest.mark.parametrize("kind", ADAPTERS)
def test_adapters_of_other_kinds_are_refused_with_the_way_out(kind):
    adapted = peft.get_peft_model(tiny_model("llama"), ADAPTERS[kind]()).eval()
    with pytest.raises(ModelError, match="merge_and_unload"):
        load_model(adapted, tokenizer=tiny_tokenizer())


@pytest.mark.parametrize("kind", ["IA3", "LoHa", "LoKr", "OFT"])
def test_layers_injected_into_the_model_itself_are_refused_at_every_run(questions, kind):
    model = load_model(tiny_model("llama"), tokenizer=tiny_tokenizer())
    decide(model, questions, **QUIET)
    peft.inject_adapter_in_model(ADAPTERS[kind](), model.hf)
    model.hf.eval()
    with pytest.raises(ModelError, match="adapter of another kind than LoRA"):
        decide(model, questions, **QUIET)


def test_an_activated_lora_is_refused():
    config = peft.LoraConfig(r=2, target_modules=["q_proj"], task_type="CAUSAL_LM", alora_invocation_tokens=[5, 6])
    adapted = peft.get_peft_model(tiny_model("llama"), config).eval()
    with pytest.raises(ModelError, match="acts on some tokens only"):
        load_model(adapted, tokenizer=tiny_tokenizer())


def lora(**changes):
    """A tiny Llama with LoRA layers that do something."""
    settings = {"r": 2, "target_modules": ["q_proj", "v_proj", "up_proj"], "init_lora_weights": False}
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return peft.get_peft_model(tiny_model("llama"), peft.LoraConfig(**settings | changes, task_type="CAUSAL_LM"))


@pytest.mark.parametrize(
    "changes",
    [{}, {"use_dora": True}, {"use_rslora": True}, {"lora_bias": True, "target_modules": ["q_proj"]}],
    ids=str,
)
def test_a_lora_decides_scores_and_ablates_as_it_is(questions, changes):
    adapted = lora(**changes).eval()
    model = load_model(adapted, tokenizer=tiny_tokenizer())
    prompts = build_prompts(model, questions)
    found = decide(model, questions, "yes_no", **QUIET)
    assert_true(found.logit_differences, adapted, prompts)
    assert "LoRA adapters default active, scaled by" in str(found.run.notes)
    with adapted.disable_adapter():
        off = decide(model, questions, "yes_no", **QUIET)
        assert_true(off.logit_differences, adapted, prompts)
        assert "LoRA adapters default switched off" in str(off.run.notes)
    assert np.abs(off.logit_differences - found.logit_differences).max() > 0.1
    assert_true(off.logit_differences, tiny_model("llama"), prompts)
    scores, _ = score_fused(model, prompts, progress=False)
    effect = ni.ablation_effect(model, questions, ["1.1", "0.2"], order="yes_no", **QUIET)
    merged = load_model(adapted.merge_and_unload(), tokenizer=tiny_tokenizer())
    assert_true(found.logit_differences, merged.hf, prompts, 2e-4)
    assert torch.allclose(scores, score_fused(merged, prompts, progress=False)[0], rtol=1e-3, atol=1e-3)
    other = ni.ablation_effect(merged, questions, ["1.1", "0.2"], order="yes_no", **QUIET)
    assert np.allclose(effect.changed.logit_differences, other.changed.logit_differences, rtol=1e-3, atol=1e-2)


def test_a_lora_is_refused_for_tuning(questions):
    model = load_model(lora().eval(), tokenizer=tiny_tokenizer())
    with pytest.raises(ModelError, match=r"holds LoRA adapters.*merge_and_unload"):
        align(model, questions)
    assert "LoRA adapters" in (diagnose(model).tuning or "")


def test_dropout_of_a_lora_in_training_mode_is_refused(questions):
    model = load_model(lora(lora_dropout=0.5).eval(), tokenizer=tiny_tokenizer())
    decide(model, questions, **QUIET)
    model.hf.model.layers[0].self_attn.q_proj.lora_dropout.train()
    with pytest.raises(ModelError, match="training mode"):
        decide(model, questions, **QUIET)


WRAPPED = {
    "compiled": torch.compile,
    "data parallel": torch.nn.DataParallel,
    "a list": lambda hf: [hf],
    "its decoder": lambda hf: hf.model,
    "a plain module": lambda hf: torch.nn.Sequential(hf),
}


@pytest.mark.filterwarnings("ignore:.*script_method:DeprecationWarning")
@pytest.mark.parametrize("kind", WRAPPED)
def test_what_is_no_plain_model_is_refused(kind):
    with pytest.raises(ModelError, match=r"hand over the model inside|is not a model|no language-model head"):
        load_model(WRAPPED[kind](tiny_model("llama")), tokenizer=tiny_tokenizer())


def test_hooks_on_a_peft_wrapper_are_refused():
    adapted = lora().eval()
    adapted.register_forward_hook(lambda module, inputs, output: output)
    with pytest.raises(ModelError, match="hooks on a PeftModel don't act"):
        load_model(adapted, tokenizer=tiny_tokenizer())


def test_hooks_that_come_later_on_a_peft_wrapper_are_refused(questions):
    adapted = lora().eval()
    model = load_model(adapted, tokenizer=tiny_tokenizer())
    handle = adapted.register_forward_hook(lambda module, inputs, output: output)
    with pytest.raises(ModelError, match="hooks on a PeftModel don't act"):
        decide(model, questions, **QUIET)
    handle.remove()
    decide(model, questions, **QUIET)
