"""A file that is never read whole gives the very questions that reading it whole gives."""

import csv
import json
import tracemalloc

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nasa_interp.errors import QuestionError
from nasa_interp.questions import QuestionStream, load_questions


def streamed(data, size=3, **options):
    stream = QuestionStream.open(data, size, **options)
    chunks = [stream.read(number) for number in range(stream.n_chunks)]
    assert all(len(chunk) == size for chunk in chunks[:-1])
    assert sum(map(len, chunks)) == stream.n_questions
    return stream, [question for chunk in chunks for question in chunk]


def rows(n):
    return [
        {"question": f"Is {i} even?", "label": i % 2 == 0, "id": f"q{i}", "group": f"g{i % 3}", "pair": f"p{i // 2}"}
        for i in range(n)
    ]


def lines(path, rows, between=""):
    path.write_text("".join(json.dumps(row) + "\n" + between for row in rows), encoding="utf-8")
    return str(path)


@pytest.mark.parametrize("between", ["", "\n", "  \n\n"])
def test_lines_are_those_read_whole(tmp_path, between):
    path = lines(tmp_path / "a.jsonl", rows(10), between)
    stream, found = streamed(path)
    assert found == list(load_questions(path))
    assert stream.read(2) == load_questions(path)[6:9]  # in any order
    assert stream.name == path


def test_a_split_is_that_of_the_file(tmp_path):
    path = lines(tmp_path / "a.jsonl", [{**row, "split": "ab"[i % 2]} for i, row in enumerate(rows(11))])
    assert streamed(f"{path}#b")[1] == list(load_questions(f"{path}#b"))


TEXT = st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1).filter(str.strip)


@settings(deadline=None, max_examples=60)
@given(texts=st.lists(TEXT, min_size=1, max_size=9), size=st.integers(1, 4), gaps=st.lists(st.booleans(), min_size=9))
def test_tables_with_any_text_are_those_read_whole(tmp_path_factory, texts, size, gaps):
    path = tmp_path_factory.mktemp("table") / "a.csv"
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["question", "label", "id"])
        for i, text in enumerate(texts):
            writer.writerow([text, i % 2, f"q{i}"])
            file.write("\r\n" * gaps[i])
    assert streamed(str(path), size)[1] == list(load_questions(str(path)))


def test_a_byte_order_mark_and_old_line_ends_are_no_text(tmp_path):
    path = tmp_path / "a.csv"
    path.write_bytes(b"\xef\xbb\xbfquestion,label\rIs 1 odd?,yes\rIs 2 odd?,no\r")
    assert streamed(str(path))[1] == list(load_questions(str(path)))


@pytest.mark.parametrize("data", ["builtin:verify#val", "builtin:verify#probe"])
def test_other_data_come_in_chunks_too(data):
    stream, found = streamed(data, 100)
    assert found == list(load_questions(data))
    assert stream.digest == QuestionStream.of(load_questions(data)).digest


def test_the_digest_is_of_the_questions_not_of_the_file(tmp_path):
    one = QuestionStream.open(lines(tmp_path / "a.jsonl", rows(5)))
    assert one.digest == QuestionStream.open(lines(tmp_path / "b.jsonl", rows(5), "\n")).digest
    assert one.digest != QuestionStream.open(lines(tmp_path / "c.jsonl", rows(4))).digest


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"label": "maybe"}, r"a.jsonl, line 3: label 'maybe'"),
        ({"id": "q0"}, r"2 questions share the id of the row in line 1 \(lines 1, 3\)"),
        ({"pair": "p0"}, r"3 questions share the pair of the row in line 1"),
        ({"label": None}, "question 'q2' has no label, and others have one"),
    ],
)
def test_a_wrong_row_is_named_before_anything_is_asked(tmp_path, change, told):
    path = lines(tmp_path / "a.jsonl", [{**row, **(change if i == 2 else {})} for i, row in enumerate(rows(5))])
    with pytest.raises(QuestionError, match=told):
        QuestionStream.open(path)


def test_bad_rows_are_left_out_on_demand_and_told(tmp_path):
    path = lines(
        tmp_path / "a.jsonl", [{**row, **({"label": "?"} if i in (1, 4) else {})} for i, row in enumerate(rows(9))]
    )
    stream, found = streamed(path, skip_bad=True)
    with pytest.warns(UserWarning, match="2 rows are left out"):
        assert found == list(load_questions(path, skip_bad=True))
    assert "2 rows are left out" in stream.notes[0]


def test_labels_may_be_left_out(tmp_path):
    path = lines(tmp_path / "a.jsonl", rows(5))
    assert {question.label for question in streamed(path, unlabeled=True)[1]} == {None}


def test_a_file_that_changes_between_the_passes_is_refused(tmp_path):
    path = lines(tmp_path / "a.jsonl", rows(5))
    stream = QuestionStream.open(path)
    lines(tmp_path / "a.jsonl", rows(6))
    with pytest.raises(QuestionError, match="was written to while it was read"):
        stream.read(0)


def test_no_questions_and_no_chunk_are_errors(tmp_path):
    (tmp_path / "a.jsonl").write_text("\n")
    with pytest.raises(QuestionError, match="holds no questions"):
        QuestionStream.open(tmp_path / "a.jsonl")
    with pytest.raises(QuestionError, match="a chunk of 0 questions"):
        QuestionStream.open("builtin:verify#val", 0)


def test_a_question_takes_at_most_64_bytes(tmp_path):
    def peak(n):
        path = lines(tmp_path / f"{n}.jsonl", rows(n))
        tracemalloc.start()
        stream = QuestionStream.open(path, 64)
        stream.read(stream.n_chunks - 1)
        found = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return found

    peak(100)  # what is loaded once
    assert peak(6000) - peak(1000) <= 64 * 5000
