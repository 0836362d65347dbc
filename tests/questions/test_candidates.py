"""Wrong answers: what counts as equal to the right one, and that none that is made is."""

import re
from random import Random

import pytest
from rows_of_sets import ANSWERS

from nasa_interp.questions.ar_lsat import _rows, read_ar_lsat
from nasa_interp.questions.expressions import comparer, same_expression, wrong_expressions
from nasa_interp.questions.files import json_lines, parse_at
from nasa_interp.questions.gsm8k import read_gsm8k
from nasa_interp.questions.math_problems import read_math
from nasa_interp.questions.musique import read_musique
from nasa_interp.questions.numbers import number_of, same_number, wrong_numbers
from nasa_interp.questions.spans import Gold, normal


@pytest.mark.parametrize(
    "texts",
    [
        ("1,000", "1000", "1000.0", "$1000", "1,000 dollars", "+1000", " 1000.00 km"),
        ("-3", "\u22123", "-3.0", "- 3 degrees"),
        ("1/2", "0.5", ".5", "50%", r"\frac{1}{2}", "2/4"),
        ("1 1/2", "1.5", "3/2", r"\frac{3}{2} miles"),
        ("25%", "25 percent", "0.25", "1/4"),
        ("about ten", "About  Ten"),
    ],
)
def test_one_number_in_many_spellings(texts):
    for text in texts[1:]:
        assert same_number(texts[0], text)
        assert same_number(text, texts[0])


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("1,000", "100"),
        ("3", "-3"),
        ("0.5", "50"),
        ("1/2", "2"),
        ("12", "1.2"),
        ("3 and 4", "34"),
        ("ten", "11"),
        ("1/0", "1"),
    ],
)
def test_other_numbers_are_others(first, second):
    assert not same_number(first, second)
    assert not same_number(second, first)


def test_two_numbers_are_none():
    assert number_of("3 or 4") is None
    assert number_of("") is None
    assert number_of("1/0") is None


@pytest.mark.parametrize("answer", ["7", "1,200", "-3", "0.5", "100", "$18.90", "1", "0", "99", "12 km", "70000"])
@pytest.mark.parametrize("seed", range(5))
def test_wrong_numbers_are_wrong_and_written_alike(answer, seed):
    found = list(wrong_numbers(answer, Random(seed), ["600", "3", "1,100", answer]))
    assert found
    for candidate in found:
        if candidate.made != "intermediate":
            assert not same_number(candidate.answer, answer)
        assert re.sub(r"[\d,.]+", "#", candidate.answer) == re.sub(r"[\d,.]+", "#", answer)
        assert not re.search(r"(?<![\d.,])0\d", candidate.answer)


@pytest.mark.parametrize(
    ("first", "second", "equal"),
    [
        (r"11\sqrt2", r"11\sqrt{2}", True),
        (r"11\sqrt2", "11", False),
        ("3, 5, 7", "7,5,3", True),
        ("3, 5, 7", "3", False),
        (r"\frac12", "0.5", True),
        ("x=5", "5", True),
        (r"\left( 3, \frac{\pi}{2} \right)", r"(3,\pi/2)", True),
        ("(3,4]", "(3,4)", False),
        (r"\text{Evelyn}", r"\text{Angela}", False),
        ("52_8", "53_8", False),
        (r"10^{10^{10}}", r"10^{10^{11}}", False),  # not multiplied out
        ("x" * 300, "y" * 300, False),
    ],
)
def test_equal_expressions(first, second, equal):
    assert same_expression(first, second) is equal
    assert same_expression(second, first) is equal


@pytest.mark.parametrize("answer", ANSWERS)
def test_wrong_expressions_keep_the_form(answer):
    same = comparer(answer)
    found = [next(c for c in wrong_expressions(answer, Random(seed)) if not same(c.answer)) for seed in range(6)]
    for candidate in found:
        assert _form(candidate.answer) == _form(answer) or candidate.made in ("factor", "word", "option", "function")
        assert candidate.answer.count("{") == candidate.answer.count("}")


