"""Every call asks the model as it is now, of the data in front of it, and its result says what these were."""

import copy
from contextlib import contextmanager

import numpy as np
import pytest
import torch
from families import tiny_model, tiny_tokenizer
from plain_pass import assert_true, plain_differences
from scoring_loop import assert_agrees, loop_scores

import nasa_interp as ni
from nasa_interp import PromptStyle, build_prompts, decide, load_model, load_questions, score_heads
from nasa_interp.errors import ModelError, PromptError, QuestionError
from nasa_interp.questions.resolve import resolve_questions
from nasa_interp.scoring.fused import score_fused
from nasa_interp.session import resolve_prompts

pytestmark = pytest.mark.filterwarnings("ignore:answer mass")


@pytest.fixture
def model():
    """A model of its own for each test, as tests change it."""
    return load_model(tiny_model("llama"), tokenizer=tiny_tokenizer())


@contextmanager
def hooked(handle):
    yield
    handle.remove()


def double(module, inputs, output):
    return (output[0] * 2, *output[1:]) if isinstance(output, tuple) else output * 2


def double_input(module, inputs):
    return (inputs[0] * 2, *inputs[1:])


@contextmanager
def scaled_weight(hf, name, through_data):
    weight = hf.get_parameter(name)
    old = weight.detach().clone()
    with torch.no_grad():
        (weight.data if through_data else weight).mul_(2)
    yield
    with torch.no_grad():
        weight.copy_(old)


@contextmanager
def attribute(owner, name, value):
    old = getattr(owner, name)
    setattr(owner, name, value)
    yield
    setattr(owner, name, old)


@contextmanager
def item(owner, place, value):
    old = owner[place]
    owner[place] = value
    yield
    owner[place] = old


