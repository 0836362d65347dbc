"""Verbs over streams say what the same verbs say of all questions at once, and nothing finished is lost."""

import json
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

import nasa_interp as ni
from nasa_interp.errors import PromptError, ResultError
from nasa_interp.prompts import PromptStyle, load_form
from nasa_interp.questions import QuestionStream
from nasa_interp.scoring import score_heads
from nasa_interp.streams import Parts, StreamedReport, stream_ablation, stream_decisions, stream_scores
from nasa_interp.survey import form_matrix

DRAWS = 50
pytestmark = pytest.mark.filterwarnings("ignore:answer mass")


@pytest.fixture(scope="module")
def many():
    return ni.load_questions("builtin:verify#val", 40)


def changed(folder):
    """When each part was written."""
    return {path.name: path.stat().st_mtime_ns for path in Path(folder).glob("part-*.parquet")}


@pytest.mark.parametrize("size", [7, 16, 1000])
def test_decisions_are_those_of_decide(tiny, many, tmp_path, size):
    found = stream_decisions(tiny, QuestionStream.of(many, size), tmp_path, draws=DRAWS, progress=False)
    whole = ni.decide(tiny, many, draws=DRAWS, progress=False)
    assert np.allclose(found.logit_differences, whole.logit_differences, atol=1e-5)
    assert np.allclose(found.answer_masses, whole.answer_masses, atol=1e-6)
    assert found.order == whole.order
    assert np.array_equal(found.label, whole.label)
    assert list(found.groups) == list(whole.groups)
    for name, part in whole.parts.items():
        for measure, value in part.numbers().items():
            assert found.parts[name].numbers()[measure] == pytest.approx(value, abs=1e-5, nan_ok=True), (name, measure)
    assert found.n_questions == whole.n_questions == len(many)
    assert found.run.data == many.name


def test_intervals_are_near_those_of_the_multinomial_bootstrap(tiny, many, tmp_path):
    found = stream_decisions(tiny, QuestionStream.of(many, 16), tmp_path, draws=2000, progress=False).overall
    whole = ni.decide(tiny, many, draws=2000, progress=False).overall
    for name in ("mean_logit_difference", "auc", "answer_mass"):
        width = getattr(whole.high, name) - getattr(whole.low, name)
        for end in ("low", "high"):
            assert getattr(getattr(found, end), name) == pytest.approx(
                getattr(getattr(whole, end), name), abs=0.15 * width
            )


def test_a_report_is_the_same_when_loaded(tiny, many, tmp_path):
    found = stream_decisions(tiny, QuestionStream.of(many, 16), tmp_path / "run", draws=DRAWS, progress=False)
    for place in (found.save(tmp_path / "elsewhere.json"), tmp_path / "run" / "report.json"):
        again = StreamedReport.load(place)
        assert again.overall == found.overall
        assert again.run.to_dict() == found.run.to_dict()
    assert "decisions" not in json.loads((tmp_path / "elsewhere.json").read_text())


def test_unlabeled_unsure_and_proposed_answers_come_through(tiny, tmp_path):
    rows = [
        ni.BinaryQuestion(
            f"Q: {i}+1? Answer proposed: {i + 1 + wrong}", not wrong, f"{i}{wrong}", "sums", str(i), None, made
        )
        for i in range(6)
        for wrong, made in ((0, "given"), (1, ("digit", "near")[i % 2]))
    ]
    data = ni.questions.QuestionList(rows, "made")
    style = load_form("unsure")
    found = stream_decisions(tiny, QuestionStream.of(data, 5), tmp_path / "a", style=style, draws=DRAWS, progress=False)
    whole = ni.decide(tiny, data, style=style, draws=DRAWS, progress=False)
    assert np.array_equal(found.unsure, whole.unsure)
    assert found.unsure_rate == whole.unsure_rate
    assert {k: e.n for k, e in found.made.items()} == {k: e.n for k, e in whole.made.items()}
    blank = stream_decisions(tiny, data.without_labels(), tmp_path / "b", draws=DRAWS, progress=False)
    assert blank.label is None
    assert np.isnan(blank.accuracy)
    assert blank.unsure is None


@pytest.mark.parametrize("per", ["prompt", "query"])
def test_scores_are_those_of_score_heads(tiny, many, tmp_path, per):
    found = stream_scores(tiny, QuestionStream.of(many, 9), tmp_path, per=per, draws=2000, progress=False)
    whole = score_heads(tiny, many, per=per, draws=2000, progress=False)
    for name, grid in whole.columns.items():
        assert np.allclose(found.columns[name], grid, atol=1e-5), name
        width = np.diff(whole.intervals[name], axis=0)
        assert (np.abs(found.intervals[name] - whole.intervals[name]) <= 0.15 * width + 1e-7).all(), name
    assert found.unit == whole.unit
    assert not found.per_prompt
    again = ni.HeadScores.load(tmp_path / "scores.json")
    assert np.array_equal(again.polarity, found.polarity)


