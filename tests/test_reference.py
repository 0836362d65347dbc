"""Fused computations are held to the plain model: what changes an answer is noticed, and then not returned."""

import numpy as np
import pytest
import torch
import transformers
from families import ENGINE_REFUSES, QUESTIONS, SUPPORTED, grouped, tiny_model, tiny_tokenizer, token_settings
from plain_pass import assert_true, plain_differences
from scoring_loop import assert_agrees, loop_scores

import nasa_interp as ni
from nasa_interp import BinaryQuestion, Recipe, build_prompts, decide, forward, load_model, score_heads
from nasa_interp.attention import instrumented
from nasa_interp.decisions import asking
from nasa_interp.doctor import diagnose
from nasa_interp.errors import FusedRefusedError, ModelError
from nasa_interp.forward import fused_refusal
from nasa_interp.models import positions
from nasa_interp.reference import PlainReference, agreement, check_plain, reference_order

pytestmark = pytest.mark.filterwarnings("ignore:answer mass", "ignore:scored with the hooked engine")
QUIET = {"draws": 10, "progress": False}
SWITCH = 64

LENGTHS = (1, 3, 10, 20, 40, 60, 81)
LONG = [BinaryQuestion("Is it so? " + "word " * n, n % 2 == 0, str(n), "long") for n in LENGTHS]
SHORT = LONG[:4]


@pytest.fixture(scope="module")
def longrope():
    """A Phi-3 whose positions change for the whole batch beyond 64 tokens."""
    rope = {"rope_type": "longrope", "rope_theta": 1e4, "original_max_position_embeddings": SWITCH}
    factors = {"short_factor": [1.0] * 6, "long_factor": [1.0, 2.0, 4.0, 8.0, 8.0, 8.0]}
    config = transformers.Phi3Config(**grouped(original_max_position_embeddings=SWITCH, rope_parameters=rope | factors))
    with torch.random.fork_rng():
        torch.manual_seed(0)
        hf = transformers.AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()
    return load_model(hf, tokenizer=tiny_tokenizer())


def test_decisions_do_not_depend_on_batch_mates(longrope):
    found = decide(longrope, LONG, **QUIET)
    assert found.run.engine == "plain"
    assert any("LongRoPE" in note for note in found.run.notes)
    for place, order in enumerate(("yes_no", "no_yes")):
        prompts = build_prompts(longrope, LONG, order)
        assert int(prompts.last_pos.min()) < SWITCH < int(prompts.last_pos.max())
        assert_true(found.logit_differences[place * len(LONG) :][: len(LONG)], longrope.hf, prompts)
    alone = [decide(longrope, [q], **QUIET).logit_differences[0] for q in LONG]
    assert np.allclose(found.logit_differences[: len(LONG)], alone, atol=1e-3)


def test_scores_do_not_depend_on_batch_mates(longrope):
    found = score_heads(longrope, LONG, **QUIET)
    assert found.run.engine == "hooked"
    for order in ("yes_no", "no_yes"):
        expected, size = loop_scores(longrope.hf, build_prompts(longrope, LONG, order))
        assert_agrees(torch.from_numpy(found.per_prompt[order]), expected, size)


def test_prompts_short_of_the_switch_run_fused(longrope):
    found = decide(longrope, SHORT, "yes_no", **QUIET)
    assert found.run.engine == "fused"
    assert_true(found.logit_differences, longrope.hf, build_prompts(longrope, SHORT))
    assert fused_refusal(longrope, build_prompts(longrope, LONG)) is not None
    assert fused_refusal(longrope, build_prompts(longrope, SHORT)) is None
    assert ni.ablation_effect(longrope, SHORT, ["1.1"], **QUIET).base.run.engine == "fused"


INTERVENTIONS = {
    "ablate": lambda m, q: ni.ablation_effect(m, q, ["1.1"], **QUIET),
    "sweep": lambda m, q: ni.interventions.sweep_heads(m, build_prompts(m, q)),
    "estimate": lambda m, q: ni.attribution.estimate_zero_ablation(m, q, draws=10),
    "attribute": lambda m, q: ni.attribution.direct_logit_attribution(m, q, draws=10),
    "mean": lambda m, q: ni.interventions.Mean.over(m, q),
    "patch": lambda m, q: ni.patch_heads(m, ni.prompts.instruction_pairs(m, q, kind="order"), ["1.1"], **QUIET),
    "align": lambda m, q: ni.align_heads(
        m, ["1.1"], q[1:3], [q[3], q[6]],
        recipe=Recipe(steps=1, check_every=1, questions=2, probe_questions=None, val_questions=None),
        texts=["a b c"], progress=False,
    ),
}  # fmt: skip


