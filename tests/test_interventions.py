"""Interventions: laws on tiny random models, and what ablation tells of the embedded one."""

import numpy as np
import pytest
import torch
from families import tiny_model, tiny_tokenizer

import nasa_interp as ni
from nasa_interp.errors import HeadError, ModelError
from nasa_interp.forward import run_fused
from nasa_interp.interventions import (
    Ablator,
    Knockout,
    Scale,
    Swap,
    Zero,
    ablation_effect,
    cumulative_effect,
    edits_of,
    random_control,
    random_heads,
)
from nasa_interp.models.slices import head_slices
from nasa_interp.prompts import build_prompts
from nasa_interp.scoring.fused import score_fused

HEADS = ["1.2", "0.1"]


def logits(model, prompts, edits=None):
    found = torch.empty(len(prompts), model.hf.config.vocab_size)
    for batch in run_fused(model, prompts, edits=edits):
        found[batch.places] = batch.logits
    return found


@pytest.mark.parametrize("what", [Zero(), Scale(0.5), Knockout(), Knockout(renormalize=False), Swap()])
def test_no_heads_no_change(tiny, questions, what):
    effect = ablation_effect(tiny, questions, [], what, progress=False)
    assert (effect.changes.change.dropna() == 0).all()
    prompts = build_prompts(tiny, questions, "yes_no")
    torch.testing.assert_close(logits(tiny, prompts, edits_of([], what)), logits(tiny, prompts), rtol=0, atol=1e-5)


def test_scaling_by_one_changes_nothing(tiny, questions):
    prompts = build_prompts(tiny, questions, "no_yes")
    same = logits(tiny, prompts, edits_of(HEADS, Scale(1.0)))
    torch.testing.assert_close(same, logits(tiny, prompts), rtol=0, atol=1e-5)


@pytest.mark.parametrize("family", ["llama", "gpt2", "gpt_neox", "gemma3_text"])
def test_zero_at_all_positions_is_zeroing_the_heads_output_slice(family, questions):
    model = ni.load_model(tiny_model(family), tokenizer=tiny_tokenizer())
    prompts = build_prompts(model, questions, "yes_no")
    ablated = logits(model, prompts, edits_of(HEADS, Zero()))
    with torch.no_grad():
        for layer, index in ((1, 2), (0, 1)):
            for part in head_slices(model.hf, layer, index, "o"):
                parameter = model.hf.get_parameter(part.parameter)
                parameter.index_fill_(part.dim, torch.tensor(part.index), 0.0)
    torch.testing.assert_close(ablated, logits(model, prompts), rtol=0, atol=1e-4)


@pytest.mark.parametrize("positions", ["after", "last"])
def test_positions_are_those_that_are_named(tiny, questions, positions):
    """Against a hook on the input of the output projection of plain whole passes."""
    prompts = build_prompts(tiny, questions, "yes_no")
    found = logits(tiny, prompts, edits_of(["1.2"], Zero(positions)))
    d_head = tiny.hf.config.head_dim
    for i in range(len(prompts)):
        last, first = int(prompts.last_pos[i]), int(prompts.first_query[i])

        def zero(module, inputs, start=first if positions == "after" else last):
            z = inputs[0].clone()
            z[:, start:, 2 * d_head : 3 * d_head] = 0
            return (z,)

        handle = tiny.hf.model.layers[1].self_attn.o_proj.register_forward_pre_hook(zero)
        with torch.no_grad():
            expected = tiny.hf(prompts.tokens[i : i + 1, : last + 1]).logits[0, -1]
        handle.remove()
        torch.testing.assert_close(found[i], expected, rtol=0, atol=1e-4)


@pytest.mark.parametrize("renormalize", [True, False])
def test_knockout_leaves_that_head_no_score(tiny, questions, renormalize):
    prompts = build_prompts(tiny, questions, "yes_no")
    scores, _ = score_fused(tiny, prompts, progress=False, edits=edits_of(["1.2"], Knockout(renormalize)))
    assert scores[:, 1, 2].isnan().all()
    assert scores[:, 0].isfinite().all()
    assert scores[:, 1, [0, 1, 3]].isfinite().all()


