"""Reports of proposed answers: by the rule that made the wrong ones, saved with contexts, with what was left out."""

import json

import pytest

from nasa_interp import BinaryQuestion, decide
from nasa_interp.decisions import BinaryReport
from nasa_interp.questions import QuestionList, Skipped


@pytest.fixture
def proposed():
    """Two pairs, made by two rules, the second with a context."""
    return QuestionList(
        [
            BinaryQuestion("2+2? Is it 4?", True, "a/yes", "sums", "a", None, "given"),
            BinaryQuestion("2+2? Is it 5?", False, "a/no", "sums", "a", None, "off by one"),
            BinaryQuestion("Who? Is it Tom?", True, "b/yes", "names", "b", "Tom came.", "given"),
            BinaryQuestion("Who? Is it Ann?", False, "b/no", "names", "b", "Tom came.", "entity"),
        ],
        "proposed",
        [Skipped("file, line 3", "no wrong answer")],
    )


@pytest.fixture
def report(tiny, proposed):
    return decide(tiny, proposed, draws=20, progress=False)


@pytest.mark.filterwarnings("ignore:answer mass")
def test_measures_by_rule_are_those_of_the_rules_pairs(report):
    assert list(report.made) == ["off by one", "entity"]
    for rule, group in (("off by one", "sums"), ("entity", "names")):
        assert repr(report.made[rule].to_dict()) == repr(report.groups[group].to_dict())
    assert report.to_dataframe()["made"].tolist()[:2] == ["given", "off by one"]


@pytest.mark.filterwarnings("ignore:answer mass")
def test_saving_and_loading_keeps_contexts_and_rules(report, tmp_path):
    path = report.save(tmp_path / "decisions.json")
    loaded = BinaryReport.load(path)
    assert loaded.questions == report.questions
    assert loaded.run == report.run
    content = json.loads(path.read_text())
    assert content["contexts"] == ["Tom came."]
    assert set(content["made"]) == {"off by one", "entity"}


@pytest.mark.filterwarnings("ignore:answer mass")
def test_what_was_left_out_is_a_note_of_the_run(report):
    assert "proposed: 1 row is left out (file, line 3: no wrong answer)" in report.run.notes


@pytest.mark.filterwarnings("ignore:answer mass")
def test_questions_that_propose_nothing_have_no_such_part(tiny, questions, tmp_path):
    report = decide(tiny, questions, draws=20, progress=False)
    assert report.made == {}
    assert "made" not in report.to_dataframe()
    content = json.loads(report.save(tmp_path / "a.json").read_text())
    assert not {"made", "contexts"} & content.keys()
    assert set(content["decisions"][0]) == {
        "id", "group", "pair", "order", "label", "logit_difference", "answer_mass", "question",
    }  # fmt: skip