@pytest.mark.parametrize("kind", INTERVENTIONS)
def test_interventions_and_tuning_refuse_prompts_on_both_sides_of_the_switch(longrope, kind):
    with pytest.raises(ModelError, match="LongRoPE changes the positions"):
        INTERVENTIONS[kind](longrope, LONG)


@pytest.mark.parametrize("kind", INTERVENTIONS)
def test_what_no_configuration_tells_is_measured(monkeypatch, longrope, one_batch, kind):
    monkeypatch.setattr(positions, "switching_length", lambda config: None)
    with pytest.raises(ModelError, match="for the prompt alone through"):
        INTERVENTIONS[kind](longrope, LONG)


def test_decisions_are_right_where_no_configuration_tells(monkeypatch, longrope):
    monkeypatch.setattr(positions, "switching_length", lambda config: None)
    found = decide(longrope, LONG, "yes_no", **QUIET)
    assert any("for the prompt alone through" in note for note in found.run.notes)
    assert_true(found.logit_differences, longrope.hf, build_prompts(longrope, LONG))


def test_doctor_tells_of_the_switch(longrope):
    found = diagnose(longrope)
    assert (
        f"LongRoPE: the fused engine takes prompts up to {SWITCH} tokens, beyond which positions change" in found.notes
    )


def test_texts_on_both_sides_of_the_switch_are_refused(longrope, one_batch):
    from nasa_interp.evaluation.likelihood import Row, read_rows

    with pytest.raises(ModelError, match="LongRoPE"):
        list(read_rows(longrope, [Row((5,) * 20, 1), Row((5,) * 90, 1)], progress=False))


def shifted(self, prefix, new):
    """What follows a prefix sees the keys and values of other heads in it."""
    return torch.cat([prefix.roll(1, 1).expand(len(new), -1, -1, -1), new], 2)


def mixed(hf, batch, start, cache):
    """Each row gets the answer of its batch mate."""
    logits = TRUE_ANSWERS(hf, batch, start, cache)
    return logits.roll(1, 0)


TRUE_ANSWERS = forward.answer_logits
BREAKS = {
    "a prefix of other heads": lambda patch: patch.setattr(forward.PrefixLayer, "_behind", shifted),
    "rows that trade places": lambda patch: patch.setattr(forward, "answer_logits", mixed),
    "a prefix of another prompt": lambda patch: patch.setattr(
        forward, "shared_prefix_length", lambda prompts, edits=None: int(prompts.last_pos.min())
    ),
    "another position that answers": lambda patch: patch.setattr(
        forward, "unembed_only", lambda hf, position: TRUE_UNEMBED(hf, position - 1)
    ),
}
TRUE_UNEMBED = forward.unembed_only


@pytest.fixture(scope="module")
def tiny():
    return load_model(tiny_model("llama"), tokenizer=tiny_tokenizer())


@pytest.mark.parametrize("name", BREAKS)
def test_a_broken_fused_pass_is_noticed_and_answers_come_from_the_plain_model(monkeypatch, tiny, name):
    BREAKS[name](monkeypatch)
    prompts = build_prompts(tiny, QUESTIONS)
    with pytest.raises(FusedRefusedError, match="for the prompt alone through"):
        list(forward.run_fused(tiny, prompts, reference=True))
    found = decide(tiny, QUESTIONS, "yes_no", **QUIET)
    assert found.run.engine == "plain"
    assert any("fused pass refused" in note for note in found.run.notes)
    assert_true(found.logit_differences, tiny.hf, prompts)
    assert "for the prompt alone" in (diagnose(tiny).engines["fused"] or "")
    with pytest.raises(ModelError, match="for the prompt alone"):
        ni.ablation_effect(tiny, QUESTIONS, ["1.1"], **QUIET)


@pytest.mark.parametrize("seed", [0, 1])
def test_orders_take_turns_and_the_shortest_and_the_longest_are_asked_again(monkeypatch, tiny, seed):
    asked = []
    true = ni.reference.plain_difference

    def counted(model, prompts, place):
        asked.append((prompts.order, place))
        return true(model, prompts, place)

    monkeypatch.setattr(ni.reference, "plain_difference", counted)
    decide(tiny, QUESTIONS, seed=seed, **QUIET)
    order = reference_order(("yes_no", "no_yes"), seed)
    lengths = build_prompts(tiny, QUESTIONS, order).last_pos
    assert sorted(asked) == sorted({(order, int(lengths.argmin())), (order, int(lengths.argmax()))})


