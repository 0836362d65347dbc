"""First-order estimates: the derivative of the exact sweep, on every family; and they leave the model alone."""

import families
import numpy as np
import pytest
import torch

from nasa_interp import load_model
from nasa_interp.attention import ReplaceHeads, ScaleHeads, instrumented
from nasa_interp.attribution import attribution_patching, estimate_zero_ablation
from nasa_interp.errors import HeadError, PromptError, ResultError
from nasa_interp.head_table import HeadTable
from nasa_interp.heads import Head
from nasa_interp.interventions import sweep_heads
from nasa_interp.models import Model
from nasa_interp.prompts import ORDERS, PromptBatch, build_prompts

FUSED = [family for family in families.SUPPORTED if (family, "fused") not in families.ENGINE_REFUSES]


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    """Tiny products only lose by sharing threads."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def build(family: str) -> tuple[Model, PromptBatch]:
    model = load_model(families.tiny_model(family), tokenizer=families.tiny_tokenizer())
    return model, build_prompts(model, families.QUESTIONS[:3])


def logit_differences(
    model: Model, prompts: PromptBatch, edits: dict | None = None, outputs: range = range(0)
) -> tuple:
    """d of each prompt in one plain pass, with the heads' outputs."""
    with torch.no_grad(), instrumented(model.hf, edits=edits, outputs_of=outputs) as recording:
        logits = model.hf(prompts.tokens).logits[torch.arange(len(prompts)), prompts.last_pos]
    return (logits[:, prompts.no_token] - logits[:, prompts.yes_token]).numpy(), recording.outputs


@pytest.mark.parametrize("family", FUSED)
def test_estimate_is_the_derivative_of_scaling_a_head(family: str) -> None:
    model, prompts = build(family)
    found, step = estimate_zero_ablation(model, prompts), 3e-3
    assert found.per_prompt["yes_no"].shape == (3, model.n_layers, model.n_heads)
    for layer, index in ((0, 1), (1, 2), (1, 3)):
        ends = []
        for factor in (1 - step, 1 + step):
            edits = {layer: [ScaleHeads((index,), torch.tensor([factor]))]}
            ends.append(logit_differences(model, prompts, edits)[0])
        slope = (ends[0] - ends[1]) / (2 * step)
        assert np.abs(slope).max() > 0.05
        np.testing.assert_allclose(found.per_prompt["yes_no"][:, layer, index], slope, atol=0.01)


@pytest.mark.parametrize("family", ["llama", "gpt2", "gpt_neox"])
def test_patch_estimate_is_the_derivative_toward_the_clean_run(family: str) -> None:
    model, corrupted = build(family)
    clean = build_prompts(model, families.QUESTIONS[:3], "no_yes")
    found, step = attribution_patching(model, clean, corrupted), 3e-3
    layers = range(model.n_layers)
    (_, new), (_, old) = (logit_differences(model, each, outputs=layers) for each in (clean, corrupted))
    for layer, index in ((0, 1), (1, 2)):
        ends = []
        for sign in (1, -1):
            values = old[layer] + sign * step * (new[layer] - old[layer])
            ends.append(
                logit_differences(model, corrupted, {layer: [ReplaceHeads((index,), values[:, :, [index]])]})[0]
            )
        slope = (ends[0] - ends[1]) / (2 * step)
        np.testing.assert_allclose(found.per_prompt["yes_no"][:, layer, index], slope, atol=0.01)


def test_the_sweep_of_small_steps_converges_to_the_estimate(tiny, questions) -> None:
    prompts = build_prompts(tiny, questions)
    found = estimate_zero_ablation(tiny, prompts)
    off = []
    for step in (0.5, 0.1, 0.02):
        sweep = sweep_heads(tiny, prompts, factor=1 - step)
        off.append(np.abs(sweep.values / step - found.values).max())
    assert off[0] > 2 * off[1] > 4 * off[2]
    assert found.rank_correlation(sweep) > 0.95


def test_a_run_patched_with_itself_and_batches_change_nothing(tiny, questions) -> None:
    prompts = build_prompts(tiny, questions)
    assert np.abs(attribution_patching(tiny, prompts, prompts).per_prompt["yes_no"]).max() == 0
    whole = estimate_zero_ablation(tiny, prompts)
    np.testing.assert_allclose(
        estimate_zero_ablation(tiny, prompts, batch_size=1).per_prompt["yes_no"], whole.per_prompt["yes_no"], atol=1e-5
    )
    both = estimate_zero_ablation(tiny, questions)
    np.testing.assert_allclose(both.per_prompt["yes_no"], whole.per_prompt["yes_no"], atol=1e-5)
    assert list(both.per_prompt) == ["yes_no", "no_yes"]
    again = estimate_zero_ablation(tiny, [build_prompts(tiny, questions, order) for order in ORDERS])
    assert np.array_equal(again.values, both.values)