def _form(text):
    return re.sub(r"\d+|[+-]|\s", "", text)


def test_what_gives_itself_away_is_not_proposed():
    for seed in range(40):
        rng = Random(seed)
        for answer, silly in (
            (r"\frac{1}{2}", r"\\frac\{(\d)\}\{(\1|1|0)\}|\{[3-9]\}\{2\}"),
            (r"3\sqrt{5}", r"^1\\|\{[4890]\}|\{1\}"),
            ("(2,5]", r"\((\d),\1\]|\([6-9]"),
            ("1,2", r"^(\d),\1$"),
            (r"145^\circ", r"^(18|19|[2-9]\d)\d"),
            (r"(-\infty, 0]", r"\(\\infty"),
            (r"(-\sqrt{3}, \sqrt{3})", r"^\((.+), \1\)$"),
        ):
            for candidate in wrong_expressions(answer, rng):
                assert not re.search(silly, candidate.answer), candidate


@pytest.mark.parametrize(
    "answer", [r"\text{Evelyn}", r"\text{a long way}", "", r"\{\}", r"7^{7^{7^7}}", r"\sum_{k=1}^9 k", "x" * 300]
)
def test_where_nothing_can_be_made_nothing_is(answer):
    assert list(wrong_expressions(answer, Random(0))) == []


def test_a_name_is_exchanged_for_another_of_the_problem():
    found = next(wrong_expressions(r"\text{Evelyn}", Random(0), ("Evelyn", "Carla")))
    assert (found.answer, found.made) == (r"\text{Carla}", "name")


@pytest.mark.parametrize(
    ("gold", "text"),
    [
        (("The Beatles",), "beatles"),
        (("Beyoncé",), "Beyonce"),
        (("Hewlett-Packard",), "Hewlett Packard"),
        (("1,599",), "1599"),
        (("New York City",), "New York"),
        (("Paris",), "Paris, France"),
        (("Michael S. Rogers",), "Mike Rogers"),
        (("John F. Kennedy",), "John Kennedy"),
        (("May 1990", "1990"), "1990"),
        (("U.S.", "America"), "the US"),
    ],
)
def test_what_may_be_the_answer_is_no_candidate(gold, text):
    assert Gold(gold).may_be(text)


@pytest.mark.parametrize("text", ["Ada County", "1991", "Lorraine", "Mike Jordan"])
def test_what_is_something_else(text):
    assert not Gold(("Canyon County", "1990", "Paris", "Michael Rogers")).may_be(text)


def test_normal_texts():
    assert normal("The  “Æon’s” Café, 1,000!") == "æons cafe 1000"


READERS = {
    "gsm8k/test.jsonl": read_gsm8k,
    "math/test500.jsonl": read_math,
    "musique/dev_sample.jsonl": read_musique,
}


@pytest.mark.parametrize("file", READERS)
def test_of_a_thousand_candidates_none_is_right(shared_data, file):
    rows = json_lines(shared_data / file)
    made, seed = 0, 0
    while made < 1000:
        for place, row in rows:
            short = READERS[file](place, row)
            wrong = short.wrong(seed)
            if wrong is None:
                continue
            assert not short.same(wrong.answer)
            assert not _same_again(file, short.answer, wrong.answer)
            made += 1
        seed += 1


def _same_again(file, answer, candidate):
    """The data set's comparison, from the beginning."""
    if file.startswith("math"):
        return same_expression(answer, candidate)
    return same_number(answer, candidate) or (file.startswith("musique") and normal(answer) == normal(candidate))


def test_of_all_other_options_none_reads_like_the_right_one(shared_data):
    path = shared_data / "ar_lsat" / "AR_DevelopmentData.json"
    shorts = [read_ar_lsat(*pair) for pair in _rows(str(path), parse_at(str(path), path.read_text(), "a list"))]
    others = [(short, c) for short in shorts for c in short.candidates(Random(0)) if not short.same(c.answer)]
    assert len(others) == 924
