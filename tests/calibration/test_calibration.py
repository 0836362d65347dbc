"""A calibration takes the lean off and leaves the sorting: laws on made-up decisions, tiny models and the real one."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from families import tiny_model, tiny_tokenizer
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import GenerationConfig

import nasa_interp as ni
from nasa_interp.calibration import fit_calibration
from nasa_interp.calibration.fit import offset_of
from nasa_interp.decisions import BinaryReport, average_orders
from nasa_interp.errors import CalibrationError, QuestionError, ResultError
from nasa_interp.evaluation import decide_by_generation
from nasa_interp.models.bridge import build_bridge
from nasa_interp.prompts import ORDERS, build_prompts

pytestmark = [
    pytest.mark.filterwarnings("ignore:answer mass"),
    pytest.mark.filterwarnings("ignore:calibrated on"),
    pytest.mark.filterwarnings("ignore:yes is right for"),
]
QUIET = {"draws": 20, "progress": False}


def asked(n: int, labeled: bool = True) -> list[ni.BinaryQuestion]:
    return [ni.BinaryQuestion(f"Is {i} {'even' if i % 3 else 'small'}?", i % 2 == 0 if labeled else None, str(i))
            for i in range(n)]  # fmt: skip


def report_of(d: np.ndarray, labeled: bool = True) -> BinaryReport:
    """Made-up decisions: one row an order."""
    questions = asked(d.shape[1], labeled)
    run = ni.RunInfo("m", "made up", len(questions), ORDERS, "h", {"yes": "Yes", "no": "No"}, draws=50)
    order = tuple(o for o in ORDERS for _ in questions)
    return BinaryReport(d.ravel(), np.full(d.size, 0.9), order, tuple(questions) * 2, run)


@pytest.fixture(scope="module")
def prompts():
    return build_prompts(ni.load_model(tiny_model("llama"), tokenizer=tiny_tokenizer()), asked(2))


@settings(deadline=None, max_examples=50)
@given(
    st.integers(0, 2**32 - 1), st.sampled_from(["mean", "quantile"]), st.sampled_from([0.2, 0.5, 0.8]), st.booleans()
)
def test_it_gives_the_expected_rate_and_leaves_the_sorting_to_the_last_bit(prompts, seed, by, prior, labeled) -> None:
    rng = np.random.default_rng(seed)
    d = rng.normal([[3.0], [4.0]], 2, (2, 400)).astype(np.float32).astype(np.float64)
    base = report_of(d, labeled)
    one = fit_calibration(base, prompts, prior=prior, by=by)
    after = base.calibrated(one)
    for order in ORDERS:
        assert abs(after.orders[order].yes_rate - prior) < (0.08 if by == "mean" else 1e-9)
        assert np.array_equal(after.orders[order].auc, base.orders[order].auc, equal_nan=True)
        assert one.low[order] <= one.offsets[order] <= one.high[order]
    ranks = [np.argsort(np.argsort(r.logit_differences[:400])).tolist() for r in (base, after)]
    assert ranks[0] == ranks[1]
    assert np.array_equal(after.answer_masses, base.answer_masses)
    assert "calibrated: d less" in after.run.notes[-1]


def test_shifting_all_decisions_shifts_the_offset_alone(prompts) -> None:
    d = np.random.default_rng(0).normal(0, 1, (2, 64))
    one, other = (fit_calibration(report_of(x), prompts, by="quantile") for x in (d, d + 2))
    assert all(abs(other.offsets[o] - one.offsets[o] - 2) < 1e-6 for o in ORDERS)


@pytest.mark.parametrize("by", ["mean", "quantile"])
def test_a_weight_of_two_is_the_question_twice(by) -> None:
    d, weights = np.array([-1.0, 0.5, 2.0, 4.0]), np.array([[1.0, 2.0, 1.0, 0.0]])
    twice = offset_of(np.array([-1.0, 0.5, 0.5, 2.0]), np.ones((1, 4)), 0.5, by)
    assert abs(offset_of(d, weights, 0.5, by) - twice) < 1e-9


def test_a_calibration_is_saved_and_loaded_whole(prompts, tmp_path) -> None:
    one = fit_calibration(report_of(np.random.default_rng(0).normal(1, 1, (2, 40))), prompts)
    assert ni.Calibration.load(one.save(tmp_path / "c.json")) == one
    (tmp_path / "c.json").write_text((tmp_path / "c.json").read_text().replace('"yes_no"', '"yes_maybe"'))
    with pytest.raises(ResultError, match=r"c\.json.*calibrate again"):
        ni.Calibration.load(tmp_path / "c.json")


def test_what_does_not_belong_together_is_refused(prompts) -> None:
    base = report_of(np.random.default_rng(0).normal(1, 1, (2, 40)))
    one = fit_calibration(base, prompts)
    with pytest.raises(CalibrationError, match="of m with weights other"):
        base.calibrated(replace(one, run=replace(one.run, model_hash="other")))
    words = {"yes": "True", "no": "False"}
    with pytest.raises(CalibrationError, match="for the candidates True/False"):
        base.calibrated(replace(one, run=replace(one.run, template=words)))
    with pytest.raises(CalibrationError, match="for the wording"):
        base.calibrated(replace(one, run=replace(one.run, template={**base.run.template, "instruction": "x"})))
    with pytest.raises(CalibrationError, match="no offset for order 'no_yes'"):
        base.calibrated(replace(one, offsets={"yes_no": 1.0}))
    with pytest.raises(CalibrationError, match="not the model's own any more"):
        base.calibrated(one).calibrated(one)
    with pytest.raises(CalibrationError, match="not the model's own any more"):
        average_orders(base).calibrated(one)
    for prior in (0.0, 1.0, -1.0, float("nan")):
        with pytest.raises(CalibrationError, match="is no rate between 0 and 1"):
            fit_calibration(base, prompts, prior=prior)


def test_questions_that_cannot_tell_an_offset_are_refused_and_poor_ones_warned_of(prompts) -> None:
    with pytest.raises(CalibrationError, match="asks one question"):
        fit_calibration(report_of(np.ones((2, 1))), prompts)
    with pytest.raises(CalibrationError, match="the same decision to the last bit"):
        fit_calibration(report_of(np.ones((2, 40))), prompts)
    with pytest.warns(UserWarning, match="on 8 questions only"):
        fit_calibration(report_of(np.random.default_rng(0).normal(1, 1, (2, 8))), prompts)
    with pytest.warns(UserWarning, match=r"yes is right for 50% .* expects 80%"):
        fit_calibration(report_of(np.random.default_rng(0).normal(1, 1, (2, 64))), prompts, prior=0.8)


def test_the_bias_raises_the_candidate_that_the_model_leans_away_from(prompts) -> None:
    one = fit_calibration(report_of(np.random.default_rng(0).normal([[3.0], [-3.0]], 1, (2, 40))), prompts)
    yes, no = (one.logit_bias(order) for order in ORDERS)
    assert set(yes) == set(prompts.yes_variants)
    assert set(no) == set(prompts.no_variants)
    assert min(*yes.values(), *no.values()) > 0
    with pytest.raises(CalibrationError, match="no bias on a first token tells them apart"):
        replace(one, shared=(5,)).logit_bias("yes_no")


@pytest.mark.parametrize("view", ["plain", "hooked"])
def test_generated_answers_follow_the_calibrated_decisions(view) -> None:
    """On a random model no answer begins with a candidate, so a hook of the user's silences all other tokens."""
    hf, tokenizer = tiny_model("llama"), tiny_tokenizer()
    questions, words = asked(24), ni.PromptStyle()
    model = ni.load_model(hf, tokenizer=tokenizer)
    prompts = build_prompts(model, questions, "yes_no", words)
    others = torch.ones(len(tokenizer), dtype=torch.bool)
    others[[prompts.yes_token, prompts.no_token]] = False
    if view == "plain":
        hf.lm_head.register_forward_hook(lambda module, inputs, logits: logits.masked_fill(others, -1e4))
    else:
        bridge = build_bridge(hf, tokenizer, "mine")
        bridge.add_hook("unembed.hook_out", lambda logits, hook: logits.masked_fill(others, -1e4))
        model = ni.load_model(bridge)
    one = ni.calibrate(model, questions, style=words, **QUIET)
    decided = ni.decide(model, questions, style=words, **QUIET).calibrated(one)
    said = decide_by_generation(model, questions, style=words, max_new_tokens=1, calibration=one, progress=False)
    mine = (decided.logit_differences < 0).tolist()
    begun = [(a, m) for a, m in zip(said.answers, mine, strict=True) if a is not None]
    assert len(begun) > 24
    assert {a for a, _ in begun} == {True, False}
    assert all(a == m for a, m in begun)
    without = decide_by_generation(model, questions, style=words, max_new_tokens=1, progress=False)
    assert without.answers != said.answers


