"""Files of questions: each row is read as it was written, or refused by its place; none is lost or cut."""

import csv
import io
import json
import re
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nasa_interp import BinaryQuestion, load_questions
from nasa_interp.errors import QuestionError

# What csv, json and line splitting treat specially, among all other characters.
SPECIAL = "\",'\n\r\t ;|\\#\0\u2028\u2029\x85\x0b\x0c\x1c\ufeff"
LABELS = {
    True: ("true", "Yes", "1", "1.0", True, 1, 1.0),
    False: ("false", "NO", "0", "0.0", False, 0, 0.0),
}


def texts(**options):
    """Texts, about half of whose characters are special."""
    return st.lists(st.sampled_from(SPECIAL) | st.characters(**options), max_size=8).map("".join)


@st.composite
def tables(draw, text):
    """Rows as users have them: question and label, in some tables an id, group, pair and a field of their own."""
    more = draw(st.sets(st.sampled_from(["id", "group", "pair", "note"])))
    label = st.sampled_from([label for kind in LABELS.values() for label in kind])
    question = text.map(lambda text: f"{text[:6]}a{text[6:]}")  # never empty
    fields = {"question": question, "label": label, **{name: text for name in sorted(more)}}
    names = draw(st.permutations(list(fields)))
    row = st.fixed_dictionaries({name: fields[name] for name in names})
    return draw(st.lists(row, min_size=1, max_size=5, unique_by=lambda row: row.get("id", "").strip() or object()))


def read(path, content):
    """The questions of the file and "", or None and the words of the refusal."""
    path.write_bytes(content)
    try:
        return load_questions(str(path)), ""
    except QuestionError as error:
        return None, str(error)


def joined(text):
    """The text as JSON's escapes write it: two halves of a surrogate pair in a row are one character."""
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "surrogatepass")


def assert_same(questions, rows):
    assert len(questions) == len(rows)
    for found, row in zip(questions, rows, strict=True):
        assert found.question == joined(row["question"]).strip()
        assert found.label == (row["label"] in LABELS[True])
        assert found.group == (joined(row.get("group", "")).strip() or "all")
        assert found.pair == (joined(row.get("pair", "")).strip() or None)
        if row.get("id", "").strip():
            assert found.id == joined(row["id"]).strip()


@settings(max_examples=150, deadline=None, derandomize=True)
@given(
    rows=tables(texts(exclude_categories=["Cs"])),
    quoting=st.sampled_from([csv.QUOTE_MINIMAL, csv.QUOTE_ALL, csv.QUOTE_NONNUMERIC]),
    end=st.sampled_from(["\n", "\r\n", "\r"]),
    encoding=st.sampled_from(["utf-8", "utf-8-sig"]),
)
def test_what_csv_writes_comes_back_or_is_refused_by_its_row(tmp_path_factory, rows, quoting, end, encoding):
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, list(rows[0]), quoting=quoting, lineterminator=end)
    writer.writeheader()
    writer.writerows(rows)
    found, words = read(tmp_path_factory.getbasetemp() / "written.csv", text.getvalue().encode(encoding))
    if found is not None:
        return assert_same(found, rows)
    given = [str(value) for row in rows for value in row.values()]
    bare_end = any(set(value) & {"\r", "\n"} for value in given) and quoting == csv.QUOTE_MINIMAL
    spaced_quote = any(value != value.lstrip() and value.lstrip().startswith('"') for value in given)
    assert_refused_by_row(words, rows, bare_end or spaced_quote)


@settings(max_examples=150, deadline=None, derandomize=True)
@given(
    rows=tables(texts(exclude_categories=[])),
    score=st.none() | st.floats(),
    tail=st.sampled_from(["", "\ud83d", "\ude00", "\ud83d\ude00"]),
    end=st.sampled_from(["\n", "\r\n", "\r", "\n\n"]),
    ascii_only=st.booleans(),
    encoding=st.sampled_from(["utf-8", "utf-8-sig"]),
)
def test_what_json_writes_comes_back_or_is_refused_by_its_row(
    tmp_path_factory, rows, score, tail, end, ascii_only, encoding
):
    rows[0]["question"] += tail
    text = end.join(json.dumps({**row, "score": score}, ensure_ascii=ascii_only) for row in rows)
    found, words = read(tmp_path_factory.getbasetemp() / "written.jsonl", text.encode(encoding, "surrogatepass"))
    if found is not None:
        return assert_same(found, rows)
    given = "".join(str(value) for row in rows for value in row.values())
    surrogate = any("\ud800" <= character <= "\udfff" for character in given)
    assert_refused_by_row(words, rows, surrogate or str(score) in ("nan", "inf", "-inf"))


def assert_refused_by_row(words, rows, reason):
    """The words name a row (or the id that two rows share), and there is the reason, or an id that is a number."""
    assert re.search(r", line \d+|share the id", words), words
    assert "\n" not in words
    assert reason or any(row.get("id", "").strip().isdecimal() for row in rows), words


