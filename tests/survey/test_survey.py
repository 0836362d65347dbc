"""The matrix of data and forms: its cells are those of `decide`, a killed run goes on, claims and overlap by hand."""

import dataclasses
import json

import families
import numpy as np
import pytest
from scipy.stats import hypergeom

import nasa_interp as ni
from nasa_interp import survey
from nasa_interp.bootstrap import draw_weights, interval
from nasa_interp.decisions import BinaryReport
from nasa_interp.errors import ResultError
from nasa_interp.figures import form_matrix_heatmap, settling_curve
from nasa_interp.prompts import FORMS
from nasa_interp.questions import QuestionList
from nasa_interp.survey import FormMatrix, claims_of, form_matrix, settling
from nasa_interp.survey.table import _shared

# tiny random models mean to say something else, and have few heads
pytestmark = [pytest.mark.filterwarnings("ignore:.*answer mass"), pytest.mark.filterwarnings("ignore:.*of 10 heads")]

DATA = [QuestionList(families.QUESTIONS, "one"), QuestionList(families.QUESTIONS[2:], "two")]
FORM_NAMES = ("yes-no", "meaning", "reversed", "unsure", "after")
QUIET = {"limit": None, "draws": 20, "progress": False}


@pytest.fixture(scope="module")
def model():
    return ni.load_model(families.tiny_model("llama"), tokenizer=families.tiny_tokenizer())


@pytest.fixture(scope="module")
def found(model) -> FormMatrix:
    return form_matrix(model, DATA, FORM_NAMES, **QUIET)


def test_a_cell_is_what_decide_says(model, found) -> None:
    for questions in DATA:
        for form in FORM_NAMES:
            report = ni.decide(model, questions, style=FORMS[form], draws=20, progress=False)
            row = found.cells[(found.cells["data"] == questions.name) & (found.cells["form"] == form)].iloc[0]
            assert row["imbalance"] == pytest.approx(report.imbalance, nan_ok=True)
            assert row["yes_rate"] == pytest.approx(report.overall.yes_rate, nan_ok=True)
            assert row["n"] == len(questions)
            kept = found.reports[questions.name, form]
            np.testing.assert_array_equal(kept.logit_differences, report.logit_differences)


def test_a_form_without_nas_has_decisions_and_says_why_it_has_no_heads(found) -> None:
    row = found.cells.query("form == 'after'").iloc[0]
    assert row["heads"] == ""
    assert np.isnan(row["shared"])
    assert "NAS isn't defined" in row["note"]


def test_heads_are_those_of_the_scores_and_overlap_is_held_against_chance(model, found) -> None:
    scores = ni.score_heads(model, DATA[0], style=FORMS["meaning"], draws=20, progress=False)
    row = found.cells.query("data == 'one' and form == 'meaning'").iloc[0]
    assert row["heads"].split() == [str(head) for head in scores.top(10, by="polarity")]
    count, expected, p = _shared(["0.1", "0.2", "1.0"], ["0.2", "1.0", "1.3"], 12)
    assert (count, expected) == (2, 9 / 12)
    assert p == pytest.approx(float(hypergeom.sf(1, 12, 3, 3)))


def by_order(report, weights) -> np.ndarray:
    """The imbalance in each order under these weights, in plain words."""
    found = []
    for order in ("yes_no", "no_yes"):
        w = np.where(np.array(report.order) == order, weights, 0)
        found.append(w @ report.label / w.sum() - w @ (report.logit_differences < 0) / w.sum())
    return np.array(found)


def test_the_claim_of_words_over_meaning_is_the_definition(found) -> None:
    pair = [found.reports["one", form] for form in ("meaning", "reversed")]
    (claim,) = (c for c in found.claims if c.data == "one" and "words" in c.claim)

    def value(weights) -> float:
        a, b = (by_order(report, weights) for report in pair)
        return float((abs(a + b) / 2 - abs(a - b) / 2).mean())

    assert claim.value == pytest.approx(value(np.ones(len(pair[0].order))))
    # the interval beside a loop over the draws
    values = [value(w) for w in draw_weights(pair[0].clusters, 20, pair[0].run.seed)]
    assert (claim.low, claim.high) == pytest.approx(tuple(interval(np.array(values))), abs=1e-6)


def test_context_is_compared_with_the_same_questions_without(found) -> None:
    reports = {("x", "yes-no"): found.reports["one", "yes-no"], ("x#all", "yes-no"): found.reports["one", "meaning"]}
    (claim,) = claims_of(reports)
    assert claim.claim == "context reduces the bias"
    one, other = (abs(by_order(report, np.ones(len(report.order)))).mean() for report in reports.values())
    assert claim.value == pytest.approx(one - other)
    assert claim.told.startswith("context reduces the bias (x#all; x against x#all): ")