def test_the_processor_acts_at_the_first_token_alone() -> None:
    model = ni.load_model(tiny_model("llama"), tokenizer=tiny_tokenizer())
    questions = asked(6)
    one = ni.calibrate(model, questions, **QUIET)
    processor = one.processor("yes_no", 7)
    scores = torch.zeros(2, 600)
    raised = processor(torch.zeros(2, 7, dtype=torch.long), scores)
    assert set(raised.nonzero()[:, 1].tolist()) == set(one.logit_bias("yes_no"))
    assert processor(torch.zeros(2, 8, dtype=torch.long), scores) is scores
    assert not scores.any()
    prompts = build_prompts(model, questions[:1])
    tokens = prompts.tokens[:, : int(prompts.last_pos[0]) + 1]
    config = GenerationConfig(max_new_tokens=2, do_sample=False, pad_token_id=0)
    with torch.no_grad():
        model.hf.generate(tokens, generation_config=config, logits_processor=[one.processor("yes_no", tokens.shape[1])])


def test_several_instructions_are_refused_before_anything_runs() -> None:
    style = ni.PromptStyle(("Answer {first} or {second}.", "Say {first} or {second}."))
    with pytest.raises(CalibrationError, match="2 instructions take turns"):
        ni.calibrate(object(), asked(4), style=style)


