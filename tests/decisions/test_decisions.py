"""Measures against hand computation and libraries; reports; decisions on tiny and embedded models."""

import math

import numpy as np
import pytest
import torch
from torchmetrics.functional.classification import binary_auroc, binary_calibration_error

import nasa_interp as ni
from nasa_interp.bootstrap import cluster_index, draw_weights, interval
from nasa_interp.decisions import BinaryReport, answer_differences
from nasa_interp.errors import ResultError
from nasa_interp.evaluation import first_candidate
from nasa_interp.measures import measure, measure_draws, recovered
from nasa_interp.prompts import build_prompts
from nasa_interp.run import RunInfo

RUN = RunInfo("tiny", "made up", 4, ("yes_no",), draws=50)


def random_decisions(seed, n=60, ties=False):
    rng = np.random.default_rng(seed)
    label = rng.random(n) < 0.4
    d = rng.normal(size=n) - label
    return (np.round(d) if ties else d), label, rng.random(n)


def test_measures_by_hand():
    d = np.array([-1.0, -2.0, 0.5, 0.0, 1.0])
    label = np.array([True, False, True, True, False])
    m = measure(d, label, np.full(5, 0.5))
    assert (m.accuracy, m.precision, m.recall) == pytest.approx((2 / 5, 1 / 2, 1 / 3))
    assert m.gap == pytest.approx(1 / 2 - 1 / 3)
    assert m.imbalance == pytest.approx((2 - 1) / 5)
    assert m.yes_rate == pytest.approx(2 / 5)
    assert m.base_rate == pytest.approx(3 / 5)
    assert m.imbalance == pytest.approx(m.base_rate - m.yes_rate)
    assert m.f1 == pytest.approx(2 / 5)
    assert m.false_yes_rate == pytest.approx(1 / 2)
    assert m.oracle_accuracy == pytest.approx(4 / 5)
    assert m.mean_logit_difference == pytest.approx(-0.3)


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("seed", range(5))
def test_auc_and_calibration_agree_with_torchmetrics(seed, ties):
    d, label, mass = random_decisions(seed, ties=ties)
    m = measure(d, label, mass)
    p, target = torch.tensor(-d).sigmoid(), torch.tensor(label).int()
    ranks = torch.tensor(-d).unique(return_inverse=True)[1].double() / len(d)
    assert m.auc == pytest.approx(binary_auroc(ranks, target).item(), abs=1e-6)
    assert m.ece == pytest.approx(binary_calibration_error(p, target, n_bins=15).item(), abs=1e-6)


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("seed", range(5))
def test_oracle_accuracy_is_the_best_of_all_thresholds(seed, ties):
    d, label, mass = random_decisions(seed, ties=ties)
    best = max(np.mean((d < t) == label) for t in [-np.inf, *d, np.inf])
    assert measure(d, label, mass).oracle_accuracy == pytest.approx(best)


@pytest.mark.parametrize("seed", range(3))
def test_weighted_measures_are_those_of_the_repeated_sample(seed):
    d, label, mass = random_decisions(seed, ties=True)
    weights = np.random.default_rng(seed).integers(0, 3, size=(4, len(d))).astype(float)
    together = measure_draws(d, label, mass, weights)
    for row, w in enumerate(weights.astype(int)):
        alone = measure(np.repeat(d, w), np.repeat(label, w), np.repeat(mass, w))
        for name, value in alone.numbers().items():
            np.testing.assert_allclose(together[name][row], value, atol=1e-9, err_msg=name)


def test_what_is_undefined_is_nan():
    m = measure(np.array([1.0, 2.0]), np.array([True, False]), np.ones(2))
    assert math.isnan(m.precision)
    assert math.isnan(m.gap)
    assert m.recall == 0
    assert m.imbalance == 0.5
    one_label = measure(np.array([1.0, -2.0]), np.array([True, True]), np.ones(2))
    assert math.isnan(one_label.auc)
    assert math.isnan(one_label.false_yes_rate)


