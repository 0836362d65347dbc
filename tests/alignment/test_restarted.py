"""Laws of passes that restart at the tuned layer: the numbers of whole passes, gradients that reach the slices."""

import families
import numpy as np
import pytest
import torch

from nasa_interp import load_model
from nasa_interp.alignment.objectives import Answer, Balance, NegativeAttention, Step, WeightedSum
from nasa_interp.alignment.restarted import Restarted
from nasa_interp.alignment.tuned import TunedSlices, tunable_slices
from nasa_interp.decisions import answer_differences
from nasa_interp.errors import HeadError
from nasa_interp.prompts import ORDERS, build_prompts
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
    restarted = Restarted(model, prompts, [0, 1])
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


def step_of(d: list[float], labels: list[bool], nas: float = 0.0, mass: float = 0.2) -> Step:
    both = {order: torch.tensor(d) for order in ORDERS}
    signs = dict(zip(ORDERS, (1.0, -1.0), strict=True))
    scores = {order: torch.full((len(d), 1), nas * signs[order]) for order in ORDERS}
    paid = {order: torch.full((len(d), 1), mass) for order in ORDERS}
    before = {order: torch.full((len(d), 1), 0.2) for order in ORDERS}
    named, named_before = ({order: torch.full((len(d),), log) for order in ORDERS} for log in (-0.5, -0.2))
    return Step(torch.tensor(labels), both, named, named_before, scores, paid, before)


def test_objectives_by_hand() -> None:
    assert float(Answer(0)(step_of([0.0, 0.0, 0.0], [True, False, False]))) == pytest.approx(np.log(2))
    # all right and far: nothing to lose but the mass; one yes weighs as much as two noes
    assert float(Answer(2)(step_of([-50.0, 50.0, 50.0], [True, False, False]))) == pytest.approx(2 * 0.09)
    assert float(Answer(0)(step_of([50.0, 50.0, 50.0], [True, False, False]))) == pytest.approx(25)
    assert float(Balance()(step_of([3.0, -1.0], [True, False]))) == pytest.approx(1)
    # opposite scores in the two orders are order, not polarity
    assert float(NegativeAttention()(step_of([0.0], [True], nas=2.0))) == 0
    assert float(NegativeAttention("values")(step_of([0.0], [True], nas=2.0))) == pytest.approx(4)
    assert float(NegativeAttention(keep_mass=3)(step_of([0.0], [True], mass=0.3))) == pytest.approx(0.03)


def test_weighted_sums_add_up_and_read_what_their_terms_read() -> None:
    both = Answer() + 0.5 * (Balance() + 2 * NegativeAttention("values"))
    assert isinstance(both, WeightedSum)
    assert [weight for weight, _ in both.terms] == [1, 0.5, 1.0]
    assert both.reads == {"answer", "attention"}
    step = step_of([1.0, 2.0], [True, False], nas=0.5)
    parts = [Answer()(step), 0.5 * Balance()(step), NegativeAttention("values")(step)]
    assert float(both(step)) == pytest.approx(float(sum(parts)))
    with pytest.raises(HeadError, match="polarity"):
        NegativeAttention("order")
