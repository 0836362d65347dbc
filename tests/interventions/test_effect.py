"""Interventions: laws on tiny random models, and what ablation tells of the embedded one."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from families import ENGINE_REFUSES, SUPPORTED, tiny_model, tiny_tokenizer

import nasa_interp as ni
from nasa_interp.errors import HeadError, ModelError, PromptError, ResultError
from nasa_interp.forward import run_fused
from nasa_interp.interventions import (
    Ablator,
    Knockout,
    Mean,
    Resample,
    Scale,
    Swap,
    Zero,
    ablation_effect,
    cumulative_effect,
    edits_of,
    position_classes,
    random_controls,
    random_heads,
    record_outputs,
)
from nasa_interp.models.slices import attention_modules, head_slices
from nasa_interp.prompts import build_prompts
from nasa_interp.scoring.fused import score_fused

HEADS = ["1.2", "0.1"]
FUSED = [family for family in SUPPORTED if (family, "fused") not in ENGINE_REFUSES]


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    """Tiny products only lose by sharing threads."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def logits(model, prompts, edits=None, **options):
    found = torch.empty(len(prompts), model.hf.config.vocab_size)
    for batch in run_fused(model, prompts, edits=edits, **options):
        found[batch.places] = batch.logits
    return found


@pytest.mark.parametrize("what", [Zero(), Scale(0.5), Knockout(), Knockout(renormalize=False), Swap()])
def test_no_heads_no_change(tiny, questions, what):
    effect = ablation_effect(tiny, questions, [], what, progress=False)
    assert (effect.changes.change.dropna() == 0).all()
    prompts = build_prompts(tiny, questions, "yes_no")
    torch.testing.assert_close(logits(tiny, prompts, edits_of([], what)), logits(tiny, prompts), rtol=0, atol=1e-5)


def test_a_fallen_answer_mass_is_told(tiny, questions):
    """Decisions between two words that the changed model doesn't mean to say are no cure."""
    effect = ablation_effect(tiny, questions, HEADS, draws=5, progress=False)
    assert effect.warnings == []  # low before and after: no fall
    high = replace(effect, base=replace(effect.base, answer_masses=np.full(len(effect.base.answer_masses), 0.8)))
    (told,) = high.warnings
    assert "answer mass fell under 0.5" in told
    assert "0.80 to 0.0" in told


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


@pytest.mark.parametrize("family", FUSED)
def test_a_layer_without_heads_adds_its_bias_alone(family, questions):
    model = ni.load_model(tiny_model(family), tokenizer=tiny_tokenizer())
    prompts, found = build_prompts(model, questions, "yes_no"), []
    weight = head_slices(model.hf, 1, 0, "o")[0].parameter
    owner = model.hf.get_submodule(weight.rpartition(".")[0])
    bias = torch.zeros(48) if owner.bias is None else owner.bias
    attention = model.hf.get_submodule(list(attention_modules(model.hf))[1])
    handle = attention.register_forward_hook(lambda module, inputs, output: found.append(output[0]))
    logits(model, prompts, edits_of([(1, head) for head in range(4)], Zero()), share_prefix=False)
    handle.remove()
    assert len(found) == 1
    torch.testing.assert_close(found[0], bias.expand_as(found[0]), rtol=0, atol=1e-6)


def with_outputs(model, prompts, head, change):
    """Logits of whole plain passes, one a prompt, in which `change` gets one head's outputs [pos, d_head] to edit."""
    layer, index = head
    size, found = model.hf.config.head_dim, []
    for row, last in enumerate(prompts.last_pos.tolist()):

        def hook(module, inputs, row=row):
            z = inputs[0].clone()
            own = z[0, :, index * size : (index + 1) * size]
            own.copy_(change(row, own.clone()))
            return (z,)

        handle = model.hf.model.layers[layer].self_attn.o_proj.register_forward_pre_hook(hook)
        with torch.no_grad():
            found.append(model.hf(prompts.tokens[row : row + 1, : last + 1]).logits[0, -1])
        handle.remove()
    return torch.stack(found)


def outputs_of(model, prompts, head):
    """One head's outputs on each prompt, by the same hook."""
    found = {}

    def keep(row, own):
        found[row] = own
        return own

    with_outputs(model, prompts, head, keep)
    return [found[row] for row in range(len(prompts))]


def test_recorded_outputs_are_what_enters_the_output_projection(tiny, questions):
    prompts = build_prompts(tiny, questions, "yes_no")
    recorded = record_outputs(tiny, prompts, ["1.2", "0.1"], batch_size=4)
    assert recorded.heads == {0: (1,), 1: (2,)}
    for head in ((1, 2), (0, 1)):
        for row, own in enumerate(outputs_of(tiny, prompts, head)):
            torch.testing.assert_close(recorded.values[head[0]][row, : len(own), 0], own, rtol=0, atol=1e-5)


