"""Questions with short answers: what all sources promise of the two questions that each row becomes."""

import json
from collections import defaultdict
from contextlib import nullcontext

import pytest
from rows_of_sets import AR_LSAT, GSM8K, MATH, MUSIQUE, write_lines, write_sets

from nasa_interp import load_questions
from nasa_interp.errors import QuestionError
from nasa_interp.questions import check_apart
from nasa_interp.questions.expressions import last_boxed

SETS = {"gsm8k": len(GSM8K), "math": len(MATH), "musique": len(MUSIQUE), "ar_lsat": 2}


@pytest.fixture
def sets(tmp_path):
    return write_sets(tmp_path)


def proposed(question):
    return question.question.rpartition("Proposed answer: ")[2].rpartition("\n")[0]


def twins_of(questions):
    pairs = defaultdict(dict)
    for question in questions:
        pairs[question.pair][question.label] = question
    return [(pair[True], pair[False]) for pair in pairs.values()]


@pytest.mark.parametrize("name", SETS)
def test_every_row_is_a_right_and_a_wrong_answer_to_one_question(sets, name):
    questions = load_questions(sets[name])
    assert len(questions) == 2 * SETS[name]
    assert questions.skipped == ()
    assert questions.name == sets[name]
    for right, wrong in twins_of(questions):
        assert right.made == "given"
        assert wrong.made not in ("given", None)
        assert right.question.partition("Proposed")[0] == wrong.question.partition("Proposed")[0]
        assert proposed(right) != proposed(wrong)
        assert (right.group, right.context) == (wrong.group, wrong.context)


@pytest.mark.parametrize("name", SETS)
def test_candidates_depend_on_the_row_and_the_seed_of_the_data_alone(sets, name, tmp_path):
    questions = load_questions(sets[name])
    assert load_questions(sets[name], seed=5) == questions
    assert load_questions(f"{sets[name]}#seed=0") == questions
    others = [load_questions(f"{sets[name]}#seed={seed}") for seed in range(1, 5)]
    assert any(other != questions for other in others)
    if name != "ar_lsat":
        rows = {"gsm8k": GSM8K, "math": MATH, "musique": MUSIQUE}[name]
        alone = load_questions(f"{name}:{write_lines(tmp_path / 'last.jsonl', rows[-1:])}")
        assert alone == [q for q in questions if q.pair == alone[0].pair]


def test_which_twin_comes_first_is_drawn(sets):
    firsts = [q.label for q in load_questions(sets["math"])[::2]]
    assert 0.2 < sum(firsts) / len(firsts) < 0.8


@pytest.mark.parametrize(
    ("asked", "says"),
    [
        ("#shuffled", "'shuffled' is unknown there; behind '#' may stand"),
        ("#seed=x", "seed=x is no whole number"),
        ("#seed=-1", "seed=-1 is no whole number"),
        ("#seed=1,seed=2", "'seed=2' is one too many"),
        ("#size=3", "'size=3' is unknown there"),
    ],
)
@pytest.mark.parametrize("name", SETS)
def test_what_a_set_does_not_know_behind_the_hash_is_refused(sets, name, asked, says):
    with pytest.raises(QuestionError, match=says):
        load_questions(sets[name] + asked)


def test_musique_has_three_contexts_and_one_question(sets):
    closed, supporting, everything = (load_questions(f"{sets['musique']}#{w}") for w in ("closed", "supporting", "all"))
    assert closed == load_questions(sets["musique"])
    assert {q.context for q in closed} == {None}
    assert [q.question for q in closed] == [q.question for q in supporting] == [q.question for q in everything]
    assert supporting[0].context.count("\n\n") == 1
    assert supporting[0].context.startswith("Adam Brook: Adam Brook (born")
    assert everything[0].context.count("\n\n") == 5
    again = load_questions(f"{sets['musique']}#all,seed=0")
    assert [q.context for q in again] == [q.context for q in everything]
    with pytest.raises(QuestionError, match="or its twin"):
        check_apart(closed, supporting, "to tune on", "test on")


def test_a_passage_is_the_context_of_its_questions(sets):
    assert {q.context for q in load_questions(sets["ar_lsat"])} == {AR_LSAT[0]["passage"]}


def test_musique_draws_names_dates_and_numbers_from_the_paragraphs(sets):
    made = {
        proposed(right): (proposed(wrong), wrong.made) for right, wrong in twins_of(load_questions(sets["musique"]))
    }
    assert made["Fennel County"] == ("Ashdown County", "entity")
    assert made["Ruth Vale"][0] in ("Adam Brook", "Miles Hart", "Carl Stone")
    assert made["1962"][1] == "date"
    assert made["12 June 1940"][0] in ("4 May 1931", "3 March 1955")
    assert made["4,210"] == ("5,120", "number")
    assert made["three times in a week"][1] == "word"


def test_the_first_layout_of_math_gives_the_same_questions(sets, tmp_path):
    folder = tmp_path / "test"
    for row in MATH:
        file = folder / row["unique_id"].removeprefix("test/")
        file.parent.mkdir(parents=True, exist_ok=True)
        old = {"problem": row["problem"], "level": f"Level {row['level']}", "type": row["subject"]}
        file.write_text(json.dumps({**old, "solution": row["solution"]}))
    assert load_questions(f"math:{folder}") == load_questions(sets["math"])
    (folder / "algebra" / "0.json").write_text('{"problem": "a?", "type": "Algebra", "solution": "none"}')
    with pytest.raises(QuestionError, match=r"algebra/0\.json: the solution has no \\boxed"):
        load_questions(f"math:{folder}")
    with pytest.warns(UserWarning, match="1 row is left out"):
        assert len(load_questions(f"math:{folder / 'algebra'}", skip_bad=True)) == 2 * len(MATH) - 2
    (tmp_path / "empty").mkdir()
    with pytest.raises(QuestionError, match=r"holds no \.json files; name the folder"):
        load_questions(f"math:{tmp_path / 'empty'}")


@pytest.mark.parametrize(
    ("solution", "answer"),
    [
        (r"so \boxed{4}.", "4"),
        (r"\boxed{1} and \boxed{\frac{1}{\sqrt{2}}}", r"\frac{1}{\sqrt{2}}"),
        (r"\boxed{\text{a } \} b}", r"\text{a } \} b"),
        (r"\boxed{\boxed{3}}", "3"),
        (r"\fbox{7}", "7"),
        (r"$\boxed 5$", "5"),
        (r"\boxed{1", None),
        ("4", None),
        ("", None),
    ],
)
def test_the_last_box_with_its_braces(solution, answer):
    assert last_boxed(solution) == answer


def test_every_row_of_the_public_files_loads_or_says_why_not(shared_data):
    files = {
        "gsm8k": ("gsm8k/test.jsonl", 1319, 1.0),
        "math": ("math/test500.jsonl", 500, 0.95),
        "musique": ("musique/dev_sample.jsonl", 200, 0.95),
        "ar_lsat": ("ar_lsat/AR_DevelopmentData.json", 231, 1.0),
    }
    for name, (file, rows, share) in files.items():
        with pytest.warns(UserWarning, match="left out") if name == "musique" else nullcontext():
            questions = load_questions(f"{name}:{shared_data / file}")
        assert len(questions) / 2 + len(questions.skipped) == rows
        assert len(questions) / 2 >= share * rows