def test_opposite_leanings_of_the_orders_do_not_cancel(found) -> None:
    """Yes always in one order and No always in the other is as much bias as No always."""
    report = found.reports["one", "yes-no"]
    sign = np.where(np.array(report.order) == "yes_no", -1.0, 1.0)
    split, always = (dataclasses.replace(report, logit_differences=d) for d in (sign, np.ones(len(sign))))
    assert split.imbalance == pytest.approx(0, abs=1e-6)
    assert always.imbalance == pytest.approx(0.5)
    (claim,) = claims_of({("x", "yes-no"): always, ("x#all", "yes-no"): split})
    assert claim.value == pytest.approx(0, abs=1e-6)


def test_a_killed_run_goes_on_and_ends_the_same(model, found, tmp_path, monkeypatch) -> None:
    asked, true = [], survey.matrix.decide

    def dying(*args, **options) -> BinaryReport:
        if len(asked) == 3:
            raise KeyboardInterrupt
        asked.append(args)
        return true(*args, **options)

    monkeypatch.setattr(survey.matrix, "decide", dying)
    with pytest.raises(KeyboardInterrupt):
        form_matrix(model, DATA, FORM_NAMES, folder=tmp_path, **QUIET)
    assert not (tmp_path / "matrix.json").exists()
    monkeypatch.setattr(survey.matrix, "decide", lambda *a, **o: asked.append(a) or true(*a, **o))
    again = form_matrix(model, DATA, FORM_NAMES, folder=tmp_path, **QUIET)
    assert len(asked) == len(DATA) * len(FORM_NAMES)
    columns = [name for name in again.table if name != "seconds"]
    assert again.table[columns].equals(found.table[columns])
    loaded = FormMatrix.load(tmp_path / "matrix.json")
    assert loaded.verdict == found.verdict == again.verdict
    assert list(loaded.table["imbalance"]) == pytest.approx(list(found.table["imbalance"]), nan_ok=True)
    assert json.loads((tmp_path / "matrix.json").read_text())["kind"] == "form_matrix"


def test_another_models_folder_is_refused(model, tmp_path) -> None:
    form_matrix(model, DATA[:1], ["yes-no"], folder=tmp_path, heads=False, **QUIET)
    other = ni.load_model(families.tiny_model("gpt2"), tokenizer=families.tiny_tokenizer())
    with pytest.raises(ResultError, match=r"holds a run with another base; name another folder"):
        form_matrix(other, DATA[:1], ["yes-no"], folder=tmp_path, heads=False, **QUIET)
    with pytest.raises(ResultError, match="needs data and a form"):
        form_matrix(model, [], ["yes-no"])


def test_the_smallest_limit_counts(model) -> None:
    limits = {"one": 4, "unsure": 2}
    found = form_matrix(model, DATA, ("yes-no", "unsure"), limits=limits, heads=False, **{**QUIET, "limit": 5})
    counts = {(row["data"], row["form"]): row["n"] for _, row in found.table.iterrows()}
    assert counts["one", "yes-no"] <= 5
    assert counts["one", "unsure"] <= 3
    assert counts["two", "unsure"] < counts["two", "yes-no"]


def test_what_a_blind_cell_means_is_said_and_drawn(found) -> None:
    assert "does not sort right from wrong better than chance" in " ".join(found.verdict)
    figure = form_matrix_heatmap(found.table, run=found.run)
    assert list(figure.data[0]["x"]) == list(FORM_NAMES)
    assert any("*" in text for row in figure.data[0]["text"] for text in row)
    assert figure.data[0]["z"][0][0] == found.cells.iloc[0]["imbalance"]
    with pytest.raises(ResultError, match="can't be drawn by 'colour'"):
        form_matrix_heatmap(found.table, "colour", run=found.run)


def test_heads_settle_where_prompts_agree_and_not_where_they_are_noise(found) -> None:
    rng, heads = np.random.default_rng(0), np.arange(40.0).reshape(4, 10)

    def with_prompts(noise: float) -> ni.HeadScores:
        prompts = heads + noise * rng.normal(size=(64, 4, 10))
        return ni.HeadScores({"values": heads}, {}, found.run, {"yes_no": prompts, "no_yes": prompts})

    settled, noisy = (settling(with_prompts(noise), k=5, sizes=(4, 32, 64), draws=20) for noise in (0.0, 1e4))
    assert list(settled["n"]) == [4, 32]
    assert (settled["shared"] == 5).all()
    assert noisy["shared"].max() < 2
    assert settled["chance"].iloc[0] == 25 / 40
    assert len(settling_curve(settled, run="a line").data) == 1
    with pytest.raises(ResultError, match="64 questions can't be parted into two draws of 64"):
        settling(with_prompts(0.0), sizes=(64,))


def test_a_limit_for_something_that_is_not_asked_is_an_error(tiny, questions):
    with pytest.raises(ResultError, match="a limit is for 'thnk', which is no data and no form here"):
        form_matrix(tiny, [questions], ("yes-no",), limits={"thnk": 3})