CHANGES = {
    "a hook on a layer": lambda hf: hooked(hf.model.layers[0].register_forward_hook(double)),
    "a hook before a layer": lambda hf: hooked(hf.model.layers[1].register_forward_pre_hook(double_input)),
    "a hook on attention": lambda hf: hooked(hf.model.layers[1].self_attn.register_forward_hook(double)),
    "a hook on the embedding": lambda hf: hooked(hf.model.embed_tokens.register_forward_hook(double)),
    "a hook on the unembedding": lambda hf: hooked(hf.lm_head.register_forward_hook(double)),
    "a hook on queries": lambda hf: hooked(hf.model.layers[0].self_attn.q_proj.register_forward_hook(double)),
    "weights edited": lambda hf: scaled_weight(hf, "model.layers.0.self_attn.q_proj.weight", False),
    "weights edited through .data": lambda hf: scaled_weight(hf, "model.layers.1.mlp.up_proj.weight", True),
    "an attribute": lambda hf: attribute(hf.model.layers[0].self_attn, "scaling", 1.0),
    "another layer": lambda hf: item(hf.model.layers, 0, copy.deepcopy(hf.model.layers[1])),
    "frequencies": lambda hf: attribute(hf.model.rotary_emb, "attention_scaling", 2.0),
    "another attention": lambda hf: attribute(hf.config, "_attn_implementation_internal", "eager"),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_changed_model_is_asked_anew(model, questions, change):
    prompts = build_prompts(model, questions)
    options = {"order": "yes_no", "draws": 10, "progress": False}
    before = decide(model, questions, **options)
    assert_true(before.logit_differences, model.hf, prompts)
    with CHANGES[change](model.hf):
        changed = decide(model, questions, **options)
        assert_true(changed.logit_differences, model.hf, prompts)
    # Another implementation of the same attention is the one change that changes no answer.
    moved = np.abs(changed.logit_differences - before.logit_differences).max()
    assert (moved > 1e-2) == (change != "another attention")
    after = decide(model, questions, **options)
    assert np.array_equal(after.logit_differences, before.logit_differences)


@pytest.mark.parametrize("change", ["frequencies", "a hook on queries", "weights edited", "an attribute"])
def test_a_changed_model_is_scored_anew(model, questions, change):
    prompts = build_prompts(model, questions)
    before = score_heads(model, questions, engine="fused", draws=10, progress=False)
    with CHANGES[change](model.hf):
        found = score_fused(model, prompts, progress=False)[0]
        with CHANGES["another attention"](model.hf):
            expected = loop_scores(model.hf, prompts, eager=model.hf)
    assert_agrees(found, *expected)
    again = score_heads(model, questions, engine="fused", draws=10, progress=False)
    assert np.array_equal(again.values, before.values)
    assert (np.abs(found.mean(0).numpy() - before.values) > 1e-2).any()


@pytest.mark.parametrize("change", ["a hook on a layer", "a hook on queries", "an attribute"])
def test_the_hooked_view_refuses_what_it_does_not_run(model, questions, change):
    score_heads(model, questions, engine="hooked", draws=10, progress=False)
    prompts = build_prompts(model, questions[:1])
    with CHANGES[change](model.hf):
        says = "hooks on model.layers" if "hook" in change else "computes other logits"
        for ask in (
            lambda: score_heads(model, questions, engine="hooked", draws=10, progress=False),
            lambda: ni.attention_patterns(model, prompts, ["1.1"]),
            lambda: ni.view_heads(model, questions[0], ["1.1"]),
        ):
            with pytest.raises(ModelError, match=says):
                ask()
    score_heads(model, questions, engine="hooked", draws=10, progress=False)


def test_hooks_on_the_bridge_are_refused_as_the_plain_view_has_none(model, questions):
    decide(model, questions, draws=10, progress=False)
    model.bridge.add_hook("blocks.0.hook_resid_pre", lambda value, hook: value * 2)
    for ask in (decide, score_heads):
        with pytest.raises(ModelError, match="hooks on its bridge"):
            ask(model, questions, draws=10, progress=False)
    model.bridge.reset_hooks()
    decide(model, questions, draws=10, progress=False)


@pytest.mark.parametrize("part", [lambda b: b.blocks[0], lambda b: b.original_model.model.layers[1], lambda b: b])
def test_hooks_on_the_bridges_modules_are_refused_too(model, questions, part):
    handle = part(model.bridge).register_forward_hook(lambda module, inputs, output: output)
    with pytest.raises(ModelError, match="hooks on its bridge"):
        decide(model, questions, draws=10, progress=False)
    handle.remove()
    decide(model, questions, draws=10, progress=False)


def test_a_handed_over_bridge_says_only_what_the_user_hung_on_it(model, questions):
    bridge = load_model(model.bridge)
    assert decide(bridge, questions, draws=10, progress=False).run.notes == (
        "handed over as a bridge, run on its plain view: the same weights",
    )
    bridge.bridge.add_hook("blocks.0.hook_resid_pre", lambda value, hook: value)
    assert "hooks of the user's on blocks.0" in str(decide(bridge, questions, draws=10, progress=False).run.notes)


def test_an_ablator_refuses_a_model_that_was_changed_since(model, questions):
    ablator = ni.interventions.Ablator(model, questions, draws=10, progress=False)
    ablator.effect(["1.1"])
    for change in ("weights edited through .data", "a hook on a layer"):
        with CHANGES[change](model.hf), pytest.raises(ModelError, match="was changed since it was asked"):
            ablator.effect(["1.1"])
    ablator.effect(["1.1"])


def test_hooks_of_the_users_are_in_the_runs_details(model, questions):
    with CHANGES["a hook on a layer"](model.hf):
        report = decide(model, questions, draws=10, progress=False)
    assert "hooks of the user's on model.layers.0" in report.run.notes
    assert not decide(model, questions, draws=10, progress=False).run.notes


@pytest.mark.parametrize("family", ["gpt_neox", "falcon", "falcon_multi_query", "llama"])
@pytest.mark.parametrize("through_data", [False, True])
def test_the_weights_hash_sees_edits_through_both_views(questions, family, through_data):
    model = load_model(tiny_model(family), tokenizer=tiny_tokenizer())
    attention = model.bridge.blocks[0].attn
    hashes = [model.weights_hash()]
    for part in (attention.q.original_component.weight, next(iter(model.hf.parameters()))):
        with torch.no_grad():
            (part.data if through_data else part).mul_(2)
        hashes.append(model.weights_hash())
        assert decide(model, questions, draws=10, progress=False).run.model_hash == hashes[-1]
    assert len(set(hashes)) == 3
    assert model.weights_hash() == hashes[-1]


def test_prompts_that_are_handed_over_say_what_they_are(model, tmp_path):
    style = PromptStyle(instruction="Reply {first} or {second}.", kind="plain")
    questions = load_questions("builtin:verify#val", limit=4)
    prompts = [build_prompts(model, questions, order, style) for order in ("yes_no", "no_yes")]
    options = {"draws": 10, "progress": False}
    found = [decide(model, prompts, **options).run, score_heads(model, prompts, **options).run]
    found += [
        ni.attribution.estimate_zero_ablation(model, prompts, draws=10).run,
        ni.interventions.Mean.over(model, prompts).run,
    ]
    found += [ni.ablation_effect(model, prompts, ["1.1"], **options).changed.run]
    for run in found:
        assert run.data == "builtin:verify#val"
        assert run.template["instruction"] == "Reply {first} or {second}."
        assert run.template["kind"] == "plain"
        assert run.orders == ("yes_no", "no_yes")
    assert np.allclose(
        decide(model, prompts, **options).logit_differences,
        decide(model, questions, style=style, **options).logit_differences,
    )


def test_batches_that_do_not_belong_together_are_refused(model, questions):
    one, other = build_prompts(model, questions[:3]), build_prompts(model, questions[3:], "no_yes")
    with pytest.raises(PromptError, match="ask different questions"):
        decide(model, [one, other])
    with pytest.raises(PromptError, match="two batches have the order 'yes_no'"):
        decide(model, [one, one])


def test_an_ablator_notices_what_no_hash_and_no_note_tells(model, questions):
    ablator = ni.interventions.Ablator(model, questions, draws=10, progress=False)
    model.hf.model.rotary_emb.inv_freq.mul_(0.5)
    with pytest.raises(ModelError, match="was changed since"):
        ablator.effect(["1.1"])


@pytest.mark.parametrize("change", ["all modules", "a forward"])
def test_what_else_acts_on_a_model_is_in_the_notes(model, questions, change):
    mlp = model.hf.model.layers[0].mlp
    if change == "a forward":
        mlp.forward = type(mlp).forward.__get__(mlp)
        assert "forward replaced in model.layers.0.mlp" in decide(model, questions, draws=10, progress=False).run.notes
        return
    handle = torch.nn.modules.module.register_module_forward_hook(lambda module, inputs, output: None)
    try:
        assert "hooks of the user's on all modules" in decide(model, questions, draws=10, progress=False).run.notes
    finally:
        handle.remove()


def test_a_replaced_parameter_of_the_bridge_is_refused(model, questions):
    part = model.bridge.blocks[0].attn.q.original_component
    part.weight = torch.nn.Parameter(part.weight.detach() * 0)
    with pytest.raises(ModelError, match="was replaced, which its plain view doesn't see"):
        decide(model, questions, draws=10, progress=False)


def test_prompts_of_another_tokenizer_are_refused(model, questions):
    other = tiny_tokenizer(chat=False)
    other.chat_template = tiny_tokenizer().chat_template
    other.add_tokens(["You", "answer"])
    prompts = build_prompts(other, questions)
    with pytest.raises(PromptError, match="other tokens than LlamaForCausalLM's tokenizer gives"):
        decide(model, prompts, draws=10, progress=False)


def test_a_token_outside_the_embeddings_is_named(questions):
    tokenizer = tiny_tokenizer()
    tokenizer.add_tokens(["ball"])
    model = load_model(tiny_model("llama"), tokenizer=tokenizer)
    with pytest.raises(PromptError, match="question 'a' holds token 600, and the model has 600 embeddings"):
        decide(model, questions, draws=10, progress=False)


def test_batches_of_several_styles_and_a_limit_on_prompts_are_refused(model, questions):
    one, other = build_prompts(model, questions), build_prompts(model, questions, "no_yes", PromptStyle(kind="plain"))
    with pytest.raises(PromptError, match="different styles"):
        decide(model, [one, other])
    with pytest.raises(PromptError, match="a limit of 2 doesn't apply"):
        decide(model, one, limit=2)


def test_what_is_no_data_is_refused():
    with pytest.raises(QuestionError, match="int is not data"):
        resolve_questions(7)


@pytest.mark.parametrize(
    "ask", [decide, score_heads, ni.attribution.estimate_zero_ablation, ni.evaluation.decide_by_generation]
)
def test_a_batch_of_no_prompts_is_refused(model, questions, ask):
    with pytest.raises(PromptError, match="batch_size"):
        ask(model, questions, batch_size=-1, progress=False)


def test_a_negative_seed_is_refused(model, questions):
    with pytest.raises(QuestionError, match="seed -1"):
        resolve_prompts(model, questions, "both", None, seed=-1)


def test_pads_change_nothing(model, questions):
    from dataclasses import replace

    prompts = build_prompts(model, questions)
    noise = torch.randint(5, 400, prompts.tokens.shape, generator=torch.Generator().manual_seed(0))
    noisy = replace(prompts, tokens=torch.where(prompts.mask, prompts.tokens, noise))
    d = decide(model, noisy, draws=10, progress=False).logit_differences
    assert np.array_equal(d, decide(model, prompts, draws=10, progress=False).logit_differences)
    assert np.abs(d - plain_differences(model.hf, prompts)[0]).max() < 1e-3
