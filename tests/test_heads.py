"""Heads: names, lists, files."""

import json

import pytest

from nasa_interp import Head, HeadList
from nasa_interp.errors import HeadError


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
    return HeadList((Head(17, 7), Head(2, 1)), (0.1 + 0.2, -1.5), "polarity", {"model": "demo"})


@pytest.mark.parametrize("name", ["heads.json", "heads.csv"])
def test_saving_and_loading_is_exact(listed, tmp_path, name):
    loaded = HeadList.load(listed.save(tmp_path / name))
    assert (loaded.heads, loaded.scores, loaded.by) == (listed.heads, listed.scores, listed.by)
    if name.endswith("json"):
        assert loaded == listed


def test_pasta_json_is_read_and_written(listed, tmp_path):
    path = listed.save_pasta(tmp_path / "pasta.json")
    assert json.loads(path.read_text()) == {"2": [1], "17": [7]}
    assert set(HeadList.load(path)) == set(listed)


def test_names_alone_are_a_list(tmp_path):
    path = tmp_path / "names.json"
    path.write_text('["17.7", "L2H1"]')
    assert HeadList.load(path).heads == (Head(17, 7), Head(2, 1))


@pytest.mark.parametrize(
    ("name", "text", "says"),
    [
        ("a.json", "{", "can't be read as JSON"),
        ("a.json", '{"kind": "heads", "heads": [{"layer": 1}]}', "is not a head list"),
        ("a.json", "[17]", "does not name a head"),
        ("a.csv", "head\n17.7\n", "needs columns layer and index"),
        ("missing.json", None, "does not exist"),
    ],
)
def test_a_broken_file_is_one_clear_line(tmp_path, name, text, says):
    if text is not None:
        (tmp_path / name).write_text(text)
    with pytest.raises(HeadError, match=says) as error:
        HeadList.load(tmp_path / name)
    assert "\n" not in str(error.value)


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
