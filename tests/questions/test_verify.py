"""Laws of the built-in set, checked on the loaded questions: balance, twins, disjoint splits, right labels."""

import csv
import hashlib
import random
import re
from collections import Counter
from functools import cache
from importlib import resources
from importlib.machinery import ModuleSpec, SourceFileLoader
from importlib.util import module_from_spec
from itertools import combinations

import pytest

from nasa_interp.errors import QuestionError
from nasa_interp.questions import verify
from nasa_interp.questions.question import BinaryQuestion

AT_LEAST = {"probe": 120, "val": 60, "test": 100}
# The frame of every stated fact. Its other words (what was there, and where) are entities.
GLUE = {"there", "was", "a", "an", "would", "you", "say", "the", "in", "on", "under", "behind", "near"}
CELLS = [(split, group) for split in verify.SPLITS for group in verify.GROUPS]
each_cell = pytest.mark.parametrize(("split", "group"), CELLS)
each_split = pytest.mark.parametrize("split", verify.SPLITS)
each_group = pytest.mark.parametrize("group", verify.GROUPS)


@cache
def _loaded(split: str) -> tuple[BinaryQuestion, ...]:
    return tuple(verify.load_verify(split))


def _cell(split: str, group: str) -> list[BinaryQuestion]:
    return [question for question in _loaded(split) if question.group == group]


def _twins(split: str, group: str) -> list[tuple[str, str]]:
    """The texts of each pair, the one whose answer is yes first."""
    by_pair: dict[str | None, dict[bool, str]] = {}
    for question in _cell(split, group):
        by_pair.setdefault(question.pair, {})[question.label] = question.question
    return [(texts[True], texts[False]) for texts in by_pair.values()]


def _rows(name: str) -> list[dict[str, str]]:
    text = (resources.files("nasa_interp.questions") / "data" / name).read_text(encoding="ascii")
    return list(csv.DictReader(text.splitlines(), delimiter="\t", quoting=csv.QUOTE_NONE))


def _parse(pattern: str, text: str) -> tuple[str, ...]:
    match = re.fullmatch(pattern, text)
    assert match, f"{text!r} doesn't have the form {pattern!r}"
    return match.groups()


def _review(text: str) -> str:
    return _parse(r"(.+[.!]) Would you say that the review is positive\?", text)[0]


def _two_words(text: str) -> tuple[str, ...]:
    return _parse(r'Is "the ([a-z]+)" the same as "the ([a-z]+)"\?', text)


def _member_category(text: str) -> tuple[str, ...]:
    return _parse(r"There was an? ([a-z]+)\. Would you say there was an? ([a-z ]+)\?", text)


def _present_and_asked(text: str) -> tuple[str, ...]:
    return _parse(r"There was an? ([a-z]+) and an? ([a-z]+)\. Would you say there was an? ([a-z]+)\?", text)


def _stated_and_asked(text: str) -> tuple[str, ...]:
    return _parse(r"There (was an? [a-z ]+)\. Would you say there (was an? [a-z ]+)\?", text)


def _city_country(text: str) -> tuple[str, ...]:
    return _parse(r"Is ([A-Za-z -]+) the capital of ([A-Za-z ]+)\?", text)


def _sum_terms(text: str) -> tuple[int, int, int]:
    if "plus" in text.split("equal")[0]:
        left, right, result = _parse(r"Is (\d+) plus (\d+) equal to (\d+)\?", text)
    else:
        result, left, right = _parse(r"Is (\d+) equal to (\d+) plus (\d+)\?", text)
    return int(left), int(right), int(result)


def _compared(text: str) -> tuple[int, int]:
    left, right = _parse(r"Is (\d+) larger than (\d+)\?", text)
    return int(left), int(right)


ENTITIES = {
    "sentiment": lambda text: [_review(text)],
    "stated_fact": lambda text: set(re.findall(r"[a-z]+", text.lower())) - GLUE,
    "same_word": _two_words,
    "category": _member_category,
    "presence": _present_and_asked,
    "sum": _sum_terms,
    "capital": _city_country,
    "larger": _compared,
}


def _entities(split: str, group: str) -> set:
    return {entity for question in _cell(split, group) for entity in ENTITIES[group](question.question)}


@each_cell
def test_every_cell_is_large_enough_and_balanced(split, group):
    labels = Counter(question.label for question in _cell(split, group))
    assert labels.total() >= AT_LEAST[split]
    assert labels[True] == labels[False]


@each_split
def test_groups_are_the_announced_ones(split):
    assert {question.group for question in _loaded(split)} == set(verify.GROUPS)