def test_without_labels_what_needs_them_is_undefined_and_says_so(tmp_path) -> None:
    model, questions = ni.load_model(tiny_model("llama"), tokenizer=tiny_tokenizer()), asked(12, labeled=False)
    report = ni.decide(model, questions, **QUIET)
    labeled = ni.decide(model, asked(12), **QUIET)
    assert np.isnan([report.accuracy, report.imbalance, report.auc, report.ece, report.recall]).all()
    assert report.yes_rate == labeled.yes_rate
    assert report.mean_logit_difference == labeled.mean_logit_difference
    assert report.verdict.startswith("Bias can't be told without labels")
    loaded = BinaryReport.load(report.save(tmp_path / "r.json"))
    assert loaded.questions == report.questions
    assert loaded.to_dataframe()["right"].isna().all()
    one, other = (ni.calibrate(model, q, **QUIET) for q in (questions, asked(12)))
    assert one.offsets == other.offsets
    assert np.isnan(decide_by_generation(model, questions, max_new_tokens=1, progress=False).accuracy)
    effect = ni.ablation_effect(model, questions, ["0.1"], **QUIET)
    assert np.isfinite(effect.mean_logit_difference_change)
    other = [replace(q, question=f"Well? {q.question}", id=f"w{q.id}") for q in asked(12)]
    recipe = ni.Recipe(objective=ni.alignment.Answer())
    with pytest.raises(QuestionError, match="have no labels"):
        ni.align_heads(model, ["0.1"], asked(12, labeled=False), other, recipe=recipe, progress=False)
    with pytest.raises(QuestionError, match="question '1' has no label, and others have one"):
        ni.decide(model, [*asked(1), replace(asked(2)[1], label=None)], progress=False)


def test_the_embedded_model_is_balanced_by_unlabeled_questions(demo) -> None:
    fitted = ni.load_questions("builtin:verify#val", limit=32, unlabeled=True)
    others = ni.load_questions("builtin:verify#probe", limit=32)
    base = ni.decide(demo, others, **QUIET)
    after = base.calibrated(ni.calibrate(demo, fitted, **QUIET))
    assert base.yes_rate < 0.05
    assert 0.25 < after.yes_rate < 0.75
    assert after.accuracy > base.accuracy
    free = ni.calibrate(demo, "builtin:content-free", **QUIET)
    assert set(free.offsets) == set(ORDERS)