@pytest.mark.parametrize("positions", ["all", "after", "last"])
def test_mean_puts_the_class_mean_in_place(tiny, questions, positions):
    reference, prompts = (build_prompts(tiny, some, "yes_no") for some in (questions[:4], questions))
    classes = position_classes(reference)
    own = outputs_of(tiny, reference, (1, 2))
    means = [torch.cat([z[classes[row, : len(z)] == kind] for row, z in enumerate(own)]).mean(0) for kind in range(5)]
    what = Mean.over(tiny, reference, ["1.2"], positions, batch_size=3)
    torch.testing.assert_close(what.means[1][:, 2], torch.stack(means), rtol=0, atol=1e-5)

    def change(row, z):
        kinds, place = position_classes(prompts)[row, : len(z)], torch.arange(len(z))
        start = {"all": 0, "after": int(prompts.first_query[row]), "last": len(z) - 1}[positions]
        return torch.where((place >= start)[:, None], torch.stack(means)[kinds], z)

    expected = with_outputs(tiny, prompts, (1, 2), change)
    torch.testing.assert_close(logits(tiny, prompts, edits_of(["1.2"], what)), expected, rtol=0, atol=1e-4)
    assert (expected - logits(tiny, prompts)).abs().max() > 1e-2


@pytest.mark.parametrize("family", FUSED)
def test_the_mean_of_one_position_is_that_position(family, questions):
    """A prompt's last position is its class's only one: its own mean leaves it as it is, all heads at once."""
    model = ni.load_model(tiny_model(family), tokenizer=tiny_tokenizer())
    prompts, heads = build_prompts(model, questions[:1], "yes_no"), list(np.ndindex(model.n_layers, model.n_heads))
    same = logits(model, prompts, edits_of(heads, Mean.over(model, prompts, positions="last")))
    torch.testing.assert_close(same, logits(model, prompts), rtol=0, atol=1e-4)
    other = logits(model, prompts, edits_of(heads, Mean.over(model, questions[1:], positions="last", order="no_yes")))
    assert (other - same).abs().max() > 1e-2


def test_a_mean_knows_what_it_was_measured_on(tiny, questions, tmp_path):
    what = Mean.over(tiny, questions, ["1.2"], "after")
    assert repr(what) == "Mean(over 6 questions of own questions (facts, sums), positions='after')"
    assert what.run.orders == ("yes_no", "no_yes")
    again = Mean.load(what.save(tmp_path / "mean.safetensors"))
    assert torch.equal(again.means[1], what.means[1])
    assert (again.positions, again.run.to_dict()) == (what.positions, what.run.to_dict())
    prompts = build_prompts(tiny, questions, "yes_no")
    with pytest.raises(HeadError, match="no means were measured in layer 0"):
        logits(tiny, prompts, edits_of(["0.1"], what))
    bare = tiny_tokenizer()
    bare.chat_template = "{{ messages[0]['content'] }}"
    plain = build_prompts(bare, questions, "yes_no")
    with pytest.raises(HeadError, match="no position of class 'template'"):
        logits(tiny, prompts, edits_of(["1.2"], Mean.over(tiny, plain, ["1.2"])))
    (tmp_path / "mean.safetensors").write_bytes(b"no")
    with pytest.raises(ResultError, match="does not hold means"):
        Mean.load(tmp_path / "mean.safetensors")


def test_parts_that_end_within_the_shared_prefix_take_their_own_means(tiny):
    """One question goes on with what ends the other's turn: same tokens, other classes."""
    asked = [
        ni.BinaryQuestion("Is it red?", True, "a"),
        ni.BinaryQuestion("Is it red?<|im_end|>\n<|im_start|>assistant or No", False, "b"),
    ]
    prompts = build_prompts(tiny, asked, "yes_no", ni.PromptStyle(allow_special=True))
    edits = edits_of(HEADS, Mean.over(tiny, prompts))
    assert (prompts.tokens[0, prompts.question_end[0]] == prompts.tokens[1, prompts.question_end[0]]).all()
    whole = logits(tiny, prompts, edits, share_prefix=False)
    torch.testing.assert_close(logits(tiny, prompts, edits), whole, rtol=0, atol=1e-4)


@pytest.mark.parametrize("positions", ["all", "after", "last"])
def test_resample_puts_another_prompts_outputs_in_place(tiny, questions, positions):
    prompts = build_prompts(tiny, questions, "yes_no")
    what = Resample.over(tiny, prompts, ["1.2"], positions, seed=3)
    donors = what.donors(what.sources[0], prompts.questions).tolist()
    own = outputs_of(tiny, prompts, (1, 2))

    def change(row, z):
        donor, first = own[donors[row]], int(prompts.first_query[donors[row]])
        begin = {"all": 0, "after": first, "last": len(donor) - 1}[positions]
        start = {"all": 0, "after": int(prompts.first_query[row]), "last": len(z) - 1}[positions]
        count = min(len(z) - start, len(donor) - begin)
        z[len(z) - count :] = donor[len(donor) - count :]
        return z

    expected = with_outputs(tiny, prompts, (1, 2), change)
    assert (expected - logits(tiny, prompts)).abs().max() > 1e-2
    edits = edits_of(["1.2"], what)
    torch.testing.assert_close(logits(tiny, prompts, edits), expected, rtol=0, atol=1e-4)
    some = prompts.select([5, 1, 2])
    torch.testing.assert_close(logits(tiny, some, edits), expected[[5, 1, 2]], rtol=0, atol=1e-4)


