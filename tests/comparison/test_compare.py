"""Laws of the baselines and of the comparison: what is fitted on validation, what stays as it is, what is paired."""

import shutil
from dataclasses import replace

import families
import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from nasa_interp import BinaryQuestion, decide, load_model
from nasa_interp.alignment import Answer, Limits, NegativeAttention, Recipe
from nasa_interp.alignment.setting import Setting
from nasa_interp.calibration import calibrate
from nasa_interp.comparison import compare as compare_module
from nasa_interp.comparison import compare_methods
from nasa_interp.comparison.baselines import Offset, best_factor, best_offset, scaled_heads
from nasa_interp.comparison.lora import _of_answers, adapted, fit_lora, projections_of
from nasa_interp.comparison.methods import METHODS, Methods, random_sets
from nasa_interp.comparison.table import Comparison
from nasa_interp.comparison.verdict import verdict_of
from nasa_interp.decisions import BinaryReport, average_orders, report_decisions
from nasa_interp.errors import AlignmentError, HeadError, QuestionError, ResultError
from nasa_interp.evaluation import TextReference
from nasa_interp.evaluation.paired import Paired, average, estimate
from nasa_interp.heads import HeadList
from nasa_interp.interventions import Scale, ablation_effect
from nasa_interp.measures import measure
from nasa_interp.prompts import ORDERS
from nasa_interp.questions import QuestionList
from nasa_interp.run import RunInfo
from nasa_interp.session import resolve_prompts

# Ten questions are few, and the model is random: that is said each time.
pytestmark = pytest.mark.filterwarnings("ignore:calibrated on")