def test_the_sample_comes_first_and_out_of_the_runs_own_batches(tiny):
    prompts = build_prompts(tiny, QUESTIONS)
    reference = PlainReference(tiny, prompts)
    sample = set(reference.waiting)
    batches = [batch.places for batch in forward.run_fused(tiny, prompts, reference=True, batch_size=2)]
    assert sorted(place for batch in batches for place in batch) == list(range(len(prompts)))
    assert sample <= {place for batch in batches[:3] for place in batch}


def test_one_wrong_difference_is_named(tiny):
    prompts = build_prompts(tiny, QUESTIONS)
    d, reach = plain_differences(tiny.hf, prompts)
    check_plain(tiny, prompts, torch.tensor(d))
    longest = int(prompts.last_pos.argmax())
    d[longest] += 2e-4 * reach[longest]
    with pytest.raises(FusedRefusedError, match=f"question '{QUESTIONS[longest].id}'"):
        check_plain(tiny, prompts, torch.tensor(d))
    d[longest] = np.nan
    with pytest.raises(FusedRefusedError):
        check_plain(tiny, prompts, torch.tensor(d))


def test_a_wide_dtype_is_held_to_no_less_than_fp32():
    assert agreement(torch.float64) == agreement(torch.float32) == 1e-4
    assert agreement(torch.float32) < agreement(torch.float16) < agreement(torch.bfloat16) < 0.04


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", BREAKS)
def test_a_broken_fused_pass_is_noticed_in_narrow_dtypes_too(monkeypatch, dtype, name):
    model = load_model(tiny_model("llama").to(dtype), tokenizer=tiny_tokenizer())
    prompts = build_prompts(model, QUESTIONS)
    list(forward.run_fused(model, prompts, reference=True))
    BREAKS[name](monkeypatch)
    with pytest.raises(FusedRefusedError, match="for the prompt alone through"):
        list(forward.run_fused(model, prompts, reference=True))


def test_a_reference_that_runs_out_of_memory_is_not_passed_over(monkeypatch, tiny):
    def full(model, prompts, place):
        raise torch.OutOfMemoryError("not enough memory")

    monkeypatch.setattr(ni.reference, "plain_difference", full)
    with pytest.raises(torch.OutOfMemoryError):
        list(forward.run_fused(tiny, build_prompts(tiny, QUESTIONS), reference=True))


class Drawing(torch.nn.Module):
    """Drops at random whatever mode it is in, as functional dropout in somebody's own module does."""

    def forward(self, hidden):
        return torch.nn.functional.dropout(hidden, 0.5, training=True)


def test_a_model_that_draws_at_random_gets_no_answer():
    hf = tiny_model("llama")
    hf.model.norm = torch.nn.Sequential(hf.model.norm, Drawing())
    with pytest.raises(ModelError, match="so it draws at random"):
        decide(load_model(hf, tokenizer=tiny_tokenizer()), QUESTIONS, **QUIET)


@pytest.mark.parametrize(("seed", "first"), [(0, "yes_no"), (1, "no_yes")])
def test_the_compared_order_runs_first(monkeypatch, tiny, seed, first):
    ran, true = [], asking.fused_answers
    expected = decide(tiny, QUESTIONS, **QUIET)
    monkeypatch.setattr(asking, "fused_answers", lambda m, p, **o: ran.append(p.order) or true(m, p, **o))
    found = decide(tiny, QUESTIONS, seed=seed, **QUIET)
    assert ran[0] == first
    assert found.order == ("yes_no",) * len(QUESTIONS) + ("no_yes",) * len(QUESTIONS)
    assert np.array_equal(found.logit_differences, expected.logit_differences)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("family", [f for f in SUPPORTED if (f, "fused") not in ENGINE_REFUSES])
def test_no_family_raises_a_false_alarm(family, dtype):
    if (family, dtype) == ("mixtral", torch.float64):
        pytest.skip("torch multiplies experts' matrices in no dtype wider than float32")
    model = load_model(tiny_model(family).to(dtype), tokenizer=tiny_tokenizer())
    assert decide(model, QUESTIONS, **QUIET).run.engine == "fused"


def test_a_refusal_for_another_reason_is_not_the_models(monkeypatch, tiny):
    prompts = build_prompts(tiny, QUESTIONS)
    with instrumented(tiny.hf):
        tiny.hf(prompts.tokens[:1])
        with pytest.raises(ModelError, match="instrumented already"):
            fused_refusal(tiny, prompts)
    assert fused_refusal(tiny, prompts) is None

    def full(*args):
        raise torch.OutOfMemoryError("not enough memory")

    with monkeypatch.context() as patch:
        patch.setattr(forward, "answer_logits", full)
        with pytest.raises(ModelError, match="doesn't fit into memory"):
            decide(tiny, QUESTIONS, **QUIET)
    assert decide(tiny, QUESTIONS, **QUIET).run.engine == "fused"


