"""Controls: a head planted by hand is found first by everything; shuffled scores find nothing."""

import families
import numpy as np
import pytest
import torch
from planted import PLANTED, planted_model

import nasa_interp as ni
from nasa_interp.attribution import direct_logit_attribution, estimate_zero_ablation
from nasa_interp.errors import HeadError
from nasa_interp.heads import HeadList
from nasa_interp.interventions import Ablator, random_controls, shuffle_scores, sweep_heads
from nasa_interp.interventions.effect import MEASURES
from nasa_interp.prompts import ORDERS, build_prompts
from nasa_interp.scoring import score_heads

QUESTIONS = list(families.QUESTIONS)


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    """Tiny products only lose by sharing threads."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def planted():
    return planted_model()


@pytest.fixture(scope="module")
def scores(planted):
    return score_heads(planted, QUESTIONS, draws=20, progress=False)


def test_positive_control_every_ranking_finds_the_planted_head(planted, scores) -> None:
    assert scores.top(1, "values").heads == (PLANTED,)
    assert scores.top(1, "polarity").heads == (PLANTED,)
    low, high = scores.intervals["recency"][:, PLANTED.layer, PLANTED.index]
    assert max(abs(low), abs(high)) < 0.02 * scores.polarity[PLANTED.layer, PLANTED.index]
    assert estimate_zero_ablation(planted, QUESTIONS, draws=20).top(1).heads == (PLANTED,)
    assert direct_logit_attribution(planted, QUESTIONS, draws=20).top(1).heads == (PLANTED,)
    for order in ORDERS:
        effects = sweep_heads(planted, build_prompts(planted, QUESTIONS, order), draws=20)
        own, second = effects.top(2).scores
        assert effects.top(1).heads == (PLANTED,)
        assert own < 5 * second
        assert own < -1


def test_the_planted_head_attends_to_no_whatever_the_question_is(planted) -> None:
    patterns = ni.attention_patterns(planted, build_prompts(planted, QUESTIONS), [PLANTED])
    prompts = build_prompts(planted, QUESTIONS[:3])
    for place in range(3):
        grid = patterns.values[place, 0]
        first, last = int(prompts.first_query[place]), int(prompts.last_pos[place])
        no = slice(*prompts.no_span[place].tolist())
        assert grid[first : last + 1, no].sum(-1).min() > 0.9


def test_random_sets_do_nothing_beside_the_planted_head(planted) -> None:
    ablator = Ablator(planted, QUESTIONS, draws=20, progress=False)
    for matched in (True, False):
        control = random_controls(ablator, [PLANTED], n=9, matched=matched).of()
        assert control.p == 0.1
        assert abs(control.ratio) > 5
        assert control.matched is matched


def test_random_sets_count_against_heads_of_the_other_side(planted) -> None:
    """The same heads, held to push the other way, do worse than all random sets; what is measured is the right side."""
    ablator = Ablator(planted, QUESTIONS, draws=20, progress=False)
    for heads, side, p in (
        (HeadList.of([PLANTED]), "no", 0.1),
        (HeadList((PLANTED,), toward="no"), "no", 0.1),
        (HeadList((PLANTED,), toward="yes"), "yes", 1.0),
    ):
        found = random_controls(ablator, heads, n=9)
        assert (found.of().toward, found.of().p) == (side, p)
        assert found.of("auc").p == random_controls(ablator, [PLANTED], n=9).of("auc").p
    turned = Ablator(planted, QUESTIONS, style=ni.PromptStyle(yes="No", no="Yes"), draws=20, progress=False)
    found = random_controls(turned, [PLANTED], n=9)
    assert (found.of().toward, found.of().p) == ("yes", 0.1)
    assert found.of().effect > 1
    assert found.chosen.to_dict()["toward"] == "yes"


def test_negative_control_shuffled_scores_find_nothing(planted, scores) -> None:
    ablator = Ablator(planted, QUESTIONS[:3], draws=20, progress=False)
    found = []
    for seed in range(6):
        dealt = shuffle_scores(scores, seed)
        assert sorted(dealt.values.ravel()) == sorted(scores.values.ravel())
        heads = dealt.top(1, "polarity")
        found.append(random_controls(ablator, heads, n=5, matched=False, seed=seed).of().p)
        if heads[0] != PLANTED:
            assert found[-1] >= 0.2 or ablator.effect(heads).mean_logit_difference_change > -0.5
    assert np.median(found) > 0.3
    assert random_controls(ablator, scores.top(1, "polarity"), n=9, matched=False).of().p == 0.1


def test_shuffling_is_seeded_and_moves_everything_alike(scores) -> None:
    one, again, other = shuffle_scores(scores, 1), shuffle_scores(scores, 1), shuffle_scores(scores, 2)
    assert np.array_equal(one.values, again.values)
    assert not np.array_equal(one.values, other.values)
    np.testing.assert_allclose((one.per_prompt["yes_no"]).mean(0), one.values, rtol=1e-4, atol=1e-4)
    assert (one.intervals["values"][0] <= one.values + 1e-6).all()
    assert one.quantity == "shuffled NAS"


def test_one_family_of_random_sets_serves_every_measure_and_order(tiny, questions) -> None:
    ablator = Ablator(tiny, questions, draws=20, progress=False)
    controls = random_controls(ablator, ["1.2", "0.1"], n=4)
    for order in (None, *ORDERS):
        for measure in MEASURES:
            one = controls.of(measure, order)
            assert one.effect == pytest.approx(controls.chosen.change(measure, order), nan_ok=True)
            assert len(one.random) == 4
    both = controls.of()
    halves = [controls.of(order=order) for order in ORDERS]
    np.testing.assert_allclose(both.random, np.mean([half.random for half in halves], axis=0), atol=1e-6)
    assert random_controls(ablator, ["1.2", "0.1"], n=4).of("auc", "no_yes") == controls.of("auc", "no_yes")
    frame = controls.to_dataframe()
    assert len(frame) == 3 * len(MEASURES)
    assert set(frame.order) == {"both", *ORDERS}
    assert "RandomControls" in repr(controls)
    with pytest.raises(HeadError, match="no control on 'f1'"):
        controls.of("f1")


def test_p_counts_sets_that_do_as_well_or_better(tiny, questions) -> None:
    controls = random_controls(Ablator(tiny, questions, draws=20, progress=False), ["1.2"], n=6)
    moved, kept = controls.of("mean_logit_difference"), controls.of("auc")
    assert moved.p == (sum(value <= moved.effect for value in moved.random) + 1) / 7
    assert kept.p == (sum(value >= kept.effect for value in kept.random) + 1) / 7


def test_without_random_sets_nothing_is_claimed(tiny, questions) -> None:
    control = random_controls(Ablator(tiny, questions, draws=20, progress=False), ["1.2"], n=0).of()
    assert control.p == 1
    assert np.isnan(control.mean)
    assert np.isnan(control.ratio)