TEXTS = ["Water freezes at zero degrees; iron is a metal.", "The moon goes around the earth."]
# A tiny random model has nothing to lose: what validation may cost is left open.
OPEN = Limits(imbalance=0.0, auc=1.0, answer_mass=1.0, perplexity=100.0)
RECIPE = Recipe(projections="qo", steps=3, check_every=1, learning_rate=0.02, questions=6)
HEADS = ("1.0", "1.2")
QUICK = {"recipe": RECIPE, "limits": OPEN, "seeds": (0, 1), "n_random": 1, "texts": TEXTS, "val_texts": TEXTS,
         "groups": (), "draws": 100, "progress": False}  # fmt: skip


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    """Tiny products only lose by sharing threads."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def model():
    return load_model(families.tiny_model("llama"), tokenizer=families.tiny_tokenizer())


def asked(start: int, n: int = 10) -> list[BinaryQuestion]:
    return [
        BinaryQuestion(f"Is {i} greater than {i + (-1) ** i}?", i % 2 == 1, f"q{i}") for i in range(start, start + n)
    ]


def run(model, heads=HEADS, probe=None, val=None, test=None, **options):
    return compare_methods(
        model, heads, probe or asked(0), val or asked(100), test or asked(200), **{**QUICK, **options}
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("compared")


@pytest.fixture(scope="module")
def compared(model, folder):
    before, flags = model.weights_hash(), [p.requires_grad for p in model.hf.parameters()]
    found = run(model, folder=folder)
    assert model.weights_hash() == before
    assert [p.requires_grad for p in model.hf.parameters()] == flags
    return found


def report(d_of_orders, label) -> BinaryReport:
    n = len(label)
    questions = tuple(BinaryQuestion(f"Q{i}?", bool(label[i]), f"q{i}") for i in range(n)) * len(d_of_orders)
    order = tuple(each for each, _ in zip(ORDERS, d_of_orders, strict=False) for _ in range(n))
    d = np.concatenate([np.asarray(d, dtype=np.float64) for d in d_of_orders])
    return BinaryReport(d, np.full(len(d), 0.5), order, questions, RunInfo("made", "up", n, (), draws=50))


DECISIONS = st.lists(st.tuples(st.floats(-4, 4, width=32) | st.integers(-2, 2).map(float), st.booleans()), min_size=1)


@settings(max_examples=150, deadline=None)
@given(DECISIONS)
def test_an_offset_reaches_the_oracle_accuracy_on_what_it_is_fitted_to(decisions) -> None:
    d, label = np.array([d for d, _ in decisions]), np.array([yes for _, yes in decisions])
    mass = np.full(len(d), 0.5)
    assert measure(d + best_offset(d, label), label, mass).accuracy == measure(d, label, mass).oracle_accuracy


def test_of_equally_good_offsets_the_middle_one_is_taken() -> None:
    d, label = np.array([1.0, 2.0, 3.0, 4.0]), np.array([True, True, False, False])
    assert best_offset(d, label) == -2.5
    # as good below 1 as between 2 and 3: the lower of the two
    assert best_offset(d[:3], np.array([False, True, False])) == -1.0
    assert best_offset(np.array([1.0, 3.0, 5.0, 7.0]), np.array([True, False, True, False])) == -2.0
    with pytest.raises(AlignmentError, match="no decisions"):
        best_offset(np.empty(0), np.empty(0, dtype=bool))


def test_an_offset_of_0_is_the_base_and_others_move_d_alone() -> None:
    rng = np.random.default_rng(0)
    base = report((rng.normal(1, 1, 30), rng.normal(2, 1, 30)), rng.random(30) < 0.5)
    assert Offset(dict.fromkeys(ORDERS, 0.0)).apply(base) is base
    one, each = Offset.fit(base), Offset.fit(base, by_order=True)
    assert len(set(one.offsets.values())) == 1 < len(set(each.offsets.values()))
    moved = each.apply(base)
    assert base.accuracy <= one.apply(base).accuracy == base.oracle_accuracy <= moved.accuracy
    assert moved.accuracy == np.mean([e.oracle_accuracy for e in base.orders.values()])
    for order in ORDERS:
        assert moved.orders[order].auc == base.orders[order].auc
    assert np.isnan(moved.answer_masses).all()
    with pytest.raises(AlignmentError, match="no offset for order 'no_yes'"):
        Offset({"yes_no": 1.0}).apply(base)


def test_the_average_of_orders_is_symmetric() -> None:
    rng = np.random.default_rng(1)
    one, other, label = rng.normal(size=12), rng.normal(size=12), np.arange(12) % 3 == 0
    mean, swapped = (average_orders(report(pair, label)) for pair in ((one, other), (other, one)))
    assert np.array_equal(mean.logit_differences, swapped.logit_differences)
    assert np.allclose(mean.logit_differences, np.tile((one + other) / 2, 2))
    assert np.array_equal(average_orders(report((one, one), label)).logit_differences, np.tile(one, 2))
    with pytest.raises(ResultError, match="one order only"):
        average_orders(report((one,), label))


@pytest.mark.parametrize("family", ["llama", "gpt2", "gpt_neox", "phi3"])
def test_scaled_heads_are_the_intervention(family, questions) -> None:
    model = load_model(families.tiny_model(family), tokenizer=families.tiny_tokenizer())
    effect = ablation_effect(model, questions, HEADS, Scale(0.25), draws=10, progress=False)
    with scaled_heads(model, HEADS, 0.25).applied(model):
        found = report_decisions(model, resolve_prompts(model, questions, "both", None, draws=10), progress=False)
    assert np.abs(found.logit_differences - effect.changed.logit_differences).max() < 1e-4
    assert np.abs(found.logit_differences - effect.base.logit_differences).max() > 1e-3
    assert scaled_heads(model, HEADS, 1.0).n_changed == 0


def test_the_best_factor_is_the_best_on_validation_and_nearest_to_1(model) -> None:
    before, prompts = model.weights_hash(), resolve_prompts(model, asked(100), "both", None)
    factor, found = best_factor(model, HEADS, prompts, (0.0, 0.5, 0.999))
    assert model.weights_hash() == before
    effect = ablation_effect(model, asked(100), HEADS, Scale(0.5), draws=10, progress=False)
    assert found[0.5] == effect.changed.accuracy
    assert factor == max(each for each, accuracy in found.items() if accuracy == max(found.values()))


def setting_of(model, **options) -> Setting:
    recipe = replace(RECIPE, **options)
    return Setting.of(model, HEADS, asked(0), asked(100), recipe, OPEN, None, 0)


@pytest.mark.parametrize("family", ["llama_tied", "gpt2", "gpt_neox", "mistral"])
def test_a_lora_leaves_the_model_bit_for_bit(family) -> None:
    model = load_model(families.tiny_model(family), tokenizer=families.tiny_tokenizer())
    before, tree = model.weights_hash(), [(name, id(module)) for name, module in model.hf.named_modules()]
    flags, state = [p.requires_grad for p in model.hf.parameters()], torch.random.get_rng_state()
    setting = setting_of(model)
    base = report_decisions(model, setting.val, progress=False)
    with adapted(model, projections_of(model), 2, 0) as (other, weights):
        fresh = report_decisions(other, setting.val, progress=False)
        assert np.array_equal(fresh.logit_differences, base.logit_differences)
        assert all(value.requires_grad and value.dtype == torch.float32 for value in weights.values)
        shared = {p.data_ptr() for p in model.hf.parameters()}
        assert {p.data_ptr() for name, p in other.hf.named_parameters() if "lora_" not in name} == shared
    lora = fit_lora(setting, TextReference.of(model, TEXTS, progress=False), rank=2, learning_rates=(1e-2, 1e-1))
    assert len(lora.tried) == 2
    assert lora.n_trained > 0
    with lora.applied(model) as other:
        tuned = report_decisions(other, setting.val, progress=False)
    assert np.abs(tuned.logit_differences - base.logit_differences).max() > 1e-3
    taken = [row for row in lora.tried if row["taken"]]
    assert [row["accuracy"] for row in taken] == [pytest.approx(tuned.accuracy)]
    assert model.weights_hash() == before
    assert [(name, id(module)) for name, module in model.hf.named_modules()] == tree
    assert [p.requires_grad for p in model.hf.parameters()] == flags
    assert torch.equal(torch.random.get_rng_state(), state)
    again = report_decisions(model, setting.val, progress=False)
    assert np.array_equal(again.logit_differences, base.logit_differences)


def test_a_lora_beyond_the_limits_is_no_change(model) -> None:
    setting = replace(setting_of(model), limits=replace(OPEN, perplexity=0.0))
    lora = fit_lora(setting, TextReference.of(model, TEXTS, progress=False), rank=2, learning_rates=(1e-2,))
    assert (lora.state, lora.n_trained, lora.tried[0]["taken"]) == (None, 0, False)
    assert "perplexity" in lora.tried[0]["reason"] or "imbalance" in lora.tried[0]["reason"]
    with lora.applied(model) as same:
        assert same is model


def test_a_lora_is_trained_on_answers_alone() -> None:
    assert _of_answers(Answer()) == Answer()
    assert _of_answers(NegativeAttention()) == Answer()
    mixed = 0.5 * Answer() + 2.0 * NegativeAttention()
    assert _of_answers(mixed).terms == ((0.5, Answer()),)


def test_the_text_is_compared_with_the_base_whichever_method_comes_first(model) -> None:
    """The base's text is read before anything is changed, also where no method before has read it."""
    entry = run(model, methods=("zero",)).of("zero")[0]
    assert entry.text is not None
    assert entry.text.base.model_hash == model.weights_hash()
    assert entry.text.run.model_hash != model.weights_hash()
    assert entry.text.ratio != 1.0


