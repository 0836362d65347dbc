"""What a model knows: answers compared by the data set, three states, and the claim of the shortcut."""

import dataclasses
from contextlib import nullcontext

import families
import numpy as np
import pytest

import nasa_interp as ni
from nasa_interp.errors import QuestionError, ResultError
from nasa_interp.knowledge import Knowledge, Known, ask_openly, shortcut
from nasa_interp.knowledge.asking import says
from nasa_interp.questions import BinaryQuestion, load_short
from nasa_interp.questions.numbers import same_number
from nasa_interp.questions.short import ShortQuestion

pytestmark = pytest.mark.filterwarnings("ignore:.*answer mass")


def short(number: int) -> ShortQuestion:
    return ShortQuestion(
        f"How much is {number} + 1?",
        str(number + 1),
        f"q{number}",
        "sums",
        lambda text: same_number(text, str(number + 1)),
        lambda rng: iter(()),
    )


@pytest.fixture(scope="module")
def model():
    return ni.load_model(families.tiny_model("llama"), tokenizer=families.tiny_tokenizer())


@pytest.fixture(scope="module")
def run(model):
    return ni.decide(model, families.QUESTIONS[:2], draws=5, progress=False).run


@pytest.mark.parametrize(
    ("text", "right"),
    [("8", True), ("The answer is 8.", True), ("7 + 1 = 8", True), ("8 + 1 = 9", False), ("", False), ("who?", False)],
)
def test_an_answer_is_right_by_its_words_or_its_last_number(text: str, right: bool) -> None:
    assert says(short(7), text) is right


@pytest.mark.parametrize(
    ("right", "drawn", "agree", "state"),
    [
        (True, (True, True, False, False), 2, "knows"),
        (True, (True, False, False, False), 1, "doesn't know"),
        (False, (False, False, False, False), 2, "knows wrongly"),
        (False, (False, False, True, False), 1, "doesn't know"),
        (True, (), 0, "knows"),
        (False, (), 0, "knows wrongly"),
    ],
)
def test_the_state_follows_from_the_answers(right, drawn, agree, state) -> None:
    assert Known("q", "8", "8", right, ("x",) * len(drawn), drawn, agree).state == state
    assert Known("q", "8", "", False).state == "doesn't know"


def test_a_model_is_asked_greedily_and_by_draws_of_its_seed(model, tmp_path) -> None:
    asked = [short(number) for number in range(3)]
    known = ask_openly(model, asked, samples=2, max_new_tokens=6, progress=False)
    assert [each.id for each in known.known] == ["q0", "q1", "q2"]
    assert all(len(each.samples) == 2 for each in known.known)
    assert ask_openly(model, asked, samples=2, max_new_tokens=6, progress=False).known == known.known
    other = ask_openly(model, asked, samples=2, max_new_tokens=6, seed=9, progress=False)
    assert [k.greedy for k in other.known] == [k.greedy for k in known.known]
    assert sum(known.counts.values()) == 3
    assert Knowledge.load(known.save(tmp_path / "known.json")) == known
    assert list(known.to_dataframe()["state"]) == [each.state for each in known.known]
    with pytest.raises(QuestionError, match="0 questions can't be asked"):
        ask_openly(model, [], progress=False)


def test_questions_are_parted_by_what_is_known_of_them(run) -> None:
    states = {"a": (True, 0), "b": (False, 2), "c": (False, 0)}
    known = tuple(
        Known(id, "x", "y", right, ("z", "z"), (right, right), agree) for id, (right, agree) in states.items()
    )
    value = Knowledge(known, run)
    questions = [BinaryQuestion("Is it?", label, f"{id}/{label}", pair=id) for id in "abcd" for label in (True, False)]
    assert {state: [q.pair for q in part] for state, part in value.split(questions, "mine").items()} == {
        "knows": ["a", "a"],
        "knows wrongly": ["b", "b"],
        "doesn't know": ["c", "c"],
    }
    assert value.of(questions[-1]) is None


def test_the_shortcut_is_the_difference_of_imbalances(run) -> None:
    ids = [f"q{n}" for n in range(24)]
    questions = [BinaryQuestion("Is it?", label, f"{id}/{label}", pair=id) for id in ids for label in (True, False)]
    d = np.where([int(q.id[1:].partition("/")[0]) < 12 and bool(q.label) for q in questions], -1.0, 1.0)
    report = ni.decisions.BinaryReport(d, np.ones(48), ("yes_no",) * 48, tuple(questions), run)
    # the first twelve are known, three are known wrongly, of nine nothing is known
    known = tuple(Known(id, "x", "x" if n < 15 else "", n < 12) for n, id in enumerate(ids))
    value = Knowledge(known, run)
    found = shortcut(report, value)
    assert (found.change, found.n_missing, found.n_known) == (0.5, 9, 12)
    wrongly = shortcut(report, value, "knows wrongly")
    assert wrongly.n_missing == 3
    assert wrongly.told.endswith("too few to tell: either side needs 8.")
    assert found.low > 0
    assert found.told.endswith("shown.")
    with pytest.raises(ResultError, match="can't be compared: 0 of"):
        shortcut(report, Knowledge(known[:15], run))
    unlabeled = dataclasses.replace(report, questions=tuple(dataclasses.replace(q, label=None) for q in questions))
    with pytest.raises(ResultError, match="takes labels"):
        shortcut(unlabeled, value)


def test_short_questions_are_those_behind_the_yes_no_questions(shared_data) -> None:
    for data in (f"gsm8k:{shared_data}/gsm8k/test.jsonl", f"musique:{shared_data}/musique/dev_sample.jsonl#supporting"):
        with pytest.warns(UserWarning, match="rows") if "musique" in data else nullcontext():
            pairs = {q.pair for q in ni.load_questions(data)}
        asked = load_short(data, 5)
        assert len(asked) == 5
        assert pairs <= {q.id for q in load_short(data)}
    assert asked[0].context is not None


def test_data_without_short_answers_are_one_clear_error() -> None:
    with pytest.raises(QuestionError, match="its questions have no short answers; there are gsm8k"):
        load_short("builtin:verify#val")
