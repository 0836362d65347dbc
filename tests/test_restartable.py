"""Laws of passes that restart at the tuned layer: the numbers of whole passes, gradients that reach the slices."""

import families
import numpy as np
import pytest
import torch

from nasa_interp import load_model
from nasa_interp.alignment.tuned import TunedSlices
from nasa_interp.decisions import answer_differences
from nasa_interp.models.tunable import tunable_slices
from nasa_interp.prompts import build_prompts
from nasa_interp.restartable import RestartablePrompts
from nasa_interp.scoring.fused import score_fused

FUSED = [family for family in families.SUPPORTED if (family, "fused") not in families.ENGINE_REFUSES]


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    """Tiny products only lose by sharing threads."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def build(family: str, questions: list):
    model = load_model(families.tiny_model(family), tokenizer=families.tiny_tokenizer())
    prompts = build_prompts(model, questions)
    restarted = RestartablePrompts(model, prompts, [0, 1])
    restarted.restart_from(restarted.decide())
    return model, prompts, restarted


@pytest.mark.parametrize("family", FUSED)
def test_restarted_passes_give_the_decisions_of_whole_ones(family: str, questions) -> None:
    model, prompts, restarted = build(family, questions)
    expected, mass = answer_differences(model, prompts)
    for layer in (0, 1):
        answers = restarted.decide(layer)
        assert np.abs(answers.d - expected).max() < 1e-4
        assert np.abs(answers.mass - mass).max() < 1e-5
    with torch.no_grad():
        assert np.abs(restarted.answer(1, [2, 0])[0].numpy() - expected[[2, 0]]).max() < 1e-4


@pytest.mark.parametrize("family", FUSED)
def test_after_a_change_passes_from_its_layer_on_see_it(family: str, questions) -> None:
    model, prompts, restarted = build(family, questions)
    before = restarted.decide(1).d
    tuned = TunedSlices(model, tunable_slices(model, ["1.1"], "qo"))
    with torch.no_grad():
        for value in tuned.values:
            value.mul_(3)
    tuned.write()
    expected, _ = answer_differences(model, prompts)
    assert np.abs(expected - before).max() > 1e-3
    assert np.abs(restarted.decide(1).d - expected).max() < 1e-4


@pytest.mark.parametrize("family", FUSED)
def test_local_attention_is_the_score_of_the_layer(family: str, questions) -> None:
    model, prompts, restarted = build(family, questions)
    scores, _ = score_fused(model, prompts, progress=False)
    for layer in (0, 1):
        with torch.no_grad():
            nas, mass = restarted.attention(layer, [3, 1, 0])
        size = scores[:, layer].abs().max()
        assert torch.allclose(nas, scores[[3, 1, 0], layer], atol=1e-4 * float(size), equal_nan=True)
        assert ((mass >= 0) & (mass <= 1)).all() or mass.isnan().any()


@pytest.mark.parametrize("family", ["llama", "gpt2", "gpt_neox"])
def test_gradients_are_those_of_finite_differences(family: str, questions) -> None:
    model, _, restarted = build(family, questions)
    tuned = TunedSlices(model, tunable_slices(model, ["1.0"], "q"))
    direction = torch.randn(tuned.values[0].shape, generator=torch.Generator().manual_seed(0))

    def answers():
        with tuned.inserted():
            return restarted.answer(1, [0, 1])[0].sum()

    def scores():
        with tuned.inserted():
            return restarted.attention(1, [0, 1])[0][:, 0].sum()

    def sums():
        return answers(), scores()

    with torch.enable_grad():
        slopes = [torch.autograd.grad(each(), tuned.values)[0].mul(direction).sum() for each in (answers, scores)]
    step = 1e-3
    with torch.no_grad():
        tuned.values[0].add_(direction, alpha=step)
        up = sums()
        tuned.values[0].sub_(direction, alpha=2 * step)
        down = sums()
    for slope, high, low in zip(slopes, up, down, strict=True):
        assert float(slope) == pytest.approx(float(high - low) / (2 * step), rel=0.02, abs=1e-3)