@each_cell
def test_every_question_has_one_twin_with_the_other_label(split, group):
    pairs: dict[str | None, list[BinaryQuestion]] = {}
    for question in _cell(split, group):
        pairs.setdefault(question.pair, []).append(question)
    for pair, twins in pairs.items():
        assert {(twin.id, twin.label) for twin in twins} == {(f"{pair}-yes", True), (f"{pair}-no", False)}
        assert len(twins) == 2
        assert re.fullmatch(rf"verify/{group}/{split}/\d{{3}}", str(pair))


@each_split
def test_twins_stand_together_and_take_turns_in_coming_first(split):
    questions = _loaded(split)
    assert all(left.pair == right.pair for left, right in zip(questions[::2], questions[1::2], strict=True))
    for group in verify.GROUPS:
        first = [question.label for question in _cell(split, group)[::2]]
        assert abs(2 * sum(first) - len(first)) <= 1


@each_split
def test_prefixes_are_balanced_over_groups(split):
    running = Counter(dict.fromkeys(verify.GROUPS, 0))
    for question in _loaded(split)[: AT_LEAST[split] * len(verify.GROUPS)]:
        running[question.group] += 1
        assert max(running.values()) - min(running.values()) <= 2


def test_ids_and_texts_are_unique_over_all_splits():
    questions = [question for split in verify.SPLITS for question in _loaded(split)]
    assert len({question.id for question in questions}) == len(questions)
    assert len({question.question for question in questions}) == len(questions)


@each_split
def test_loading_does_not_depend_on_the_global_generator(split):
    state = random.getstate()
    first = verify.load_verify(split)
    random.seed(7)
    try:
        assert verify.load_verify(split) == first
    finally:
        random.setstate(state)


@each_split
def test_loading_leaves_the_global_generator_alone(split):
    # A copy loaded past the import hook: the type checker of every test run draws from the global generator itself.
    loader = SourceFileLoader("nasa_interp.questions.unchecked_verify", verify.__file__)
    unchecked = module_from_spec(ModuleSpec(loader.name, loader))
    loader.exec_module(unchecked)
    state = random.getstate()
    unchecked.load_verify(split)
    assert random.getstate() == state


def test_the_set_is_the_one_that_results_were_reported_on():
    # Every number measured on the set depends on it: whoever changes the data or the dealing changes this on purpose.
    lines = [f"{q.id}\t{q.label}\t{q.question}\n" for split in verify.SPLITS for q in _loaded(split)]
    assert hashlib.sha256("".join(lines).encode()).hexdigest()[:16] == "89f2488061a71d28"


@each_group
def test_splits_share_no_entity(group):
    for one, other in combinations(verify.SPLITS, 2):
        assert not _entities(one, group) & _entities(other, group), f"{group}: {one} and {other} share entities"


def test_reviews_of_different_splits_are_no_near_duplicates():
    words = {
        split: [set(re.findall(r"[a-z]+", review.lower())) for review in _entities(split, "sentiment")]
        for split in verify.SPLITS
    }
    for one, other in combinations(verify.SPLITS, 2):
        for left in words[one]:
            assert max(len(left & right) / len(left | right) for right in words[other]) < 0.5, left


def test_groups_of_a_kind_share_no_words_and_no_numbers():
    word_groups = ("same_word", "category", "presence")
    for one, other in (*combinations(word_groups, 2), ("sum", "larger")):
        sets = [set().union(*(_entities(split, group) for split in verify.SPLITS)) for group in (one, other)]
        assert not sets[0] & sets[1], (one, other)


@each_split
def test_no_text_names_an_answer(split):
    for question in _loaded(split):
        assert not re.search(r"\b(yes|no|true|false)\b", question.question, re.IGNORECASE), question
        assert question.question.isascii()
        assert question.question.endswith("?")


def test_the_language_groups_are_written_by_hand_and_distinct():
    rows = _rows("reviews.tsv")
    reviews = {review for split in verify.SPLITS for review in _entities(split, "sentiment")}
    statements = [row[column] for row in _rows("facts.tsv") for column in ("fact", "contrary")]
    facts = {yes.split(" Would")[0] for split in verify.SPLITS for yes, _ in _twins(split, "stated_fact")}
    assert reviews == {row[column] for row in rows for column in ("positive", "negative")}
    assert len(reviews) >= 280
    assert facts == set(statements)
    assert len(facts) == len(statements) >= 210
    assert all(6 <= len(review.split()) <= 16 for review in reviews)