def test_what_a_family_refuses_today_it_may_take_tomorrow():
    """Gemma 2 soft-caps its scores, which fused attention doesn't compute; without the cap it does."""
    hf = tiny_model("gemma2")
    model = load_model(hf, tokenizer=tiny_tokenizer())
    before = decide(model, QUESTIONS, **QUIET)
    assert before.run.engine == "plain"
    type(hf)._supports_sdpa, old = True, type(hf)._supports_sdpa
    try:
        for layer in hf.model.layers:
            layer.self_attn.attn_logit_softcapping = None
        after = decide(model, QUESTIONS, "yes_no", **QUIET)
    finally:
        type(hf)._supports_sdpa = old
    assert after.run.engine == "fused"
    assert_true(after.logit_differences, hf, build_prompts(model, QUESTIONS))


class Mixing(transformers.LlamaForCausalLM):
    """Every answer depends on the other rows of its batch."""

    def forward(self, *args, **kwargs):
        out = super().forward(*args, **kwargs)
        out.logits = out.logits - 3 * out.logits.mean(0, keepdim=True)
        return out


class Padded(transformers.LlamaForCausalLM):
    """Every answer depends on how many columns are behind it."""

    def forward(self, input_ids, *args, **kwargs):
        self.columns = input_ids.shape[1] + (0 if kwargs.get("past_key_values") is None else 100)
        out = super().forward(input_ids, *args, **kwargs)
        out.logits = out.logits * (1 + self.columns / 100)
        return out


def last_column(module, inputs, output):
    hidden = output[0] if isinstance(output, tuple) else output
    hidden = hidden.clone()
    hidden[:, -1] += 5 * torch.linspace(-1, 1, hidden.shape[-1])
    return (hidden, *output[1:]) if isinstance(output, tuple) else hidden


MANY = [*QUESTIONS, *(BinaryQuestion(f"Is {i} even?", i % 2 == 0, f"n{i}") for i in range(10, 34))]


def of_batches(kind):
    hf = tiny_model("llama")
    if kind == "a hook on the last column":
        hf.model.layers[-1].register_forward_hook(last_column)
    else:
        hf.__class__ = {"rows of the batch": Mixing, "pads of the batch": Padded}[kind]
    return load_model(hf, tokenizer=tiny_tokenizer())


@pytest.mark.parametrize("kind", ["rows of the batch", "pads of the batch", "a hook on the last column"])
def test_what_depends_on_batch_mates_is_answered_as_if_alone(kind):
    model = of_batches(kind)
    found = decide(model, MANY, **QUIET)
    for place, order in enumerate(("yes_no", "no_yes")):
        d = found.logit_differences[place * len(MANY) :][: len(MANY)]
        assert_true(d, model.hf, build_prompts(model, MANY, order))
    assert found.run.engine == "plain"
    with pytest.raises(ModelError, match="for the prompt alone through"):
        ni.ablation_effect(model, MANY, ["1.1"], **QUIET)


def test_a_hook_that_counts_from_the_end_scores_as_if_alone():
    model = load_model(tiny_model("llama"), tokenizer=tiny_tokenizer())
    bridge = load_model(model.bridge)

    def last(value, hook):
        return torch.cat([value[:, :-1], value[:, -1:] + 5 * torch.linspace(-1, 1, value.shape[-1])], 1)

    bridge.bridge.add_hook("blocks.0.hook_resid_post", last)
    together = score_heads(bridge, QUESTIONS, "yes_no", **QUIET).per_prompt["yes_no"]
    alone = score_heads(bridge, QUESTIONS, "yes_no", batch_size=1, **QUIET).per_prompt["yes_no"]
    assert np.allclose(together, alone, atol=1e-4)


def test_generation_does_not_depend_on_batch_mates():
    model = of_batches("rows of the batch")
    together, alone = (
        ni.evaluation.decide_by_generation(model, MANY, batch_size=n, progress=False).texts for n in (16, 1)
    )
    assert together == alone


def test_a_model_that_looks_ahead_is_refused():
    settings = {"hidden_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}
    config = transformers.BertConfig(**token_settings(), **settings)
    hf = transformers.AutoModelForCausalLM.from_config(config).eval()
    with pytest.raises(ModelError, match="its attention looks ahead"):
        load_model(hf, tokenizer=tiny_tokenizer())
