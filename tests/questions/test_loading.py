"""Questions from files: what is read, what is refused and how."""

import json

import pytest

from nasa_interp import BinaryQuestion, load_questions
from nasa_interp.errors import QuestionError
from nasa_interp.questions import sample_questions


def write(path, rows):
    path.write_text("\n".join(json.dumps(row) for row in rows))
    return str(path)


@pytest.mark.parametrize(
    ("value", "label"),
    [
        *((value, True) for value in (True, "true", "Yes", 1, "1", 1.0)),
        *((value, False) for value in (False, "FALSE", "no", 0, " 0 ")),
    ],
)
def test_labels_in_every_accepted_form(tmp_path, value, label):
    path = write(tmp_path / "a.jsonl", [{"question": "Is it?", "label": value}])
    assert load_questions(path)[0].label is label


@pytest.mark.parametrize("value", ["maybe", 2, "", -1, 0.5, [], "y"])
def test_any_other_label_names_the_row(tmp_path, value):
    path = write(tmp_path / "a.jsonl", [{"question": "a?", "label": 1}, {"question": "b?", "label": value}])
    with pytest.raises(QuestionError, match=r"line 2: label .* is none of true/false, yes/no, 1/0"):
        load_questions(path)


def test_csv_reads_quotes_groups_and_pairs(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text('id,question,label,group,pair\n7,"Is ""it"", here?",yes,g,p\n8,Or not?,0,,\n')
    assert load_questions(str(path)) == [
        BinaryQuestion('Is "it", here?', True, "7", "g", "p"),
        BinaryQuestion("Or not?", False, "8"),
    ]


def test_a_line_separator_within_a_question_is_no_end_of_line(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text('{"question": "a\u2028b?", "label": 1}\n{"question": "c?", "label": 0}\n')
    assert [q.question for q in load_questions(str(path))] == ["a\u2028b?", "c?"]


def test_a_split_picks_its_rows(tmp_path):
    rows = [{"question": f"{i}?", "label": i % 2, "split": "dev" if i < 2 else "test"} for i in range(5)]
    path = write(tmp_path / "a.jsonl", rows)
    assert len(load_questions(f"{path}#test")) == 3
    with pytest.raises(QuestionError, match="no rows of split 'train'; it has dev, test"):
        load_questions(f"{path}#train")


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "holds no questions"),
        ("{}", "no field 'question' .found: nothing."),
        ('{"question": "a?", "label": 1}\n{"question": "b?"}', "line 2: no field 'label' .*--unlabeled"),
        ('{"question": "a?", "label": 1}\n{"question": "b?", "label": null}', "line 2: the label is missing"),
        ('{"question": "  ", "label": 1}', "the question is '  '"),
        ('{"question": 3, "label": 1}', "the question is 3"),
        ('{"question": "a?", "label": 1}\n{"question": ', "line 2 is not JSON"),
        ("[1]", "is list; write an object with"),
        ('{"question": "a?", "label": 1, "id": "x"}\n{"question": "b?", "label": 1, "id": "x"}', "share the id 'x'"),
    ],
)
def test_a_broken_file_is_one_clear_line(tmp_path, text, says):
    path = tmp_path / "a.jsonl"
    path.write_text(text)
    with pytest.raises(QuestionError, match=says) as error:
        load_questions(str(path))
    assert "a.jsonl" in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("data", "says"),
    [
        ("nowhere.jsonl", "can't be read"),
        ("foo", "unknown data 'foo'"),
        ("builtin:quiz", "no built-in set 'quiz'"),
        ("builtin:verify#train", "no split 'train'"),
        ("strategyqa:nowhere.json", "can't be read"),
    ],
)
def test_unknown_data_is_one_clear_line(data, says):
    with pytest.raises(QuestionError, match=says):
        load_questions(data)


def test_strategyqa_in_its_authors_format(tmp_path):
    path = tmp_path / "dev.json"
    path.write_text(json.dumps([{"qid": "q1", "question": "Could a dog fly?", "answer": False, "facts": []}]))
    assert load_questions(f"strategyqa:{path}") == [BinaryQuestion("Could a dog fly?", False, "q1", "strategyqa")]
    path.write_text('{"a": 1}')
    with pytest.raises(QuestionError, match="not a list"):
        load_questions(f"strategyqa:{path}")
    path.write_text('[{"question": "a?"}]')
    with pytest.raises(QuestionError, match="row 1: no 'question' and 'answer'"):
        load_questions(f"strategyqa:{path}")


def test_real_strategyqa(shared_data):
    assert len(load_questions(f"strategyqa:{shared_data}/strategyqa/dev.json")) == 229
    assert len(load_questions(f"strategyqa:{shared_data}/strategyqa/train_questions.json")) == 2061


def test_a_limit_takes_whole_pairs_evenly_from_the_groups():
    questions = load_questions("builtin:verify#test", limit=48, seed=3)
    groups = [q.group for q in questions]
    assert {groups.count(g) for g in groups} == {6}
    assert sum(q.label for q in questions) == 24
    assert questions == load_questions("builtin:verify#test", limit=48, seed=3)
    assert questions != load_questions("builtin:verify#test", limit=48, seed=4)
    assert questions.name == "builtin:verify#test"


def test_a_limit_leaves_the_base_rate_of_unpaired_questions():
    questions = [BinaryQuestion(f"{i}?", i < 20, str(i)) for i in range(200)]
    drawn = sample_questions(questions, 100, seed=1)
    assert 3 <= sum(q.label for q in drawn) <= 17
    with pytest.raises(QuestionError, match="leaves no questions"):
        sample_questions(questions, 0)


def test_a_label_must_be_a_truth_value():
    with pytest.raises(QuestionError, match="the text is empty"):
        BinaryQuestion(" ", True, "a")