def test_recovered_needs_room():
    base = measure(np.array([1.0, 2.0, 3.0, 4.0]), np.array([True, True, False, False]), np.ones(4))
    assert recovered(0.75, base) == pytest.approx(0.5)
    assert recovered(1.0, base) == 1
    flat = measure(np.array([1.0, 2.0, 3.0, 4.0]), np.array([False, False, True, True]), np.ones(4))
    assert math.isnan(recovered(0.75, flat))


def test_bootstrap_draws_twins_and_orders_together(questions):
    clusters = cluster_index([q.id for q in questions] * 2, [q.pair for q in questions] * 2)
    weights = draw_weights(clusters, draws=30, seed=1)
    assert np.array_equal(weights[:, 0], weights[:, 1])
    assert np.array_equal(weights[:, : len(questions)], weights[:, len(questions) :])
    assert not np.array_equal(weights[:, 2], weights[:, 3])
    assert np.array_equal(weights, draw_weights(clusters, draws=30, seed=1))


def test_a_pair_never_clusters_with_an_id_of_the_same_name():
    assert len(set(cluster_index(["x", "y"], [None, "x"]))) == 2


def test_an_interval_covers_what_it_should():
    rng = np.random.default_rng(0)
    hits = 0
    for trial in range(100):
        sample = rng.normal(size=80)
        weights = draw_weights(np.arange(80), draws=400, seed=trial)
        low, high = interval(weights @ sample / 80)
        hits += low <= 0 <= high
    assert 87 <= hits <= 99


def test_interval_leaves_out_what_is_undefined():
    samples = np.array([[1.0, np.nan], [np.nan, np.nan], [3.0, np.nan]])
    low, high = interval(samples)
    assert 1 <= low[0] < high[0] <= 3
    assert np.isnan(low[1])


def made_up(d, labels, mass=0.9):
    asked = tuple(ni.BinaryQuestion(f"{i}?", bool(label), str(i)) for i, label in enumerate(labels))
    return BinaryReport(np.array(d), np.full(len(d), mass), ("yes_no",) * len(d), asked, RUN)


def test_one_question_has_no_interval_and_no_verdict():
    report = made_up([-1.0], [True])
    assert np.isnan(report.overall.low.imbalance)
    assert report.overall.text("accuracy") == "1.00 (no interval)"
    assert report.verdict.startswith("Bias can't be told from one question")


@pytest.mark.parametrize("label", [True, False])
@pytest.mark.parametrize("says_yes", [0.0, 0.3, 1.0])
def test_questions_of_one_label_tell_nothing_of_bias(label, says_yes):
    n = 20
    d = [-1.0] * int(says_yes * n) + [1.0] * (n - int(says_yes * n))
    said = made_up(d, [label] * n).verdict
    assert said.startswith("Bias can't be told from these questions")
    assert f"{'yes' if label else 'no'} is right for all {n}" in said
    assert f"says Yes to {says_yes:.0%}" in said
    assert said.endswith(f"add questions whose right answer is {'no' if label else 'yes'}.")


def test_the_verdict_tells_bias_from_base_rate():
    rng = np.random.default_rng(0)
    noise = rng.normal(size=60)
    balanced, mostly_no = np.arange(60) % 2 == 0, np.arange(60) % 10 == 0
    assert made_up(noise + 5, balanced).verdict.startswith("Negative bias")
    assert made_up(noise - 5, balanced).verdict.startswith("Positive bias")
    assert made_up(np.where(balanced, -1.0, 1.0), balanced).verdict.startswith("No bias shown: the model")
    assert "data are mostly No" in made_up(np.where(mostly_no, -1.0, 1.0), mostly_no).verdict


def test_a_tie_is_no():
    assert made_up([0.0, 0.0], [True, False]).yes_rate == 0


def test_low_answer_mass_warns_by_group():
    assert made_up([1.0, 2.0], [True, False]).warnings == []
    assert "all 0.30" in made_up([1.0, 2.0], [True, False], mass=0.3).warnings[0]