def test_one_table_holds_all_methods(compared) -> None:
    assert compared.methods == ("base", *METHODS)
    table = compared.to_dataframe()
    assert list(table.variant[table.method == "nasa"]) == ["seed 0", "seed 1"]
    assert len(table) == 16
    changed = set(table.method[table.perplexity_ratio.notna()])
    tuned = {"lora", "lora without labels", "random heads", "nasa without labels", "nasa"}
    assert changed == {"zero", "scale", *tuned}
    zero = table[table.method == "zero"].iloc[0]
    assert (zero.weights, zero.share) == (2 * 12 * 48, pytest.approx(zero.weights / parameters(compared)))
    for entry, row in zip(compared.entries, table.itertuples(), strict=True):
        assert row.accuracy == entry.report.accuracy
        assert row.accuracy_low <= row.accuracy <= row.accuracy_high
        assert row.imbalance_no_yes == entry.report.orders["no_yes"].imbalance
    offset = compared.of("offset")[0].report.logit_differences - compared.base.report.logit_differences
    assert np.ptp(offset) < 1e-9
    assert compared.details["seeds"] == [0, 1]
    with pytest.raises(ResultError, match="'voting' was not compared"):
        compared.of("voting")


@pytest.mark.filterwarnings("ignore:answer mass")
def test_a_calibration_and_tuning_without_labels_look_at_no_label(model, compared) -> None:
    """With all labels of probe and validation turned round, the same is fitted."""
    probe, val = ([replace(q, label=not q.label) for q in asked(start)] for start in (0, 100))
    methods = ("calibration", "nasa without labels", "lora without labels")
    again = run(model, probe=probe, val=val, methods=(*methods, "nasa"))
    for method in methods:
        one, other = compared.of(method)[0].report, again.of(method)[0].report
        assert np.array_equal(one.logit_differences, other.logit_differences)
    with_labels = (found.of("nasa")[0].report.logit_differences for found in (compared, again))
    assert not np.array_equal(*with_labels)
    one = calibrate(model, asked(100), draws=5, progress=False)
    expected = decide(model, asked(200), draws=5, progress=False).calibrated(one)
    assert np.array_equal(compared.of("calibration")[0].report.logit_differences, expected.logit_differences)