def test_a_swap_undone_by_a_swap_of_candidates(tiny, questions):
    """Swapping moves the logits; the same values in both candidates' places would not."""
    prompts = build_prompts(tiny, questions, "yes_no")
    moved = logits(tiny, prompts, edits_of(["1.2"], Swap())) - logits(tiny, prompts)
    assert moved.abs().max() > 1e-3


def test_the_model_is_left_as_it_was_also_when_the_body_raises(tiny, questions):
    tokens = torch.arange(5, 25)[None]
    with torch.no_grad():
        before, weights = tiny.hf(tokens).logits, tiny.weights_hash()
        ablation_effect(tiny, questions, HEADS, progress=False)
        with pytest.raises(HeadError):
            ablation_effect(tiny, questions, ["0.99"], progress=False)
        prompts = build_prompts(tiny, questions, "yes_no")
        with pytest.raises(ZeroDivisionError):
            logits(tiny, prompts, lambda batch, positions: 1 // 0)
        assert torch.equal(tiny.hf(tokens).logits, before)
    assert tiny.weights_hash() == weights


def test_effect_pairs_before_and_after(tiny, questions):
    effect = ablation_effect(tiny, questions, HEADS, progress=False)
    d = effect.changed.logit_differences - effect.base.logit_differences
    assert effect.mean_logit_difference_change == pytest.approx(d.mean())
    row = effect.changes.loc["mean_logit_difference"]
    assert row.low <= row.change <= row.high
    assert effect.estimate("yes_no").loc["mean_logit_difference", "change"] == pytest.approx(d[:6].mean())
    assert effect.to_dict()["heads"] == HEADS


def test_cumulative_effect_ends_at_all_heads(tiny, questions):
    ranked = ["1.2", "0.1", "1.0", "0.3"]
    table = cumulative_effect(tiny, questions, ranked, progress=False)
    assert list(table.k) == [1, 2, 3, 4]
    whole = ablation_effect(tiny, questions, ranked, progress=False)
    assert table.iloc[-1].auc_change == pytest.approx(whole.auc_change)


def test_random_sets_match_layers_and_hold_no_chosen_head():
    chosen = ni.HeadList.of(["5.0", "5.1", "2.3"])
    rng = np.random.default_rng(0)
    for _ in range(20):
        found = random_heads(chosen, 8, 4, rng)
        assert sorted(h.layer for h in found) == [2, 5, 5]
        assert not set(found) & set(chosen)
    full = ni.HeadList.of([f"5.{i}" for i in range(4)])
    assert {h.layer for h in random_heads(full, 8, 4, rng)} <= {4, 6}
    with pytest.raises(HeadError, match="too few"):
        random_heads(ni.HeadList.of([f"0.{i}" for i in range(4)]), 1, 6, rng)


def test_random_control_counts_sets_that_go_as_far(tiny, questions):
    ablator = Ablator(tiny, questions, draws=20, progress=False)
    control = random_control(ablator, ["1.2"], n=5)
    assert len(control.random) == 5
    assert control.p == (sum(r <= control.effect for r in control.random) + 1) / 6
    assert control.random == random_control(ablator, ["1.2"], n=5).random


def test_a_model_off_the_fused_engine_is_refused(questions):
    model = ni.load_model(tiny_model("gptj"), tokenizer=tiny_tokenizer())
    with pytest.raises(ModelError, match="interventions run on the fused engine"):
        ablation_effect(model, questions, HEADS, progress=False)


def test_zeroing_heads_moves_the_embedded_model_and_is_measured_paired(demo):
    asked = ni.load_questions("builtin:verify#val", limit=16)
    effect = ablation_effect(demo, asked, ["17.7", "22.8", "21.6", "21.7", "18.4"], progress=False)
    assert effect.mean_logit_difference_change != 0
    assert effect.base.run.model_hash == effect.changed.run.model_hash
