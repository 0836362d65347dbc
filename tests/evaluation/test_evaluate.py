"""Laws of evaluating a change: none costs nothing, all are paired question by question, what is saved comes back."""

import json
from dataclasses import replace
from pathlib import Path

import families
import numpy as np
import pytest
import torch

from nasa_interp import BinaryQuestion, PromptStyle, load_model
from nasa_interp.calibration import calibrate
from nasa_interp.comparison.baselines import scaled_heads
from nasa_interp.decisions import BinaryReport, decide
from nasa_interp.deltas import HeadDelta, export
from nasa_interp.errors import DeltaError, QuestionError, ResultError
from nasa_interp.evaluation import ChangeReport, evaluate, four_options, with_evaluation
from nasa_interp.evaluation.evaluate import evaluate_change, unseen_styles
from nasa_interp.evaluation.paired import Paired, estimate, groups_above_chance
from nasa_interp.heads import HeadList
from nasa_interp.interventions import AblationEffect, Zero
from nasa_interp.measures import Measures, measure, recovered
from nasa_interp.prompts import ORDERS
from nasa_interp.questions import QuestionList
from nasa_interp.run import RunInfo, file_sha256

TEXTS = ["Water freezes at zero degrees; iron is a metal.", "The moon goes around the earth, and no other way."]


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


@pytest.fixture(scope="module")
def delta(model):
    return scaled_heads(model, ["0.1", "1.2", "1.3"], 0.0)


def price(model, delta, data=families.QUESTIONS, **options):
    common = {"texts": TEXTS, "items": four_options(8), "generation": 3, "draws": 100, "progress": False}
    data = data if isinstance(data, BinaryReport) else list(data)
    return evaluate_change(model, delta, data, **{**common, **options})


@pytest.fixture(scope="module")
def measured(model, delta):
    return price(model, delta)