HEAD = "label,question\n"
BROKEN_CSV = {
    "an open quote": (HEAD + 'yes,Is snow white?\nno,"Is coal white?\nyes,Is grass green?', r"line 3 is not CSV"),
    "a quote that closes in the next row": (HEAD + 'no,"Is coal white?\nyes,"Is grass green?"', "line 2 is not CSV"),
    "text behind a closing quote": (HEAD + 'yes,"Is snow" white?', "line 2 is not CSV"),
    "quotes escaped by backslashes": (HEAD + r'yes,"Is \"snow\" white?"', "line 2 is not CSV"),
    "a field too large": (HEAD + f'yes,"{"word " * 30_000}"', "line 2 is not CSV .*field larger"),
    "more cells": (HEAD + "yes,Is Rome, Italy, a city?", "line 2 has 4 cells where the header has 2; .*in quotes"),
    "fewer cells": (HEAD + "yes,Is it?\nyes", "line 3 has 1 cells where the header has 2"),
    "a line end outside quotes": (HEAD + "yes,Is it\nreally?", "line 3 has 1 cells"),
    "a lone carriage return outside quotes": (HEAD + "yes,Is it\rreally?", "line 3 has 1 cells"),
    "a row behind a text of two lines": (HEAD + 'yes,"Is\nit?"\n\nno', "line 5 has 1 cells"),
    "a doubled column": ("question,label,question\na?,yes,b?", "line 1 names the column 'question' twice"),
    "a doubled column but for space": ("question,label, label\na?,yes,no", "line 1 names the column 'label' twice"),
    "a text under no name": ("label,question,\nyes,Is Rome, a city?", "line 2 has ' a city\\?' in a column without"),
    "a text under no first name": (",question,label\nIs Rome, Italy?,yes", "line 2 has 'Is Rome' in a column without"),
    "a space before a quote": ('label, question\nyes, "Is it?"', "line 2 has a space before a quote"),
    "semicolons": ("question;label\nIs Rome, Italy, a city?;yes", r"has ';' between its columns .*sep=';'"),
    "tabs": ("question\tlabel\na?\tyes", r"has tabs between its columns where ',' must be; .*sep='\\t'"),
    "no header": ("Is it?,yes\nIs it not?,no", r"line 2: no field 'question' \(found: 'Is it\?', 'yes'\)"),
    "an empty question": (HEAD + "yes,", "line 2: the question is '', not a text"),
    "latin-1": (HEAD.encode() + "yes,Was it Müller?".encode("latin-1"), "line 2 is not UTF-8 text"),
}


@pytest.mark.parametrize(("content", "says"), BROKEN_CSV.values(), ids=BROKEN_CSV)
def test_broken_csv_is_refused_by_its_line(tmp_path, content, says):
    assert_refused(tmp_path / "a.csv", content, says)


GOOD = '{"question": "a?", "label": 1}\n'
BROKEN_JSONL = {
    "a doubled key": (GOOD + '{"question": "a?", "label": 1, "question": "b?"}', "line 2: the key 'question' is there"),
    "a doubled key inside": (
        '{"question": "a?", "label": 1, "more": {"x": 1, "x": 2}}',
        "line 1: the key 'x' is .*1, 2",
    ),
    "NaN": (GOOD + '{"question": "a?", "label": NaN}', "line 2: NaN is no number"),
    "minus infinity": ('{"question": "a?", "label": 1, "score": -Infinity}', "line 1: -Infinity is no number"),
    "a number beyond all": (GOOD + '{"question": "a?", "label": 1e999}', "line 2: '1e999' is too large"),
    "a label of 5,000 digits": (
        GOOD + f'{{"question": "a?", "label": {"9" * 5000}}}',
        "line 2: a number has 5000 digits",
    ),
    "an id of 5,000 digits": (
        f'{{"question": "a?", "label": 1, "id": {"9" * 5000}}}',
        "line 1: a number has 5000 digits",
    ),
    "lists 100,000 deep": (GOOD + "[" * 100_000, "line 2: lists or objects are nested too deep"),
    "objects 100,000 deep": (GOOD + '{"a":' * 100_000, "line 2: lists or objects are nested too deep"),
    "a label 400 deep": (f'{{"question": "a?", "label": {"[" * 400}{"]" * 400}}}', "line 1: label .* is none of"),
    "a lone surrogate": (
        GOOD + r'{"question": "a\ud800?", "label": 1}',
        r"line 2: .* the question holds a lone surrog",
    ),
    "a lone low surrogate": (GOOD + r'{"question": "\udc00", "label": 1}', r"line 2: .*'\\udc00' at character 1"),
    "a surrogate in the id": (r'{"question": "a?", "label": 1, "id": "\udfff"}', "line 1: .* the id holds a lone"),
    "a surrogate in the group": (
        r'{"question": "a?", "label": 1, "group": "\ud8ff"}',
        "line 1: .* the group holds a lo",
    ),
    "a surrogate in the pair": (
        r'{"question": "a?", "label": 1, "pair": "\ud8ff"}',
        "line 1: .* the pair holds a lone",
    ),
    "a list for an id": ('{"question": "a?", "label": 1, "id": [1]}', "line 1: the id is a list, not a text"),
    "an object for a group": ('{"question": "a?", "label": 1, "group": {"a": 1}}', "line 1: the group is a dict"),
    "an empty list for a pair": (GOOD + '{"question": "a?", "label": 1, "pair": []}', "line 2: the pair is a list"),
    "a list for a split": ('{"question": "a?", "label": 1, "split": ["test"]}', "line 1: the split is a list"),
    "no label": (GOOD + '{"question": "a?", "label": null}', "line 2: the label is missing"),
    "two objects": (GOOD.strip() + GOOD, "line 1 is not JSON"),
    "a list of rows": ('[{"question": "a?",\n"label": 1}]', "line 1 is not JSON .* one JSON object a line"),
}