def parameters(compared) -> int:
    return sum(p.numel() for p in families.tiny_model("llama").parameters())


def test_differences_are_paired_and_count_several_runs_as_their_mean(compared) -> None:
    found = compared.differences().set_index(["method", "measure"])
    paired, mean = Paired(compared.base.report), np.mean([entry.report.accuracy for entry in compared.of("nasa")])
    for method in ("base", "zero", "average"):
        own = compared.of(method)[0].report
        row = found.loc[(method, "accuracy")]
        assert row.difference == pytest.approx(mean - own.accuracy)
        assert row.low <= row.difference <= row.high
        assert row.better == (own.accuracy >= mean)
    one, other = (paired.measures(compared.of(name)[0].report)["accuracy"] for name in ("base", "zero"))
    row = compared.differences(of="base").set_index(["method", "measure"]).loc[("zero", "accuracy")]
    assert (row.difference, row.low, row.high) == pytest.approx(tuple(estimate(one - other)))
    back = compared.differences(of="zero").set_index(["method", "measure"]).loc[("nasa", "accuracy")]
    there = found.loc[("zero", "accuracy")]
    assert (back.difference, back.low, back.high) == pytest.approx((-there.difference, -there.high, -there.low))


def test_groups_that_are_not_asked_are_not_pooled(compared, monkeypatch) -> None:
    """With few test questions a group that the model knows may have none."""
    validated, test = compared.base.report, compared.base.report.questions
    monkeypatch.setattr(compare_module, "groups_above_chance", lambda report: (test[0].group, "elsewhere"))
    assert compare_module._known_of(validated, QuestionList(test, "some")) == (test[0].group,)
    monkeypatch.setattr(compare_module, "groups_above_chance", lambda report: ("elsewhere",))
    with pytest.raises(ResultError, match="knows the groups elsewhere by validation, and some asks of none of them"):
        compare_module._known_of(validated, QuestionList(test, "some"))


def test_text_has_a_line_a_method(compared) -> None:
    head, *lines = compared.text().splitlines()
    assert [line.split("  ")[0] for line in lines[-1:]] == ["nasa (2 runs)"]
    assert len(lines) == len(compared.methods)
    assert "imbalance yes no" in head
    row = compared.summary().set_index("method").loc["zero"]
    shown = next(line for line in lines if line.startswith("zero "))
    assert f"{row.accuracy:+.2f} [{row.accuracy_low:+.2f}, {row.accuracy_high:+.2f}]" in shown


