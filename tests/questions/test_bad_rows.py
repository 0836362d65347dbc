"""Rows that are no good: one clear line with file and row, or left out, counted and listed; never anything else."""

import copy
import json
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rows_of_sets import AR_LSAT, GSM8K, MATH, MUSIQUE, write_lines

from nasa_interp import load_questions
from nasa_interp.errors import QuestionError
from nasa_interp.questions import Skipped

ROWS = {"gsm8k": GSM8K, "math": MATH[:4], "musique": MUSIQUE[:3], "ar_lsat": AR_LSAT[0]["questions"]}
NEEDED = {
    "gsm8k": ("question", "answer"),
    "math": ("problem", "answer", "subject", "unique_id"),
    "musique": ("question", "answer", "id", "paragraphs", "question_decomposition"),
    "ar_lsat": ("question", "answer", "id", "options"),
}
MISSING = object()
# What may stand in a field's place.
BAD = st.one_of(
    st.sampled_from([MISSING, None, "", "  ", 3, 2.5, True, [], {}, [None], {"a": 1}, "x" * 100_001]),
    st.sampled_from(["a\0b", "\x1b[31m red", "a\x85b", "\x7f", "\ud800"]),
)
# Unusual, and fine.
ODD = st.sampled_from(
    ["שלום, מה זה?", "ما هذا؟ 3", "a\u202eb", "🦆 duck", "{nested {braces}}", "a\nb\tc", "Ω\u2028x", r"\boxed{}"]
)


def write(folder, name, rows):
    """A file of these rows and its specification."""
    if name != "ar_lsat":
        return f"{name}:{write_lines(folder / 'rows.jsonl', rows)}" if rows else None
    (folder / "rows.json").write_text(json.dumps([{**AR_LSAT[0], "questions": rows}]))
    return f"ar_lsat:{folder / 'rows.json'}"


def write_ascii(folder, name, rows):
    """The same with all else than ASCII escaped, so that half a surrogate can be written."""
    if name == "ar_lsat":
        return write(folder, name, rows)
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return f"{name}:{folder / 'rows.jsonl'}"


@settings(max_examples=60, deadline=None, derandomize=True)
@given(data=st.data(), bad=BAD)
@pytest.mark.parametrize("name", ROWS)
def test_a_bad_field_is_one_line_or_one_row_less(tmp_path_factory, name, data, bad):
    rows = copy.deepcopy(ROWS[name])
    place = data.draw(st.integers(0, len(rows) - 1))
    field = data.draw(st.sampled_from(NEEDED[name]))
    if bad is MISSING:
        del rows[place][field]
        if (name, field) == ("math", "answer"):
            return  # it is in the solution, too
    else:
        rows[place][field] = bad
    spec = write_ascii(tmp_path_factory.mktemp("rows"), name, rows)
    with pytest.raises(QuestionError) as error:
        load_questions(spec)
    number = f"question {place + 1}" if name == "ar_lsat" else f"line {place + 1}"
    assert re.search(rf"rows\.jsonl?, .*{number}\b", str(error.value)), error.value
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 500
    with pytest.warns(UserWarning, match="1 row is left out"):
        questions = load_questions(spec, skip_bad=True)
    assert len(questions) == 2 * (len(rows) - 1)
    ((where, reason),) = questions.skipped
    assert str(error.value).startswith(where)
    assert reason in str(error.value)
    assert where not in reason


@settings(max_examples=40, deadline=None, derandomize=True)
@given(data=st.data(), odd=ODD)
@pytest.mark.parametrize("name", ROWS)
def test_odd_texts_are_asked_as_they_are(tmp_path_factory, name, data, odd):
    rows = copy.deepcopy(ROWS[name])
    place = data.draw(st.integers(0, len(rows) - 1))
    field = "problem" if name == "math" else "question"
    rows[place][field] = odd
    questions = load_questions(write(tmp_path_factory.mktemp("rows"), name, rows))
    asked = {q.question.partition("\nProposed")[0] for q in questions}
    assert odd in asked


@settings(max_examples=60, deadline=None, derandomize=True)
@given(text=st.lists(st.sampled_from([*"{}\\ab1/^_ \n$", r"\boxed{", r"\frac", r"\text{"]), max_size=14).map("".join))
def test_whatever_a_solution_holds_math_reads_it_or_names_the_row(tmp_path_factory, text):
    row = {key: value for key, value in MATH[2].items() if key != "answer"} | {"solution": text}
    spec = f"math:{write_lines(tmp_path_factory.mktemp('rows') / 'rows.jsonl', [row])}"
    try:
        questions, words = load_questions(spec), ""
    except QuestionError as error:
        questions, words = [], str(error)
    assert {q.label for q in questions} == {True, False} or "rows.jsonl, line 1" in words
    assert "\n" not in words


@pytest.mark.parametrize("name", ROWS)
def test_a_doubled_row_is_named_with_the_first(tmp_path, name):
    rows = ROWS[name]
    spec = write(tmp_path, name, [*rows, rows[0]])
    with pytest.raises(QuestionError, match=r"(line|question) \d and .*1 share the id") as error:
        load_questions(spec)
    assert str(error.value).count("rows.json") == 2
    with pytest.warns(UserWarning, match="1 row is left out"):
        assert load_questions(spec, skip_bad=True) == load_questions(write(tmp_path, name, rows))


def test_lines_that_are_no_json_are_counted_and_the_warning_says_why(tmp_path):
    path = tmp_path / "own.jsonl"
    good = '{"question": "a?", "label": 1}\n'
    path.write_text(
        good + "{\n" + '{"question": "b?"}\n' + '[1]\n{"question": "c?", "label": 0, "context": "It is."}\n'
    )
    with pytest.raises(QuestionError, match="line 2 is not JSON"):
        load_questions(path)
    with pytest.warns(
        UserWarning, match=r"3 rows are left out \(.*line 2: is not JSON.*line 3: no field 'label'.*\.\.\.\)"
    ):
        questions = load_questions(path, skip_bad=True)
    assert [(q.question, q.context) for q in questions] == [("a?", None), ("c?", "It is.")]
    assert [skipped.place.rpartition(" ")[2] for skipped in questions.skipped] == ["2", "3", "4"]
    assert all(isinstance(skipped, Skipped) for skipped in questions.skipped)
    assert questions.without_labels().skipped == questions.skipped


def test_a_file_without_a_good_row_is_an_error_all_the_same(tmp_path):
    (tmp_path / "own.jsonl").write_text("{\n[\n")
    with pytest.raises(QuestionError, match=r"none of 2 rows gave a question \(the first: .*line 1: is not JSON"):
        load_questions(tmp_path / "own.jsonl", skip_bad=True)


def test_an_answer_for_which_nothing_can_be_made_is_listed_without_an_error(tmp_path):
    rows = [MATH[0], MATH[1] | {"answer": r"\text{Evelyn}"}]
    with pytest.warns(UserWarning, match=r"1 row is left out .*line 2: no wrong answer of the same kind as"):
        questions = load_questions(f"math:{write_lines(tmp_path / 'rows.jsonl', rows)}")
    assert len(questions) == 2
    assert questions.skipped[0].place.endswith("line 2")


def test_musique_that_its_paragraphs_do_not_answer_is_refused(tmp_path):
    spec = f"musique:{write_lines(tmp_path / 'rows.jsonl', [MUSIQUE[0] | {'answerable': False}])}"
    with pytest.raises(QuestionError, match=r"line 1: its paragraphs don't answer it"):
        load_questions(spec)