def test_prompts_of_unequal_length_are_refused(tiny, questions) -> None:
    with pytest.raises(PromptError, match="equal length"):
        attribution_patching(tiny, build_prompts(tiny, questions[:2]), build_prompts(tiny, questions[2:4]))


def test_weights_gradients_and_hooks_are_left_alone_also_when_it_raises(questions, monkeypatch) -> None:
    model = load_model(families.tiny_model("llama"), tokenizer=families.tiny_tokenizer())
    parameters = list(model.hf.parameters())
    parameters[3].requires_grad_(False)
    before, wanted = model.weights_hash(), [parameter.requires_grad for parameter in parameters]
    prompts = build_prompts(model, questions[:2])

    def unchanged() -> bool:
        hooks = sum(len(module._forward_hooks) + len(module._forward_pre_hooks) for module in model.hf.modules())
        gradients = [parameter.grad for parameter in parameters]
        same = [parameter.requires_grad for parameter in parameters] == wanted
        return hooks == 0 and same and gradients == [None] * len(parameters) and model.weights_hash() == before

    with torch.no_grad():
        estimate_zero_ablation(model, prompts)
    assert unchanged()
    monkeypatch.setattr("torch.autograd.grad", lambda *_: 1 // 0)
    with pytest.raises(ZeroDivisionError):
        estimate_zero_ablation(model, prompts)
    assert unchanged()


def test_frozen_weights_need_no_gradient_of_their_own(tiny, questions) -> None:
    prompts = build_prompts(tiny, questions[:2])
    expected = estimate_zero_ablation(tiny, prompts)
    model = load_model(families.tiny_model("llama").requires_grad_(False), tokenizer=families.tiny_tokenizer())
    assert np.array_equal(estimate_zero_ablation(model, prompts).values, expected.values)


def test_value_ranks_saves_and_loads(tiny, questions, tmp_path) -> None:
    found = estimate_zero_ablation(tiny, questions, draws=50)
    top = found.top(3)
    assert top.by == "first-order zero"
    assert list(top.scores) == sorted(found.values.ravel())[:3]
    assert found[top[0]] == top.scores[0]
    frame = found.to_dataframe()
    assert len(frame) == tiny.n_layers * tiny.n_heads
    assert ((frame.values_low <= frame["values"]) & (frame["values"] <= frame.values_high)).all()
    again = HeadTable.load(found.save(tmp_path / "zero.json"))
    assert np.array_equal(again.values, found.values)
    assert (again.quantity, again.ids, again.pairs, again.run) == (found.quantity, found.ids, found.pairs, found.run)
    assert "first-order zero" in repr(again)
    assert "<table" in again._repr_html_()
    with pytest.raises(HeadError, match="top 0"):
        found.top(0)
    (tmp_path / "zero.json.safetensors").write_bytes(b"cut off")
    with pytest.raises(ResultError, match="damaged"):
        HeadTable.load(tmp_path / "zero.json")


def test_the_planted_head_comes_first() -> None:
    from planted import PLANTED, planted_model

    found = estimate_zero_ablation(planted_model(), list(families.QUESTIONS))
    assert found.top(1).heads == (PLANTED,)
    assert found.top(2).scores[0] < 3 * found.top(2).scores[1] < 0 or found.top(2).scores[1] >= 0


def test_the_demo_model_against_finite_differences(demo, questions) -> None:
    prompts = build_prompts(demo, questions[:2])
    found = estimate_zero_ablation(demo, prompts)
    heads = (Head(17, 7), Head(25, 3))
    sweep = sweep_heads(demo, prompts, heads, factor=0.98)
    back = sweep_heads(demo, prompts, heads, factor=1.02)
    slope = (sweep.per_prompt["yes_no"] - back.per_prompt["yes_no"]) / 0.04
    for head in heads:
        expected = found.per_prompt["yes_no"][:, head.layer, head.index]
        np.testing.assert_allclose(slope[:, head.layer, head.index], expected, atol=0.01)