def test_the_mean_of_several_runs_varies_with_the_runs() -> None:
    """Runs that never vary with the questions: two of them are drawn as two coins."""
    runs, rng = [np.zeros(4001), np.ones(4001)], np.random.default_rng(0)
    mean = average(runs, rng)
    assert mean[0] == 0.5
    values, counts = np.unique(mean[1:], return_counts=True)
    np.testing.assert_array_equal(values, [0.0, 0.5, 1.0])
    np.testing.assert_allclose(counts / 4000, [0.25, 0.5, 0.25], atol=0.03)
    one = rng.normal(size=50)
    np.testing.assert_array_equal(average([one], rng), one)


def test_nothing_is_fitted_on_the_test(model, compared) -> None:
    """With all test labels turned round, the same is fitted and the same is decided."""
    turned = [replace(q, label=not q.label) for q in asked(200)]
    methods = ("offset", "offset per order", "scale", "lora")
    again = run(model, test=turned, methods=methods)
    for method in methods:
        one, other = compared.of(method)[0], again.of(method)[0]
        assert np.array_equal(one.report.logit_differences, other.report.logit_differences)
        assert one.fitted == other.fitted
    assert again.base.report.accuracy == pytest.approx(1 - compared.base.report.accuracy)


def test_a_comparison_that_was_killed_goes_on(model, compared, folder, tmp_path, monkeypatch) -> None:
    shutil.copytree(folder, tmp_path / "killed")
    for name in ("compare.json", "compare/nasa_seed_1/entry.json", "compare/zero/entry.json"):
        (tmp_path / "killed" / name).unlink()
    made = []
    for name in ("_nasa", "_zero", "_lora", "_scale", "_average", "_offset"):
        whole = getattr(Methods, name)
        monkeypatch.setattr(Methods, name, lambda *args, _n=name, _w=whole, **kw: made.append(_n) or _w(*args, **kw))
    again = run(model, folder=tmp_path / "killed")
    assert made == ["_zero", "_nasa"]
    same = [name for name in compared.to_dataframe().columns if name != "seconds"]
    assert again.to_dataframe()[same].equals(compared.to_dataframe()[same])
    with pytest.raises(AlignmentError, match="another heads"):
        run(model, heads=("1.0",), folder=tmp_path / "killed")


def test_saving_and_loading_is_exact(compared, tmp_path) -> None:
    compared.save(tmp_path)
    again = Comparison.load(tmp_path)
    assert again.to_dataframe().equals(compared.to_dataframe())
    assert (again.verdict, again.groups, again.run) == (compared.verdict, compared.groups, compared.run)
    assert (repr(again), again._repr_html_()) == (repr(compared), compared._repr_html_())
    (tmp_path / "compare" / "zero" / "entry.json").write_text("{}")
    with pytest.raises(ResultError, match="is damaged"):
        Comparison.load(tmp_path)
    (tmp_path / "compare.json").write_text("{}")
    with pytest.raises(ResultError, match="does not hold a comparison"):
        Comparison.load(tmp_path)


def test_heads_of_which_nothing_can_be_kept_are_a_result_too(model) -> None:
    found = run(model, methods=("nasa",), seeds=(0,), limits=replace(OPEN, answer_mass=-1.0))
    entry = found.of("nasa")[0]
    assert (entry.weights, entry.fitted["kept"], entry.text.ratio) == (0, 0, 1.0)
    assert np.array_equal(entry.report.logit_differences, found.base.report.logit_differences)