def test_report_saves_loads_and_shows(tiny, questions, tmp_path):
    with pytest.warns(UserWarning, match="answer mass under"):
        report = ni.decide(tiny, questions, progress=False)
    loaded = BinaryReport.load(report.save(tmp_path / "report.json"))
    assert loaded.overall == report.overall or repr(loaded.overall) == repr(report.overall)
    assert loaded.run == report.run
    np.testing.assert_array_equal(loaded.logit_differences, report.logit_differences)
    assert set(report.groups) == {"facts", "sums"}
    assert set(report.orders) == {"yes_no", "no_yes"}
    assert report.estimate("facts", "yes_no").n == 3
    assert "<table" in report._repr_html_()
    with pytest.raises(ResultError, match="no decisions in group 'x'"):
        report.estimate("x")
    (tmp_path / "bad.json").write_text("{}")
    with pytest.raises(ResultError, match="does not hold a report"):
        BinaryReport.load(tmp_path / "bad.json")


def test_decisions_are_those_of_one_prompt_at_a_time(tiny, questions):
    prompts = build_prompts(tiny, questions, "no_yes")
    d, mass = answer_differences(tiny, prompts, batch_size=4)
    for i in range(len(prompts)):
        with torch.no_grad():
            logits = tiny.hf(prompts.tokens[i : i + 1, : prompts.last_pos[i] + 1]).logits[0, -1]
        assert d[i] == pytest.approx((logits[prompts.no_token] - logits[prompts.yes_token]).item(), abs=1e-4)
        both = [*prompts.yes_variants, *prompts.no_variants]
        assert mass[i] == pytest.approx(logits.softmax(-1)[both].sum().item(), abs=1e-5)


@pytest.mark.parametrize(
    ("text", "answer"),
    [("Yes, it is.", True), ("No.", False), ("Well, no: Yes", False), ("I know nothing", None), ("yes", True)],
)
def test_the_first_candidate_word_is_the_answer(text, answer):
    assert first_candidate(text, ni.PromptStyle()) is answer


def test_generation_counts_answers_that_name_neither(tiny, questions):
    found = ni.evaluation.decide_by_generation(tiny, questions, max_new_tokens=3, progress=False)
    assert sum(found.counts.values()) == len(questions) * 2
    assert found.counts["neither"] == sum(a is None for a in found.answers)
    assert len(found.to_dataframe()) == len(questions) * 2


def test_generation_continues_each_prompt_as_if_it_were_alone(demo):
    asked = ni.load_questions("builtin:verify#val", limit=6)
    together = ni.evaluation.decide_by_generation(demo, asked, "yes_no", max_new_tokens=4, progress=False)
    alone = [
        ni.evaluation.decide_by_generation(demo, [q], "yes_no", max_new_tokens=4, progress=False).texts[0]
        for q in asked
    ]
    assert list(together.texts) == alone


@pytest.mark.filterwarnings("ignore:answer mass under")
def test_the_embedded_model_says_no_and_knows_better(demo):
    report = ni.decide(demo, "builtin:verify#val", limit=120, progress=False)
    assert report.recall < 0.1
    assert report.imbalance > 0.4
    assert report.verdict.startswith("Negative bias")
    for group in ("same_word", "stated_fact", "presence"):
        for order in ("yes_no", "no_yes"):
            assert report.estimate(group, order).auc > 0.75, (group, order)
    assert report.estimate("sentiment", "yes_no").auc > 0.75


@pytest.mark.filterwarnings("ignore:.*answer mass")
def test_a_bootstrap_without_a_defined_draw_has_no_interval(tiny, questions) -> None:
    """A single draw of few questions may hold one label only: its AUC is undefined, and so is its interval."""
    assert np.isnan(interval(np.empty((0, 3)))).all()
    report = ni.decide(tiny, questions, draws=1, progress=False)
    assert report.auc == ni.decide(tiny, questions, draws=50, progress=False).auc