def test_an_ablation_is_that_of_ablation_effect(tiny, many, tmp_path):
    heads = ["1.0", "0.2"]
    found = stream_ablation(tiny, QuestionStream.of(many, 9), heads, tmp_path, n_random=3, draws=DRAWS, progress=False)
    ablator = ni.interventions.Ablator(tiny, many, draws=DRAWS, progress=False)
    whole = ablator.effect(heads)
    for order in (None, "yes_no", "no_yes"):
        for name, pair in whole.points(order).items():
            assert found.effect.points(order)[name] == pytest.approx(pair, abs=1e-5, nan_ok=True), name
    controls = ni.interventions.random_controls(ablator, heads, n=3)
    assert found.controls.of().random == pytest.approx(controls.of().random, abs=1e-5)
    assert found.controls.of().p == controls.of().p


def test_a_run_goes_on_and_computes_only_what_is_missing(tiny, many, tmp_path):
    stream = QuestionStream.of(many, 8)
    whole = stream_scores(tiny, stream, tmp_path, draws=DRAWS, progress=False)
    (tmp_path / "part-000001.json").unlink()  # killed before it was whole
    (tmp_path / ".part-000003.parquet.x.part").write_bytes(b"half")
    before = changed(tmp_path)
    again = stream_scores(tiny, stream, tmp_path, draws=DRAWS, progress=False)
    assert {name for name, when in changed(tmp_path).items() if when != before[name]} == {"part-000001.parquet"}
    assert not list(tmp_path.glob(".*.part"))
    assert np.array_equal(again.polarity, whole.polarity)
    assert np.array_equal(again.intervals["polarity"], whole.intervals["polarity"])


def test_a_damaged_part_is_computed_again(tiny, many, tmp_path):
    stream = QuestionStream.of(many, 16)
    whole = stream_decisions(tiny, stream, tmp_path, draws=DRAWS, progress=False)
    part = tmp_path / "part-000001.parquet"
    content = bytearray(part.read_bytes())
    content[len(content) // 2] ^= 1
    part.write_bytes(bytes(content))
    with pytest.warns(UserWarning, match="part-000001.parquet is damaged and is computed again"):
        again = stream_decisions(tiny, stream, tmp_path, draws=DRAWS, progress=False)
    assert np.array_equal(again.logit_differences, whole.logit_differences)


def test_a_folder_of_another_run_is_refused(tiny, many, tmp_path):
    stream_decisions(tiny, QuestionStream.of(many, 16), tmp_path, draws=DRAWS, progress=False)
    other = PromptStyle("Say {first} or {second}.")
    with pytest.raises(ResultError, match="holds a run with another style; name another folder"):
        stream_decisions(tiny, QuestionStream.of(many, 16), tmp_path, style=other, progress=False)
    with pytest.raises(ResultError, match="another parts, questions"):
        stream_decisions(tiny, QuestionStream.open(many[:10], 16), tmp_path, progress=False)
    with pytest.raises(ResultError, match="another engine, per, verb"):
        stream_scores(tiny, QuestionStream.of(many, 16), tmp_path, progress=False)
    with pytest.raises(ResultError, match=r"setting\.json does not exist"):
        Parts.opened(tmp_path / "nothing")


def test_what_scoring_refuses_a_stream_refuses(tiny, many, tmp_path):
    with pytest.raises(PromptError, match="NAS isn't defined for this form"):
        stream_scores(tiny, many, tmp_path / "a", style=load_form("after"), progress=False)
    assert not (tmp_path / "a" / "part-000000.parquet").exists()


def test_a_part_says_whose_numbers_it_holds(tiny, many, tmp_path):
    stream_decisions(tiny, QuestionStream.of(many, 16), tmp_path, draws=DRAWS, progress=False)
    table = pq.read_table(tmp_path / "part-000000.parquet")
    assert table["id"].to_pylist() == [question.id for question in many[:16]]
    about = json.loads((tmp_path / "part-000000.json").read_text())
    assert (about["process"], about["processes"], about["rows"]) == (0, 1, 16)


def test_a_matrix_of_streams_is_that_of_lists(tiny, many, tmp_path):
    options = {"draws": DRAWS, "progress": False}
    forms = ("yes-no", "meaning", "reversed", "after")
    found = form_matrix(tiny, [QuestionStream.of(many, 16)], forms, folder=tmp_path, **options)
    whole = form_matrix(tiny, [many], forms, limit=None, **options)
    for name in ("n", "yes_rate", "imbalance", "auc", "answer_mass"):
        assert np.allclose(found.table[name], whole.table[name], atol=1e-5, equal_nan=True), name
    assert found.table["heads"].tolist() == whole.table["heads"].tolist()
    assert [claim.value for claim in found.claims] == pytest.approx([claim.value for claim in whole.claims], abs=1e-6)
    with pytest.raises(ResultError, match="a stream is asked in parts, which need a place"):
        form_matrix(tiny, [QuestionStream.of(many, 16)], forms, **options)