def test_random_sets_differ_and_the_first_stay_the_same(model) -> None:
    sets = random_sets(model, HeadList.of(["0.0", "1.2"]), 4, seed=3)
    assert len({frozenset(each) for each in sets}) == 4
    assert all([head.layer for head in each] == [0, 1] for each in sets)
    assert random_sets(model, HeadList.of(["0.0", "1.2"]), 2, seed=3) == sets[:2]
    with pytest.raises(HeadError, match="only 1 random sets of 2 heads"):
        random_sets(model, HeadList.of(HEADS), 2, seed=0)


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"heads": ("9.0",)}, HeadError, "9.0 is outside"),
        ({"methods": ("voting",)}, AlignmentError, "no method 'voting'"),
        ({"seeds": ()}, AlignmentError, "NASA needs a seed"),
        ({"test": asked(109)}, QuestionError, "question 'q109'"),
        ({"test": asked(5)}, QuestionError, "question 'q5'"),
        ({"groups": ("x",), "methods": ("average",)}, ResultError, "no questions of group 'x'"),
        ({"heads": ("1.0", "1.1", "1.2", "1.3", "0.0")}, HeadError, "too few for a random set"),
    ],
)
def test_what_cannot_be_compared_is_refused_before_anything_is_tuned(model, monkeypatch, options, error, words) -> None:
    monkeypatch.setattr(Methods, "runs", lambda *args: pytest.fail("it went on"))
    with pytest.raises(error, match=words):
        run(model, **options)


MADE_UP = {"base": 0.0, "offset": 0.6, "scale": 0.2, "lora": 0.5, "random heads": 0.3, "nasa": 0.5}


def made_up(of, better=0) -> tuple[pd.DataFrame, pd.DataFrame]:
    """A summary and differences in which NASA is `of` above each other method, give or take 0.1."""
    names = ("accuracy", "recovered", "auc_within_orders", "imbalance_yes_no", "imbalance_no_yes")
    rows = [
        {"method": method, "runs": 19 if method == "random heads" else 1, "weights": 10.0, "share": 0.01}
        | {"perplexity_ratio": 1.0, **dict.fromkeys(names, value)}
        | {f"recovered_{end}": value for end in ("min", "max")}
        | {f"{name}_{end}": 9.0 for name in names for end in ("low", "high")}
        for method, value in MADE_UP.items()
    ]
    differences = [
        (method, name, 0.5, value, of, of - 0.1, of + 0.1, better, 19)
        for method, value in MADE_UP.items()
        for name in ("recovered", "accuracy", "auc_within_orders")
        if method != "nasa"
    ]
    columns = ["method", "measure", "nasa", "other", "difference", "low", "high", "better", "runs"]
    return pd.DataFrame(rows), pd.DataFrame(differences, columns=columns)


@pytest.mark.parametrize(
    ("of", "better", "words"),
    [
        (
            0.3,
            0,
            ("gained +0.30", "Prefer NASA, also", "Prefer NASA.", "Prefer NASA.", "Which heads are tuned matters"),
        ),
        (0.3, 1, ("gained +0.30", "Prefer NASA, also", "Prefer NASA.", "Prefer NASA.", "better choice than chance")),
        (-0.3, 19, ("lost -0.30", "Prefer one offset", "Prefer turning", "Prefer the LoRA", "is not shown")),
        (0.05, 1, ("what luck does", "is the simpler choice", "isn't shown", "Neither is shown", "is not shown")),
    ],
)
def test_the_verdict_goes_the_way_of_the_numbers(of, better, words) -> None:
    said = verdict_of(*made_up(of, better))
    assert len(said) == len(words)
    base, nasa = MADE_UP["base"], MADE_UP["nasa"]
    assert f"imbalance {base:+.2f} / {base:+.2f} to {nasa:+.2f} / {nasa:+.2f}, perplexity" in said[0]
    for sentence, word in zip(said, words, strict=True):
        assert word in sentence


def test_a_comparison_without_nasa_says_so(model, tmp_path) -> None:
    found = run(model, methods=("average",), folder=tmp_path)
    assert found.methods == ("base", "average")
    assert "NASA was not among" in found.verdict[0]
    assert Comparison.load(tmp_path).verdict == found.verdict
