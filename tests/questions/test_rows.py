"""Questions from dicts and DataFrames, wherever data may be given."""

import random
from collections import UserDict

import numpy as np
import pandas as pd
import pytest

from nasa_interp import BinaryQuestion, decide
from nasa_interp.errors import QuestionError
from nasa_interp.questions.labels import parse_label
from nasa_interp.questions.resolve import resolve_questions

ROWS = [
    {"question": " Is snow white? ", "label": "yes", "id": "a", "group": "facts", "pair": 7},
    {"question": "Is coal white?", "label": False, "id": 0, "pair": 7, "other": [1]},
    {"question": "Is it?", "label": 1.0, "id": float("nan"), "group": None},
]
QUESTIONS = [
    BinaryQuestion("Is snow white?", True, "a", "facts", "7"),
    BinaryQuestion("Is coal white?", False, "0", "all", "7"),
    BinaryQuestion("Is it?", True, "3"),
]
COLUMNS = pd.DataFrame(
    {
        "question": [q.question for q in QUESTIONS],
        "label": pd.array([True, False, True], dtype="boolean"),
        "id": ["a", "0", None],
        "group": pd.array(["facts", pd.NA, pd.NA], dtype="string"),
        "pair": pd.array([7, 7, pd.NA], dtype="Int64"),
    },
    index=["x", "y", "z"],
)


@pytest.mark.parametrize(
    "data",
    [
        ROWS,
        tuple(ROWS),
        [UserDict(row) for row in ROWS],
        COLUMNS,
        COLUMNS.astype({"label": "Float64"}),
        COLUMNS.assign(label=["1.0", "0", "TRUE"]),
        COLUMNS.astype(object),
        pd.DataFrame(ROWS).assign(label=[np.bool_(1), np.int8(0), 1.0]),
    ],
)
def test_dicts_and_dataframes_are_questions(data):
    found = resolve_questions(data)
    assert found == QUESTIONS
    assert found.name == "own questions (facts, all)"
    assert len(resolve_questions(data, limit=1)) in (1, 2)


@pytest.mark.filterwarnings("ignore:answer mass")
def test_the_model_decides_on_dicts_and_dataframes(tiny, questions):
    rows = [{"question": q.question, "label": q.label, "id": q.id, "group": q.group, "pair": q.pair} for q in questions]
    options = {"draws": 10, "progress": False}
    expected = decide(tiny, questions, **options)
    for data in (rows, pd.DataFrame(rows)):
        found = decide(tiny, data, **options)
        assert found.questions == expected.questions
        np.testing.assert_array_equal(found.logit_differences, expected.logit_differences)


GOOD = {"question": "a?", "label": True}


@pytest.mark.parametrize(
    ("data", "says"),
    [
        ([GOOD, {"question": "b?"}], "row 2: no field 'label' .found: 'question'."),
        ([GOOD, {**GOOD, "label": float("nan")}], "row 2: the label is missing"),
        ([GOOD, {**GOOD, "label": pd.NA}], "row 2: the label is missing"),
        ([{**GOOD, "question": None}], "row 1: the question is missing"),
        ([{**GOOD, "question": 3}], "row 1: the question is 3, not a text"),
        ([{**GOOD, "label": 10**5000}], "row 1: label a number of thousands of digits is none of"),
        ([{**GOOD, "id": 10**5000}], "row 1: the id is a number of thousands of digits; write it as text"),
        ([{**GOOD, "group": ["x"]}], "row 1: the group is a list"),
        ([{**GOOD, "pair": np.zeros(2)}], "row 1: the pair is a ndarray"),
        ([{**GOOD, "question": "\ud83d?"}], r"row 1: question '1': the question holds a lone surrogate \('\\ud83d' at"),
        ([GOOD, "b?"], "row 2 is of type str; give BinaryQuestions, dicts or a DataFrame"),
        ([QUESTIONS[0], GOOD], "row 1 is of type BinaryQuestion"),
        ([GOOD, {**GOOD, "id": "1"}], "share the id '1'"),
        ([], "holds no questions"),
        (GOOD, "dict is not data; give"),
        (None, "NoneType is not data"),
        (pd.DataFrame(), "holds no questions"),
        ([GOOD, {"question": "b?"}], "row 2: no field 'label'"),
        (COLUMNS.assign(label=[1, 0, None]), "row 3: the label is missing"),
        (COLUMNS.assign(label=[1, 0, 2]), "row 3: label 2 is none of"),
        (COLUMNS.set_axis(["question", "label", "id", "id", "pair"], axis=1), "has the column 'id' twice"),
        (COLUMNS["question"], "Series is not data"),
    ],
)
def test_wrong_rows_are_refused_by_their_place(data, says):
    with pytest.raises(QuestionError, match=says) as error:
        resolve_questions(data)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("data", [QUESTIONS, ROWS, COLUMNS, "builtin:verify#probe"])
def test_a_negative_seed_is_refused(data):
    with pytest.raises(QuestionError, match="seed -1 is below 0; give 0 or more"):
        resolve_questions(data, limit=2, seed=-1)
    # Why: Python's generator takes it for another seed.
    assert random.Random(-1).random() == random.Random(1).random()


@pytest.mark.parametrize("field", ["question", "id", "group", "pair"])
def test_a_lone_surrogate_is_no_text(field):
    fields = {"question": "a?", "label": True, "id": "a", "group": "g", "pair": "p"}
    with pytest.raises(QuestionError, match=rf"the {field} holds a lone surrogate \('\\udcff' at character 2\)"):
        BinaryQuestion(**{**fields, field: "x\udcff"})
    assert BinaryQuestion(**{**fields, field: "x😀"})


@pytest.mark.parametrize("kind", [str, int, float, np.bool_, np.int64, np.float32, np.str_, lambda n: f" {n}.0 "])
@pytest.mark.parametrize("number", [0, 1])
def test_labels_of_every_type(kind, number):
    assert parse_label(kind(number), "row 1") is bool(number)


@pytest.mark.parametrize(
    "value", [float("nan"), np.nan, np.float32("nan"), float("inf"), 0.5, 2, "nan", "1.00", "", None, (), {1}, b"1", 1j]
)
def test_no_label_is_guessed(value):
    with pytest.raises(QuestionError, match=r"row 7: label .* is none of true/false, yes/no, 1/0"):
        parse_label(value, "row 7")


def test_a_pair_of_more_than_two_is_refused():
    rows = [{"question": f"Is it {i}?", "label": i % 2 == 0, "pair": "NA"} for i in range(6)]
    with pytest.raises(QuestionError, match="6 questions share the pair 'NA'"):
        resolve_questions(rows)


@pytest.mark.parametrize("seed", [1.5, "a", None, -1])
def test_what_is_no_seed_is_refused(seed):
    with pytest.raises(QuestionError, match="seed"):
        resolve_questions("builtin:verify#val", 2, seed)
