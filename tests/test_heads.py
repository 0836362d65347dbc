"""Heads: names, lists, files."""

import json
import math
import pickle
from dataclasses import replace

import numpy as np
import pytest

from nasa_interp import Head, HeadList
from nasa_interp.errors import HeadError, ResultError


@pytest.mark.parametrize("name", ["17.7", "L17H7", " 17.7 ", (17, 7), [17, 7], Head(17, 7)])
def test_every_way_to_name_a_head(name):
    assert Head.parse(name) == Head(17, 7)
    assert str(Head.parse(name)) == "17.7"


@pytest.mark.parametrize("name", ["17", "17.", "a.b", "17.7.1", (17,), (-1, 2), (1.0, 2), None, 17.7])
def test_what_names_no_head_is_refused(name):
    with pytest.raises(HeadError, match="does not name a head"):
        Head.parse(name)


def test_heads_order_by_layer_then_index():
    assert sorted([Head(10, 0), Head(2, 8), Head(2, 1)]) == [Head(2, 1), Head(2, 8), Head(10, 0)]


@pytest.fixture
def listed():
    return HeadList((Head(17, 7), Head(2, 1)), (0.1 + 0.2, -1.5), "polarity", {"model": "demo"}, "bias")


@pytest.mark.parametrize("name", ["heads.json", "heads.csv", "HEADS.CSV"])
def test_saving_and_loading_is_exact(listed, tmp_path, name):
    loaded = HeadList.load(listed.save(tmp_path / name))
    assert (loaded.heads, loaded.scores, loaded.ranked_by) == (listed.heads, listed.scores, "polarity, toward either")
    if name.endswith("json"):
        assert loaded == listed


def test_lists_of_earlier_versions_load_and_are_written_over(listed, tmp_path):
    old = {"kind": "heads", "by": "polarity", "heads": [{"layer": 1, "index": 2, "score": 0.5}], "run": {}}
    (tmp_path / "old.json").write_text(json.dumps(old))
    (tmp_path / "old.csv").write_text("rank,head,layer,index,score,by\n1,1.2,1,2,0.5,polarity\n")
    for name in ("old.json", "old.csv"):
        assert HeadList.load(tmp_path / name) == HeadList((Head(1, 2),), (0.5,), "polarity")
        assert HeadList.load(listed.save(tmp_path / name)).toward == "bias"
    assert repr(HeadList((Head(1, 2),), (0.5,), "polarity")) == "HeadList(1 by polarity: 1.2)"
    assert repr(replace(listed, toward="no")[:1]) == "HeadList(1 by polarity, toward No: 17.7)"


@pytest.mark.parametrize("name", ["heads.json", "heads.csv"])
def test_a_score_that_is_not_a_number_is_kept(tmp_path, name):
    listed = HeadList((Head(1, 1), Head(1, 2)), (math.nan, 0.5), "values")
    first, second = HeadList.load(listed.save(tmp_path / name)).scores
    assert math.isnan(first)
    assert second == 0.5


def test_pasta_json_is_read_and_written(listed, tmp_path):
    path = listed.save_pasta(tmp_path / "pasta.json")
    assert json.loads(path.read_text()) == {"2": [1], "17": [7]}
    assert set(HeadList.load(path)) == set(listed)


def test_numpy_files_are_read_and_written(listed, tmp_path):
    path = listed.save(tmp_path / "heads.npy")
    np.testing.assert_array_equal(np.load(path, allow_pickle=False), [[17, 7], [2, 1]])
    assert HeadList.load(path) == HeadList(listed.heads)
    assert HeadList.load(HeadList(()).save(tmp_path / "none.NPY")) == HeadList(())
    np.save(path, np.array([[3, 4]], dtype=np.uint8))
    assert HeadList.load(path).heads == (Head(3, 4),)


def test_pairs_are_read_and_written(listed, tmp_path):
    path = listed.save_pairs(tmp_path / "pairs.json")
    assert json.loads(path.read_text()) == [[17, 7], [2, 1]]
    assert HeadList.load(path) == HeadList(listed.heads)
    assert HeadList.load(HeadList(()).save_pairs(tmp_path / "none.json")) == HeadList(())