def test_resample_on_a_shared_prefix_is_refused_or_not_shared(tiny, questions):
    """Every prompt has another donor: one edit of the shared prefix would give all of them the first one's."""
    prompts = build_prompts(tiny, questions, "yes_no")
    edits = edits_of(HEADS, Resample.over(tiny, prompts, HEADS, "all"))
    whole = logits(tiny, prompts, edits, share_prefix=False)
    torch.testing.assert_close(logits(tiny, prompts, edits), whole, rtol=0, atol=1e-4)
    with pytest.raises(ModelError, match="share_prefix=False"):
        logits(tiny, prompts, lambda batch, positions: edits(batch, positions))


def test_donors_come_from_the_seed_and_are_never_the_question_itself(tiny, questions):
    prompts = build_prompts(tiny, questions, "yes_no")
    drawn = []
    for seed in range(40):
        what = Resample.over(tiny, prompts, ["0.0"], seed=seed) if seed == 0 else Resample(what.sources, seed)
        drawn.append(what.donors(what.sources[0], questions).tolist())
        assert drawn[-1] == Resample(what.sources, seed).donors(what.sources[0], questions).tolist()
    assert all(donor != own for row in drawn for own, donor in enumerate(row))
    assert [{row[own] for row in drawn} for own in range(6)] == [set(range(6)) - {own} for own in range(6)]
    assert repr(what) == "Resample(from 6 prompts, seed=39, positions='after')"
    alone = Resample.over(tiny, prompts.select([0]), ["0.0"])
    with pytest.raises(PromptError, match="'a' is alone"):
        logits(tiny, prompts, edits_of(["0.0"], alone))
    with pytest.raises(PromptError, match="in the order 'no_yes'"):
        logits(tiny, build_prompts(tiny, questions, "no_yes"), edits_of(["0.0"], what))


@pytest.mark.parametrize("what", [Mean, Resample])
def test_replacing_goes_through_every_verb(tiny, questions, what):
    chosen = what.over(tiny, questions, HEADS)
    effect = ablation_effect(tiny, questions, HEADS, chosen, progress=False)
    assert abs(effect.mean_logit_difference_change) > 1e-3
    nothing = ablation_effect(tiny, questions, [], chosen, progress=False)
    assert (nothing.changes.change.dropna() == 0).all()
    assert what.__name__ in effect.to_dict()["intervention"]


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
    control = random_controls(ablator, ["1.2"], n=5).of()
    assert len(control.random) == 5
    assert control.p == (sum(r <= control.effect for r in control.random) + 1) / 6
    assert control.random == random_controls(ablator, ["1.2"], n=5).of().random


def test_a_model_off_the_fused_engine_is_changed_through_hooks(questions):
    model = ni.load_model(tiny_model("gemma2"), tokenizer=tiny_tokenizer())
    run = ablation_effect(model, questions, HEADS, progress=False).changed.run
    assert run.engine == "hooked"
    assert "the fused engine refuses it" in " ".join(run.notes)


def test_a_model_that_no_engine_is_exact_for_is_refused(questions):
    model = ni.load_model(tiny_model("gptj"), tokenizer=tiny_tokenizer())
    with pytest.raises(ModelError, match=r"interventions run on the fused engine, which refuses .*; nor do they run"):
        ablation_effect(model, questions, HEADS, progress=False)


@pytest.mark.filterwarnings("ignore:answer mass")
def test_zeroing_heads_moves_the_embedded_model_and_is_measured_paired(demo):
    asked = ni.load_questions("builtin:verify#val", limit=16)
    effect = ablation_effect(demo, asked, ["17.7", "22.8", "21.6", "21.7", "18.4"], progress=False)
    assert effect.mean_logit_difference_change != 0
    assert effect.base.run.model_hash == effect.changed.run.model_hash


def test_the_interval_of_a_change_stands_beside_the_change(tiny, questions):
    effect = ablation_effect(tiny, questions, ["1.1"], Zero(), draws=50, progress=False)
    row = effect.changes.loc["mean_logit_difference"]
    assert f"-> {row.after:+.2f}, change {row.change:+.2f} [{row.low:+.2f}, {row.high:+.2f}]" in repr(effect)
    assert row.low <= row.change <= row.high