def report(d, label, order=None, groups=None, pairs=None, draws=200):
    """Decisions out of nothing: one question a value of d for each order."""
    n = len(d) // len(ORDERS) if order is None else len(d)
    order = tuple(each for each in ORDERS for _ in range(n)) if order is None else order
    rows = zip(np.tile(label, len(d) // n), range(len(d)), strict=True)
    questions = tuple(
        BinaryQuestion(f"Q{i % n}?", bool(yes), f"q{i % n}", groups[i % n] if groups else "all", pairs and pairs[i % n])
        for yes, i in rows
    )
    run = RunInfo("made", "up", n, tuple(dict.fromkeys(order)), draws=draws)
    return BinaryReport(np.asarray(d, dtype=np.float64), np.full(len(d), 0.5), order, questions, run)


@pytest.mark.parametrize("kind", ["empty", "scaled by 0"])
def test_no_change_costs_nothing(model, delta, kind) -> None:
    nothing = HeadDelta(delta.base_hash, model.name, HeadList(()), (), (), ()) if kind == "empty" else delta.scaled(0)
    table = price(model, nothing).to_dataframe().set_index("measure")
    assert (table.change.dropna() == 0).all()
    assert (table[["low", "high"]].stack().dropna() == 0).all()
    assert table.after["perplexity ratio"] == 1
    assert table.after["KL on text (nats)"] == 0
    assert table.change.notna().sum() >= 25


def test_a_change_shows_and_the_model_is_left_alone(model, delta, measured) -> None:
    before = model.weights_hash()
    table = measured.to_dataframe().set_index("measure")
    assert model.weights_hash() == before
    assert measured.run.model_hash != before == measured.before.run.model_hash
    for name in ("mean_logit_difference", "answer_mass", "perplexity ratio", "KL on text (nats)"):
        assert table.change[name] != 0
    assert table.after["imbalance (no_yes)"] == measured.after.orders["no_yes"].imbalance
    assert table.before["auc (yes_no)"] == measured.before.orders["yes_no"].auc
    cells = measured.after.cells["facts"].values()
    assert table.after["auc (facts)"] == pytest.approx(np.mean([cell.auc for cell in cells]))
    assert table.after["four-option accuracy"] == measured.options[1].accuracy
    said = measured.said[1]
    assert table.after["generated: neither"] == said.counts["neither"] / len(said.answers)
    assert table.after["generated: accuracy"] == pytest.approx(said.accuracy)
    assert {name.split("(")[1].strip(")") for name in table.index if name.startswith("accuracy (")} == {
        "other instruction",
        "True or False",
    }
    assert measured.to_dict()["accuracy"]["after"] == measured.after.accuracy


def test_intervals_are_those_of_an_intervention(measured) -> None:
    """The same pairing as `AblationEffect`, to which only the decisions matter."""
    known = AblationEffect(HeadList(()), Zero(), measured.before, measured.after).changes
    table = measured.to_dataframe().set_index("measure")
    for name in ("mean_logit_difference", "accuracy", "answer_mass"):
        for column in ("before", "after", "change", "low", "high"):
            assert table.loc[name, column] == pytest.approx(known.loc[name, column], abs=1e-12)


def test_recovered_is_pooled_over_the_known_groups_alone() -> None:
    rng = np.random.default_rng(0)
    label, groups = np.arange(40) % 2 == 0, ["a"] * 20 + ["b"] * 12 + ["c"] * 8
    d = 2 - np.where(np.tile(label, 2), 1.5, 0) + rng.normal(size=80)
    base, now = report(d, label, groups=groups), report(d - 0.6, label, groups=groups)
    paired = Paired(base, ("a", "b"))
    rows = np.tile(np.array(groups) != "c", 2)
    of_base = measure(d[rows], base.label[rows], np.full(rows.sum(), 0.5))
    of_now = measure(d[rows] - 0.6, base.label[rows], np.full(rows.sum(), 0.5))
    found = estimate(paired.recovered(now))
    assert found.value == pytest.approx(recovered(of_now.accuracy, of_base))
    assert found.low < found.value < found.high
    assert estimate(Paired(base).recovered(now)).value != found.value
    assert estimate(paired.recovered(base)) == (0, 0, 0)


def test_nothing_to_recover_is_not_a_number() -> None:
    label = np.arange(20) % 2 == 0
    right = report(np.where(np.tile(label, 2), -1.0, 1.0), label)
    assert np.isnan(estimate(Paired(right).recovered(right))).all()


def test_known_groups_are_told_apart_whatever_the_threshold() -> None:
    label = np.arange(40) % 2 == 0
    sorted_ = np.where(label, 3.0, 4.0)
    same = np.ones(40)
    base = report(np.tile(np.r_[sorted_, same], 2), np.r_[label, label], groups=["sorted"] * 40 + ["same"] * 40)
    assert base.accuracy == 0.5
    assert groups_above_chance(base) == ("sorted",)
    assert groups_above_chance(base, least=0.5) == ("sorted", "same")
    with pytest.raises(ResultError, match=r"oracle accuracy of 0\.65 \(best: 'all' with 0\.50\)"):
        groups_above_chance(report(np.ones(80), label))


def test_other_questions_are_not_compared() -> None:
    label = np.arange(20) % 2 == 0
    base = report(np.ones(40), label)
    with pytest.raises(ResultError, match="on other questions"):
        Paired(base).measures(report(np.ones(20), label[:10]))
    with pytest.raises(ResultError, match="no questions of group 'x'"):
        Paired(base, ("x",))


def test_errors_end_it_with_the_model_as_it_was(model, delta) -> None:
    before = model.weights_hash()
    with pytest.raises(ResultError, match="no questions of group 'nowhere'"):
        price(model, delta, groups=("nowhere",))
    with pytest.raises(DeltaError, match="made for"):
        price(model, replace(delta, base_hash="0" * 64))
    with pytest.raises(QuestionError, match="no questions"):
        price(model, delta, data=[])
    assert model.weights_hash() == before


def test_what_is_not_asked_is_not_in_the_table(model, delta) -> None:
    found = price(model, delta, generation=0, styles={})
    assert found.said is None
    assert not [name for name in found.to_dataframe().measure if name.startswith(("generated", "accuracy ("))]


@pytest.mark.filterwarnings("ignore:answer mass")
def test_decisions_that_are_made_already_are_not_made_again(model, delta, measured, monkeypatch) -> None:
    base = decide(model, list(families.QUESTIONS), draws=100, progress=False)
    asked = []
    report = evaluate.report_decisions
    monkeypatch.setattr(
        evaluate, "report_decisions", lambda *args, **options: asked.append(1) or report(*args, **options)
    )
    found = price(model, delta, base)
    assert len(asked) == 5  # three styles before and after, less one
    assert found.before is base
    assert found.to_dataframe().equals(measured.to_dataframe())


@pytest.mark.filterwarnings("ignore:answer mass", "ignore:.*thoughts")
def test_a_model_that_thinks_first_thinks_anew_after_the_change(model, delta) -> None:
    style = PromptStyle(think=4)
    found = price(model, delta, style=style, styles={}, generation=0)
    with delta.applied(model):
        decided = decide(model, list(families.QUESTIONS), style=style, draws=100, progress=False)
    assert found.after.to_dataframe().equals(decided.to_dataframe())
    assert not found.before.to_dataframe().equals(decided.to_dataframe())


def test_other_styles_may_be_asked_of_fewer_questions(model, delta) -> None:
    found = price(model, delta, carried=3)
    assert len(found.after.questions) == 2 * len(families.QUESTIONS)
    assert {len(after.questions) for _, after in found.carried.values()} == {6}


@pytest.mark.filterwarnings("ignore:answer mass", "ignore:calibrated on")
def test_decisions_that_would_not_be_made_so_again_are_refused(model, delta) -> None:
    def decided(**options):
        return decide(model, list(families.QUESTIONS), draws=100, progress=False, **options)

    base = decided()
    offset = calibrate(model, QuestionList(families.QUESTIONS, "own").without_labels(), draws=10, progress=False)
    for report, says in (
        (decided(order="yes_no"), "both orders"),
        (decided(style=PromptStyle(yes="True", no="False")), "another wording"),
        (offset.apply(base), "another notes .*calibrated"),
        (replace(base, run=replace(base.run, model_hash="0" * 64)), "another model"),
    ):
        with pytest.raises(ResultError, match=says):
            price(model, delta, report)
    with pytest.raises(QuestionError, match="limit of 4"):
        price(model, delta, base, limit=4)


@pytest.mark.parametrize(
    "style", [PromptStyle(), PromptStyle("Answer Yes or No."), PromptStyle(yes="True", no="False")]
)
def test_unseen_styles_are_unseen(style) -> None:
    for other in unseen_styles(style).values():
        changed = [name for name in ("instruction", "yes", "no") if getattr(other, name) != getattr(style, name)]
        assert changed
        assert other.question == style.question
        for order in ORDERS:
            other.render_instructions(order)


def test_saving_and_loading_is_exact(measured, model, delta, tmp_path) -> None:
    for name, each in (("all", measured), ("some", price(model, delta, generation=0, styles={}, groups=("sums",)))):
        each.save(tmp_path / name)
        again = ChangeReport.load(tmp_path / name)
        assert again.to_dataframe().equals(each.to_dataframe())
        assert (again.groups, again.said is None) == (each.groups, each.said is None)
        assert again.run == each.run
        assert repr(again) == repr(each)
        assert again._repr_html_() == each._repr_html_()
    assert again.groups == ("sums",)
    (tmp_path / "all" / "change.json").write_text('{"kind": "change_report"}')
    with pytest.raises(ResultError, match="is damaged"):
        ChangeReport.load(tmp_path / "all")
    with pytest.raises(ResultError, match="does not exist"):
        ChangeReport.load(tmp_path)


def test_what_the_version_before_saved_loads(measured, tmp_path) -> None:
    """It called the report the price of a change: another file, folder and kind, and so for plain text."""
    measured.save(tmp_path)
    text = (tmp_path / "change" / "text.json").read_text().replace("text_change", "text_price")
    (tmp_path / "change" / "text.json").write_text(text)
    (tmp_path / "change").rename(tmp_path / "price")
    content = json.loads((tmp_path / "change.json").read_text())
    hashes = {f"price/{Path(name).name}": digest for name, digest in content["files_sha256"].items()}
    hashes["price/text.json"] = file_sha256(tmp_path / "price" / "text.json")
    (tmp_path / "price.json").write_text(json.dumps({**content, "kind": "price", "files_sha256": hashes}))
    (tmp_path / "change.json").unlink()
    again = ChangeReport.load(tmp_path)
    assert again.to_dataframe().equals(measured.to_dataframe())


def test_an_export_carries_the_price_of_its_own_change(measured, model, delta, tmp_path) -> None:
    """The model card tells what was measured; the price of another change is passed over."""
    assert with_evaluation(model, delta, tmp_path) is delta
    measured.save(tmp_path)
    rows = measured.to_dataframe().set_index("measure")
    log = with_evaluation(model, delta, tmp_path).log
    assert log["measured"]["accuracy"]["after"] == rows.after["accuracy"]
    assert log["measured_on"] == measured.run.summary()
    card = (export(model, with_evaluation(model, delta, tmp_path), tmp_path / "out", "delta") / "README.md").read_text()
    assert f"On {measured.run.summary()}; low and high" in card
    other = scaled_heads(model, ["0.2"], 0.0)
    assert with_evaluation(model, other, tmp_path) is other


def test_names_of_measures_are_those_of_the_report(measured) -> None:
    names = {name.split(" ")[0] for name in measured.to_dataframe().measure[:11]}
    assert names - {"recovered", "auc_within_orders"} <= set(Measures.names())


def test_a_runs_own_export_writes_the_card_that_the_command_writes(tmp_path) -> None:
    from test_loop import OPEN, RECIPE, TEXTS, align

    from nasa_interp.cli import main

    families.tiny_model("llama").save_pretrained(tmp_path / "base")
    families.tiny_tokenizer().save_pretrained(tmp_path / "base")
    model = load_model(tmp_path / "base")
    run = align(model, limits=OPEN, recipe=RECIPE, texts=TEXTS)
    run.save(tmp_path / "run")
    price(model, run.delta).save(tmp_path / "run")
    own = (run.export(tmp_path / "own", model) / "README.md").read_text()
    assert main(["export", str(tmp_path / "run"), "--out", str(tmp_path / "command")]) == 0
    command = (tmp_path / "command" / "README.md").read_text()
    for place in ("# ", '"', "- name: "):
        own = own.replace(f"{place}own", f"{place}command")
    assert own == command
    assert "low and high are the ends" in own