def test_each_format_is_written_over_itself_alone(listed, tmp_path):
    writers = {
        "a.npy": listed.save,
        "a.json": listed.save,
        "a.csv": listed.save,
        "b.json": listed.save_pairs,
        "c.json": listed.save_pasta,
    }
    for name, write in writers.items():
        assert write(write(tmp_path / name)).exists()
    for name in ("a.json", "c.json", "a.npy"):
        with pytest.raises(ResultError, match="exists and holds something else"):
            listed.save_pairs(tmp_path / name)
    (tmp_path / "b.json").rename(tmp_path / "b.npy")
    with pytest.raises(ResultError, match=r"exists and holds something else .pairs, not npy"):
        listed.save(tmp_path / "b.npy")


@pytest.mark.parametrize(
    ("array", "says"),
    [
        (np.array([1, 2]), r"shape \(2,\); save one of \[heads, 2\]"),
        (np.zeros((2, 3), dtype=int), r"shape \(2, 3\)"),
        (np.zeros((2, 2, 1), dtype=int), r"shape \(2, 2, 1\)"),
        (np.array(5), r"shape \(\)"),
        (np.array([[1.0, 2.0]]), r"holds float64, not integers; save it as array\.astype\(int\)"),
        (np.array([[True, False]]), "holds bool, not integers"),
        (np.array([["1", "2"]]), "holds <U1, not integers"),
        (np.array([[1, 2], [3, -4]]), "row 2 is layer 3, head -4, and both count from 0"),
        (np.array([[1, 2], [1, 2]]), "head 1.2 is listed more than once"),
        (np.array([[1, None]], dtype=object), "holds Python objects, which aren't loaded"),
    ],
)
def test_a_numpy_file_of_something_else_is_one_clear_line(tmp_path, array, says):
    np.save(tmp_path / "a.npy", array)
    with pytest.raises(HeadError, match=says) as error:
        HeadList.load(tmp_path / "a.npy")
    assert str(error.value).startswith(str(tmp_path / "a.npy"))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "content", [b"", b"\x93NUMPY", b"[[1, 2]]", pickle.dumps([[1, 2]]), b"PK\x03\x04", b"\x93NUMPY\x01\x00v\x00{"]
)
def test_bytes_that_are_no_array_are_one_clear_line(tmp_path, content):
    (tmp_path / "a.npy").write_bytes(content)
    with pytest.raises(HeadError, match="is not a NumPy array of heads") as error:
        HeadList.load(tmp_path / "a.npy")
    assert "\n" not in str(error.value)


def test_names_alone_are_a_list(tmp_path):
    path = tmp_path / "names.json"
    path.write_text('["17.7", "L2H1"]')
    assert HeadList.load(path).heads == (Head(17, 7), Head(2, 1))