@each_split
def test_reviews_are_labelled_as_in_the_table(split):
    expected = {(row["positive"], row["negative"]) for row in _rows("reviews.tsv") if row["split"] == split}
    assert {(_review(yes), _review(no)) for yes, no in _twins(split, "sentiment")} == expected


@each_split
def test_a_fact_and_its_contrary_differ_in_the_place_alone_and_are_stated_and_asked_alike(split):
    form = r"There was (an? [a-z]+) ((?:in|on|under|behind|near) the [a-z]+)\."
    expected = set()
    for row in _rows("facts.tsv"):
        (thing, place), (same, other) = (_parse(form, row[column]) for column in ("fact", "contrary"))
        assert thing == same
        assert place != other
        if row["split"] == split:
            expected |= {(row["fact"], row["contrary"]), (row["contrary"], row["fact"])}
    found = set()
    for yes, no in _twins(split, "stated_fact"):
        (stated, right), (stated_again, wrong) = _stated_and_asked(yes), _stated_and_asked(no)
        assert stated == right == stated_again
        found.add((f"There {stated}.", f"There {wrong}."))
    assert found == expected


@each_split
def test_same_word_labels_and_a_shared_word_on_either_side(split):
    for question in _cell(split, "same_word"):
        left, right = _two_words(question.question)
        assert (left == right) == question.label
    kept_first = sum(_two_words(yes)[0] == _two_words(no)[0] for yes, no in _twins(split, "same_word"))
    assert kept_first == len(_twins(split, "same_word")) / 2


@each_split
def test_categories_match_the_table_and_are_wrong_as_often_as_right(split):
    table = {member: row["category"] for row in _rows("categories.tsv") for member in row["members"].split()}
    asked = {True: Counter(), False: Counter()}
    for question in _cell(split, "category"):
        member, category = _member_category(question.question)
        assert (table[member] == category) == question.label
        asked[question.label][category] += 1
    assert asked[True] == asked[False]


def test_no_member_stands_in_two_categories():
    members = [member for row in _rows("categories.tsv") for member in row["members"].split()]
    assert len(members) == len(set(members))
    assert all(len(row["members"].split()) >= 10 for row in _rows("categories.tsv"))


@each_split
def test_presence_labels_and_evenly_spread_positions(split):
    positions = Counter()
    for question in _cell(split, "presence"):
        *present, asked = _present_and_asked(question.question)
        assert (asked in present) == question.label
        assert len(set(present)) == 2
        if question.label:
            positions[present.index(asked)] += 1
    assert positions[0] == positions[1]
    for yes, no in _twins(split, "presence"):
        assert _present_and_asked(yes)[:2] == _present_and_asked(no)[:2]


@each_split
def test_articles_fit_the_nouns(split):
    for question in _loaded(split):
        for article, noun in re.findall(r"\b(an?) ([a-z]+)", question.question):
            if question.group in ("stated_fact", "category", "presence"):
                assert (article == "an") == (noun[0] in "aeiou"), question


@each_split
def test_sums_are_right_and_wrong_by_a_little(split):
    for question in _cell(split, "sum"):
        left, right, result = _sum_terms(question.question)
        assert (left + right == result) == question.label
        assert abs(left + right - result) <= 20
    for yes, no in _twins(split, "sum"):
        assert _sum_terms(yes)[:2] == _sum_terms(no)[:2]


@each_split
def test_comparisons_are_right_and_twins_are_swapped(split):
    for question in _cell(split, "larger"):
        left, right = _compared(question.question)
        assert (left > right) == question.label
    for yes, no in _twins(split, "larger"):
        assert _compared(yes) == _compared(no)[::-1]


@each_split
def test_capitals_match_the_table_and_countries_are_wrong_as_often_as_right(split):
    table = {row["capital"]: row["country"] for row in _rows("capitals.tsv")}
    asked = {True: Counter(), False: Counter()}
    for question in _cell(split, "capital"):
        city, country = _city_country(question.question)
        assert (table[city] == country) == question.label
        asked[question.label][country] += 1
    assert asked[True] == asked[False]


def test_capitals_are_many_and_single():
    rows = _rows("capitals.tsv")
    assert len({row["country"] for row in rows}) == len({row["capital"] for row in rows}) == len(rows) >= 140
    assert not [row for row in rows if row["country"] in row["capital"] or row["capital"] in row["country"]]


def test_an_unknown_split_is_refused_with_the_known_ones():
    with pytest.raises(QuestionError, match=r"'train'.*probe, val, test"):
        verify.load_verify("train")