@pytest.mark.parametrize(("content", "says"), BROKEN_JSONL.values(), ids=BROKEN_JSONL)
def test_broken_jsonl_is_refused_by_its_line(tmp_path, content, says):
    assert_refused(tmp_path / "a.jsonl", content, says)


BROKEN_STRATEGYQA = {
    "a doubled key": ('[{"question": "a?", "question": "b?", "answer": true}]', "the key 'question' is there twice"),
    "nested 100,000 deep": ("[" * 100_000, "nested too deep"),
    "5,000 digits": (f'[{{"question": "a?", "answer": true, "qid": {"1" * 5000}}}]', "a number has 5000 digits"),
    "a lone surrogate": (
        r'[{"question": "a\ud800?", "answer": true}]',
        "row 1: .* the question holds a lone surrogate",
    ),
    "an empty question": ('[{"question": " ", "answer": true}]', "row 1: the question is ' '"),
    "a list for an id": ('[{"question": "a?", "answer": true, "qid": []}]', "row 1: the id is a list"),
    "a wrong label": ('[{"question": "a?", "answer": "maybe"}]', "row 1: label 'maybe' is none of"),
    "cut short": ('[{"question": "a?"', "is not JSON .* one JSON list"),
}


@pytest.mark.parametrize(("content", "says"), BROKEN_STRATEGYQA.values(), ids=BROKEN_STRATEGYQA)
def test_broken_strategyqa_is_one_clear_line(tmp_path, content, says):
    assert_refused(tmp_path / "dev.json", content, says, "strategyqa:")


def assert_refused(path, content, says, source=""):
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(QuestionError, match=says) as error:
        load_questions(f"{source}{path}")
    assert str(error.value).startswith(str(path))
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < len(str(path)) + 250


def test_csv_as_spreadsheets_and_pandas_write_it(tmp_path):
    path = tmp_path / "a.csv"
    path.write_bytes(b'\xef\xbb\xbf"question", label ,,group\r\n"Is\rit?",1.0,,g\r\n\r\n \r\nOr not?,0.0,,\r\n')
    assert load_questions(path) == [BinaryQuestion("Is\rit?", True, "2", "g"), BinaryQuestion("Or not?", False, "6")]
    path.write_text(",question,label\n0,a?,True\n1,b?,False\n")
    assert load_questions(path) == [BinaryQuestion("a?", True, "2"), BinaryQuestion("b?", False, "3")]


ONE = {".jsonl": '{"question": "a?", "label": 1, "split": "val"}', ".csv": "question,label,split\na?,yes,val"}


@pytest.mark.parametrize("name", ["a.jsonl", "a#b.jsonl", "#.jsonl", "a#val.jsonl", "A.JSONL", "a.Csv", "a#1#2.CSV"])
def test_files_are_found_by_names_with_a_hash_and_in_capitals(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    Path(name).write_text(ONE[Path(name).suffix.lower()])
    for data in (name, Path(name), tmp_path / name, f"{name}#val", f"{tmp_path / name}#val"):
        assert load_questions(data) == [BinaryQuestion("a?", True, "1" if "json" in name.lower() else "2")]
    with pytest.raises(QuestionError, match="no rows of split 'test'; it has val"):
        load_questions(f"{name}#test")


@pytest.mark.parametrize("name", ["dev.json", "dev#1.json", "#", "DEV.JSON", "a#b#c"])
def test_strategyqa_files_are_found_by_names_with_a_hash(tmp_path, name):
    (tmp_path / name).write_text('[{"question": "a?", "answer": true, "qid": "q"}]')
    assert load_questions(f"strategyqa:{tmp_path / name}") == [BinaryQuestion("a?", True, "q", "strategyqa")]


def test_a_strategyqa_file_has_no_splits_inside():
    with pytest.raises(QuestionError, match="no splits inside"):
        load_questions("strategyqa:dev.json#val")


@pytest.mark.parametrize("name", ["a\0.csv", "\ud800.jsonl", "x" * 5000 + ".csv"])
def test_a_path_that_no_file_can_have_is_refused(name):
    with pytest.raises(QuestionError, match="can't be read"):
        load_questions(name)