@pytest.mark.parametrize(
    ("name", "text", "says"),
    [
        ("a.json", "{", "can't be read as JSON"),
        ("a.json", '{"kind": "heads", "heads": [{"layer": 1}]}', "is not a head list"),
        ("a.json", '{"kind": "head_scores"}', r"holds a result of kind 'head_scores'.*`nasa-interp heads .*a\.json"),
        ("a.json", '{"kind": "alignment"}', "holds a result of kind 'alignment', no head list; write one with"),
        (
            "a.json",
            '{"kind": "heads", "heads": [], "toward": "maybe"}',
            "can't look toward 'maybe'; use one of no, yes",
        ),
        ("a.csv", "layer,index,toward\n1,2,maybe\n", "can't look toward 'maybe'"),
        ("a.json", "[17]", "does not name a head"),
        ("a.json", "[" * 100_000, "can't be read as JSON .*nested too deep"),
        ("a.json", "[" * 900 + "]" * 900, "does not name a head"),
        ("a.json", f"[[1, {'9' * 5000}]]", "can't be read as JSON .*a number has 5000 digits"),
        ("a.json", f'["{"9" * 5000}.1"]', "does not name a head"),
        ("a.json", '{"17": [1], "17": [2]}', "can't be read as JSON .*the key '17' is there twice"),
        ("a.json", '["1.1", "1.1"]', "head 1.1 is listed more than once"),
        ("a.csv", "head\n17.7\n", "no column 'layer' .found: 'head'.; it needs columns layer and index"),
        ("a.csv", "layer\n17\n", "no column 'index'"),
        ("a.csv", "", "no column 'layer' .found: nothing."),
        ("a.csv", "layer,index\n1,2\n3\n", "line 3 has 1 cells where the header has 2"),
        ("a.csv", "layer,index\n1,2,3\n", "line 2 has 3 cells where the header has 2"),
        ("a.csv", "layer,index,layer\n1,2,3\n", "line 1 names the column 'layer' twice"),
        ("a.csv", "layer\tindex\n1\t2\n", "has tabs between its columns where ',' or ';' must be"),
        ("a.csv", 'layer,index\n1,"2\n3,4\n', "line 2 is not CSV"),
        ("a.csv", "layer,index\n1,2\n\n1,2\n", "line 4 lists head 1.2 again, after .*line 2; list each head once"),
        ("a.csv", "layer,index\n1,-2\n", "line 2: index is '-2', not a whole number"),
        ("a.csv", "layer,index\n1_0,2\n", "line 2: layer is '1_0', not a whole number"),
        ("a.csv", "layer,index\n17.0,\n", "line 2: layer is '17.0', not a whole number"),
        ("a.csv", f"layer,index\n{'9' * 5000},2\n", "line 2: layer is '9999.*', not a whole number"),
        ("a.csv", "layer;index;score\n1;2;0,5\n", "line 2: score is '0,5', not a number with a decimal point"),
        ("a.json", "[[1, -2]]", r"\[1, -2\] does not name a head"),
        ("a.json", "[[1.0, 2]]", r"\[1\.0, 2\] does not name a head"),
        ("a.json", "[[true, 2]]", r"\[True, 2\] does not name a head"),
        ("a.json", "[[1, 2, 3]]", "does not name a head"),
        ("missing.json", None, "does not exist"),
        ("missing.npy", None, "can't be read"),
        ("missing.csv", None, "can't be read"),
    ],
)
def test_a_broken_file_is_one_clear_line(tmp_path, name, text, says):
    if text is not None:
        (tmp_path / name).write_text(text)
    with pytest.raises(HeadError, match=says) as error:
        HeadList.load(tmp_path / name)
    assert str(error.value).startswith(str(tmp_path / name))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", ["a.csv", "A.CSV", "a.Csv"])
@pytest.mark.parametrize(
    "text",
    [
        "layer,index\n17,7\n2,1\n",
        "\ufefflayer,index\r\n17,7\r\n\r\n2,1",
        "layer;index\n17;7\n2;1\n",
        "\ufeffrank;head;layer;index;\n1;17.7;17;7;\n2;2.1;2;1;\n",
        "index, layer\n7, 17\n1, 2\n",
    ],
)
def test_head_tables_as_spreadsheets_write_them(tmp_path, name, text):
    (tmp_path / name).write_text(text, encoding="utf-8", newline="")
    assert HeadList.load(tmp_path / name) == HeadList((Head(17, 7), Head(2, 1)))


def test_a_head_twice_and_a_head_outside_are_refused():
    with pytest.raises(HeadError, match="more than once"):
        HeadList.of(["1.1", (1, 1)])
    with pytest.raises(HeadError, match=r"30\.0 is outside"):
        HeadList.of(["30.0"]).check(30, 9)
    assert HeadList.of(["29.8"]).check(30, 9)


def test_slicing_keeps_scores(listed):
    assert listed[:1].scores == listed.scores[:1]
    assert listed[1] == Head(2, 1)
    assert "17.7" in listed
