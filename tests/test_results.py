"""Results on the disk: what was saved comes back bit for bit or is refused; what is another's is never written over."""

import contextlib
import json
import os
import resource
import shutil
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.numpy import load_file
from safetensors.torch import save_file

import nasa_interp as ni
from nasa_interp import results
from nasa_interp.alignment import Alignment
from nasa_interp.alignment.validation import ValidationMetrics
from nasa_interp.comparison.table import Comparison, Entry
from nasa_interp.deltas import HeadDelta
from nasa_interp.errors import HeadError, NasaInterpError, ResultError
from nasa_interp.evaluation import ChangeReport, FourOptions, OptionReport, TextChange
from nasa_interp.head_table import HeadTable
from nasa_interp.heads import HeadList
from nasa_interp.interventions.effect import AblationEffect
from nasa_interp.interventions.replace import Mean
from nasa_interp.models.slices import WeightSlice
from nasa_interp.patching.effects import PatchEffects
from nasa_interp.rankings.confirmation import Confirmation
from nasa_interp.results import kind_of, parsing_result, read_result, write_table
from nasa_interp.run import RunInfo, read_json, write_json
from nasa_interp.scoring import HeadScores
from nasa_interp.view import HeadView

RUN = RunInfo("tiny", "six", 6, ("yes_no", "no_yes"), draws=20)
QUESTIONS = tuple(ni.BinaryQuestion(f"q{i}", i % 2 == 0, str(i)) for i in range(6))


def head_scores(seed=0, shape=(2, 4), kept=True):
    """Made-up scores of six prompts in both orders, one head not measured."""
    rng = np.random.default_rng(seed)
    per_prompt = {order: rng.normal(size=(6, *shape)).astype(np.float32) for order in ("yes_no", "no_yes")}
    for scores in per_prompt.values():
        scores[:, 0, 1] = np.nan
    found = HeadScores.from_prompts(per_prompt, QUESTIONS, RUN, draws=20)
    return found if kept else replace(found, per_prompt={}, ids=(), pairs=())


def head_grid(seed=0):
    """Made-up numbers of one prompt and head, in an order of memory that isn't the file's."""
    heads = np.random.default_rng(seed).normal(size=(4, 6, 2)).astype(np.float32).transpose(1, 2, 0)
    return HeadTable.from_prompts({"yes_no": heads}, QUESTIONS, RUN, quantity="first-order zero", sign=-1)


def report(shift=0.0):
    return ni.decisions.BinaryReport(np.linspace(-1, 1, 6) + shift, np.full(6, 0.9), ("yes_no",) * 6, QUESTIONS, RUN)


def head_view():
    heads = HeadList.of(["1.2"]).heads
    attention = np.full((1, 3, 4), 0.25).astype(np.float32)
    spans = (0, 1), (1, 2)
    return HeadView(
        "q", "yes_no", ("a", "b", "c", "d"), 1, *spans, heads, attention[:, :, :], attention[:, :, 0], 0.5, RUN
    )


def head_delta():
    pieces = (WeightSlice("model.layers.0.self_attn.q_proj.weight", 0, (0, 1)),)
    return HeadDelta("hash", "tiny", HeadList.of(["0.0"]), pieces, (torch.zeros(2, 4),), (torch.ones(2, 4),))


def text_price():
    loss = np.linspace(1, 2, 3)
    return TextChange(np.array([3, 4, 5]), loss, loss + 0.1, np.array([1, 1, 1]), loss * 0.01, RUN, RUN)


def option_report():
    item = FourOptions("1", "q", ("a", "b", "c", "d"), 0)
    return OptionReport(np.array([[0.1, 0.2, 0.3, 0.4]]), (item,), RUN)


def patch_effects():
    heads = HeadList.of(["0.1", "1.2"]).heads
    rows = np.arange(6.0).reshape(2, 3)
    return PatchEffects(heads, rows, rows[0] + 1, rows[0], "head", ("all",), "question",
                        ("a", "b", "c"), ("a", "b", "c"), (2, 4), RUN)  # fmt: skip


def confirmation():
    row = {"order": "yes_no", "shift": -1.0, "low": -2.0, "high": 0.0}
    return Confirmation(pd.DataFrame([row]), HeadList.of(["0.1"]), RUN)


def effect():
    return AblationEffect(HeadList.of(["0.1"]), ni.Zero(), report(), report(-0.5))


def alignment(seed):
    check = ValidationMetrics({"yes_no": 0.1}, {"yes_no": 0.1}, {"yes_no": 0.5}, 0.9, {"yes_no": 1.0}, 0.5, 0.7)
    delta = replace(head_delta(), after=(torch.full((2, 4), 1.0 + seed),))
    return Alignment(delta, (), check, replace(check, accuracy=0.5 + seed / 100), "hash", RUN)


def price(seed):
    reports, options = (report(), report(seed / 10)), (option_report(), replace(option_report(), run=other_run(seed)))
    text = replace(text_price(), run=other_run(seed))
    return ChangeReport(*reports, (), text, options, None, {"style": (report(-1), report(seed / 10 - 1))})


def entry(seed):
    text = replace(text_price(), run=other_run(seed))
    return Entry("zero", "", report(seed / 10), text=text, seconds=float(seed))


def comparison(seed):
    return Comparison((Entry("base", "", report()), entry(seed)), (), other_run(seed))


def other_run(seed):
    return replace(RUN, seed=seed)


def mean():
    return Mean({0: torch.ones(3, 2, 4)}, "all", RUN)


RESULTS = {
    "scores.json": head_scores, "grid.json": head_grid, "decisions.json": report, "tokens.json": head_view,
    "delta.safetensors": head_delta, "text.json": text_price, "options.json": option_report,
    "patch.json": patch_effects, "confirmation.json": confirmation, "effect.json": effect, "mean.safetensors": mean,
}  # fmt: skip


# What is saved as a folder of files, with the file that ties them.
FOLDERS = {"align.json": alignment, "change.json": price, "entry.json": entry, "compare.json": comparison}


def same(one, other):
    """Whether two results with tensors beside them hold the same bits."""
    assert one.per_prompt.keys() == other.per_prompt.keys()
    pairs = [(scores, other.per_prompt[order]) for order, scores in one.per_prompt.items()]
    pairs += [(one.get(by), other.get(by)) for by in one.columns]
    equal = [a.dtype == b.dtype and np.array_equal(a, b, equal_nan=True) for a, b in pairs]
    return all(equal) and (one.ids, one.pairs, one.run) == (other.ids, other.pairs, other.run)


def contents(folder):
    """Every file below, with its bytes."""
    return {path: path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


NAMES = [
    ("scores_llama3.1", "scores_llama3.2"),
    ("model.json", "model"),
    ("a.json", "a.txt"),
    ("v1.0.json", "v1.1.json"),
    ("scores", "scores.json"),
    ("A.json", "a.json"),
    (".json", ".csv"),
    ("one.json", "one.json.json"),
    ("run/scores.json", "run.json/scores.json"),
    ("a b.json", "a#b.json"),
]


@pytest.mark.parametrize("names", NAMES, ids=" ".join)
@pytest.mark.parametrize("make", [head_scores, head_grid], ids=["scores", "grid"])
def test_two_names_are_two_results(make, names, tmp_path) -> None:
    one, other = make(seed=1), make(seed=2)
    paths = [each.save(tmp_path / name) for each, name in zip((one, other), names, strict=True)]
    first, second = (type(one).load(path) for path in paths)
    assert same(first, one)
    assert same(second, other)
    assert not same(first, second)


def test_tensors_are_not_written_over_those_of_a_model(tmp_path) -> None:
    """`save("X/model.json")` leaves X/model.safetensors alone, and is refused where its own place is taken."""
    for name in ("model.safetensors", "scores.json.safetensors"):
        save_file({"weight": torch.ones(3)}, tmp_path / name, {"format": "pt"})
    before = contents(tmp_path)
    head_scores().save(tmp_path / "model.json")
    assert contents(tmp_path).items() >= before.items()
    with pytest.raises(ResultError, match=r"scores\.json\.safetensors exists and holds something else"):
        head_scores().save(tmp_path / "scores.json")
    assert not (tmp_path / "scores.json").exists()
    for name in ("scores.safetensors", "scores.SAFETENSORS"):
        with pytest.raises(ResultError, match=r"ends in \.json"):
            head_scores().save(tmp_path / name)


def _other_result(path):
    head_scores(seed=5).save(path.parent / "other.json")
    shutil.copy(path.parent / "other.json.safetensors", path)


def _cut_short(path):
    path.write_bytes(path.read_bytes()[:-4])


def _one_bit(path):
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


def _other_model(path):
    head_scores(shape=(3, 8)).save(path.parent / "other.json")
    shutil.copy(path.parent / "other.json.safetensors", path)


def _orders_swapped(path):
    arrays = load_file(path)
    save_file({o: torch.from_numpy(arrays[p]) for o, p in zip(arrays, reversed(list(arrays)), strict=True)}, path)


def _a_head_less(path):
    save_file({order: torch.from_numpy(array[:, :, :3].copy()) for order, array in load_file(path).items()}, path)


CHANGES = [
    _other_result, _cut_short, _one_bit, _other_model, _orders_swapped, _a_head_less,
    lambda path: path.write_bytes(b""),
    lambda path: path.write_text("no tensors"),
    lambda path: save_file({"weight": torch.ones(3)}, path),
    lambda path: (path.unlink(), path.mkdir()),
]  # fmt: skip
CHANGED = [
    "another result's", "cut short", "one bit", "another model's", "orders swapped", "a head less",
    "empty", "text", "a model", "a folder",
]  # fmt: skip


@pytest.mark.parametrize("old", [False, True], ids=["new", "old"])
@pytest.mark.parametrize("change", CHANGES, ids=CHANGED)
def test_tensors_of_another_result_are_refused(change, old, tmp_path) -> None:
    path = head_scores().save(tmp_path / "scores.json")
    beside = _as_before(path) if old else tmp_path / "scores.json.safetensors"
    assert same(HeadScores.load(path), head_scores())
    change(beside)
    with pytest.raises(ResultError, match=r"safetensors (is damaged or of another result|can't be read)"):
        HeadScores.load(path)


def test_a_save_that_was_killed_between_its_files_is_noticed(tmp_path) -> None:
    """The tensors get their name first: the earlier JSON is then beside later tensors, and the next save mends it."""
    path = head_scores(seed=1).save(tmp_path / "scores.json")
    earlier = path.read_bytes()
    head_scores(seed=2).save(path)
    path.write_bytes(earlier)
    with pytest.raises(ResultError, match="of another result"):
        HeadScores.load(path)
    assert same(HeadScores.load(head_scores(seed=3).save(path)), head_scores(seed=3))


@contextlib.contextmanager
def no_file_over(size):
    """Writing more than so many bytes into a file fails, as on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize("name", RESULTS)
def test_a_full_disk_costs_nothing_that_was_there(name, tmp_path) -> None:
    path, later = RESULTS[name]().save(tmp_path / name), RESULTS[name]()
    if name in ("scores.json", "grid.json"):
        later = RESULTS[name](seed=1)
    before = contents(tmp_path)
    for size in {each.stat().st_size // 2 for each in before}:
        with no_file_over(size), pytest.raises(NasaInterpError, match=r"can't be written \(File too large\)"):
            later.save(path)
        assert contents(tmp_path) == before


def test_without_its_tensors_the_means_are_read_with_a_warning(tmp_path) -> None:
    path = head_scores().save(tmp_path / "scores.json")
    (tmp_path / "scores.json.safetensors").unlink()
    with pytest.warns(UserWarning, match=r"scores\.json: the numbers of each prompt are missing"):
        found = HeadScores.load(path)
    assert found.per_prompt == {}
    assert np.array_equal(found.values, head_scores().values, equal_nan=True)
    grid = head_grid().save(tmp_path / "grid.json")
    (tmp_path / "grid.json.safetensors").unlink()
    with pytest.warns(UserWarning, match=r"grid\.json: the numbers of each prompt are missing"):
        assert np.array_equal(HeadTable.load(grid).values, head_grid().values)


def test_scores_without_tensors_say_so_and_leave_none_of_earlier_ones(tmp_path) -> None:
    path = head_scores().save(tmp_path / "scores.json")
    head_scores(kept=False).save(path)
    assert list(tmp_path.iterdir()) == [path]
    assert same(HeadScores.load(path), head_scores(kept=False))
    # What lies in the tensors' place since is another's: neither read nor removed.
    (tmp_path / "scores.json.safetensors").write_text("mine")
    head_scores(kept=False).save(path)
    assert same(HeadScores.load(path), head_scores(kept=False))
    assert (tmp_path / "scores.json.safetensors").read_text() == "mine"


def test_both_files_can_be_renamed_together(tmp_path) -> None:
    head_scores().save(tmp_path / "a.json")
    os.rename(tmp_path / "a.json", tmp_path / "b.v2")
    os.rename(tmp_path / "a.json.safetensors", tmp_path / "b.v2.safetensors")
    assert same(HeadScores.load(tmp_path / "b.v2"), head_scores())


@pytest.mark.parametrize("name", FOLDERS)
def test_the_files_of_a_folder_belong_together(name, tmp_path) -> None:
    """A save that was killed, or a copy of some files only, is no mixture of two results."""
    one, other = (FOLDERS[name](seed) for seed in (1, 2))
    one.save(tmp_path / "one")
    again = type(one).load(tmp_path / "one")
    again.save(tmp_path / "again")
    written = {path.relative_to(tmp_path / "one"): content for path, content in contents(tmp_path / "one").items()}
    assert {path.relative_to(tmp_path / "again") for path in contents(tmp_path / "again")} == written.keys()
    assert all((tmp_path / "again" / path).read_bytes() == content for path, content in written.items())
    other.save(tmp_path / "other")
    changed = [path for path, content in written.items() if (tmp_path / "other" / path).read_bytes() != content]
    assert len(changed) > 1
    for path in changed:
        shutil.copytree(tmp_path / "one", tmp_path / "mixed", dirs_exist_ok=True)
        shutil.copy(tmp_path / "other" / path, tmp_path / "mixed" / path)
        with pytest.raises(ResultError, match="is damaged or of another result"):
            type(one).load(tmp_path / "mixed")
    shutil.copytree(tmp_path / "one", tmp_path / "mixed", dirs_exist_ok=True)
    (tmp_path / "mixed" / next(path for path in changed if path.name != name)).unlink()
    with pytest.raises(ResultError, match=r"is missing, which .* was saved with"):
        type(one).load(tmp_path / "mixed")


@pytest.mark.parametrize("name", FOLDERS)
def test_a_folder_of_the_version_before_is_read(name, tmp_path) -> None:
    one = FOLDERS[name](1)
    one.save(tmp_path)
    before = contents(tmp_path)
    for path in tmp_path.rglob("*.json"):
        content = read_json(path)
        content.pop("files_sha256", None)
        write_json(path, content)
    type(one).load(tmp_path).save(tmp_path)
    assert contents(tmp_path) == before


@pytest.mark.parametrize("name", FOLDERS)
def test_no_file_of_another_kind_in_a_folder_is_written_over(name, tmp_path) -> None:
    FOLDERS[name](1).save(tmp_path / "one")
    for path in contents(tmp_path / "one"):
        taken = tmp_path / "two" / path.relative_to(tmp_path / "one")
        taken.parent.mkdir(parents=True)
        taken.write_text("mine")
        with pytest.raises(ResultError, match="exists and holds something else"):
            FOLDERS[name](1).save(tmp_path / "two")
        assert taken.read_text() == "mine"
        if path.name == name:
            assert contents(tmp_path / "two").keys() == {taken}
        shutil.rmtree(tmp_path / "two")


def _as_before(path):
    """Turns saved files into those of the version before: no hash, tensors under the name with another suffix."""
    content = read_json(path)
    content.pop("tensors_sha256", None)
    write_json(path, content)
    beside, old = path.with_name(path.name + ".safetensors"), path.with_suffix(".safetensors")
    if beside.exists():
        save_file({name: torch.from_numpy(array) for name, array in load_file(beside).items()}, old)
        beside.unlink()
    return old


@pytest.mark.parametrize("make", [head_scores, head_grid], ids=["scores", "grid"])
def test_files_of_the_version_before_are_read_where_they_belong_together(make, tmp_path) -> None:
    old = make(seed=1)
    _as_before(old.save(tmp_path / "scores_llama3.1"))
    assert same(type(old).load(tmp_path / "scores_llama3.1"), old)
    # The second result took the tensors' place from the first.
    _as_before(make(seed=2).save(tmp_path / "scores_llama3.2"))
    assert same(type(old).load(tmp_path / "scores_llama3.2"), make(seed=2))
    with pytest.raises(ResultError, match=r"scores_llama3\.safetensors is damaged or of another result"):
        type(old).load(tmp_path / "scores_llama3.1")


def test_means_alone_of_the_version_before(tmp_path) -> None:
    _as_before(head_scores(kept=False).save(tmp_path / "difference.json"))
    assert same(HeadScores.load(tmp_path / "difference.json"), head_scores(kept=False))
    _as_before(head_scores().save(tmp_path / "scores.json")).unlink()
    with pytest.warns(UserWarning, match="are missing"):
        assert HeadScores.load(tmp_path / "scores.json").per_prompt == {}


def _fifo(path):
    os.mkfifo(path)


FOREIGN = {
    "text": lambda path: path.write_text("notes, mine\n"),
    "questions": lambda path: path.write_text('{"question": "a?", "label": true}\n{"question": "b?", "label": true}\n'),
    "a list": lambda path: path.write_text('["17.7"]'),
    "no kind": lambda path: path.write_text('{"heads": []}'),
    "another kind": lambda path: write_json(path, {"kind": "something_else"}),
    "a kind that is no word": lambda path: path.write_text('{"kind": ["head_scores"]}'),
    "cut short": lambda path: path.write_text('{"kind": "head_sco'),
    "a model": lambda path: save_file({"weight": torch.ones(3)}, path, {"format": "pt"}),
    "tensors of ours": lambda path: save_file({"weight": torch.ones(3)}, path, {"kind": "something_else"}),
    "bytes": lambda path: path.write_bytes(bytes(range(256))),
    "a link to text": lambda path: ((path.parent / "far").write_text("far"), path.symlink_to(path.parent / "far")),
}


@pytest.mark.parametrize("foreign", FOREIGN)
@pytest.mark.parametrize("name", RESULTS)
def test_a_file_of_another_kind_is_never_written_over(name, foreign, tmp_path) -> None:
    FOREIGN[foreign](tmp_path / name)
    before = contents(tmp_path)
    with pytest.raises(ResultError, match=r"exists and holds something else .*; name another file, or delete it"):
        RESULTS[name]().save(tmp_path / name)
    assert contents(tmp_path) == before


@pytest.mark.parametrize("name", RESULTS)
def test_every_result_is_refused_by_the_place_of_every_other(name, tmp_path) -> None:
    for other in RESULTS.keys() - {name}:
        (tmp_path / other).mkdir()
        path = RESULTS[other]().save(tmp_path / other / other)
        before = contents(tmp_path)
        with pytest.raises(ResultError, match=r"holds something else|ends in \.json"):
            RESULTS[name]().save(path)
        assert contents(tmp_path) == before


@pytest.mark.parametrize("name", RESULTS)
def test_a_result_is_written_over_its_own_kind_and_where_nothing_is(name, tmp_path) -> None:
    (tmp_path / name).touch()
    for _ in range(2):
        assert RESULTS[name]().save(tmp_path / name) == tmp_path / name
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    RESULTS[name]().save(tmp_path / "link")
    longest = tmp_path / ("é" * 115 + ".json")
    RESULTS[name]().save(longest)
    assert kind_of(longest) == kind_of(tmp_path / "link") == kind_of(tmp_path / name)
    assert not [path for path in tmp_path.iterdir() if path.suffix == ".part"]


@pytest.mark.parametrize("name", RESULTS)
def test_a_place_that_cannot_be_written_is_one_clear_error(name, tmp_path) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "pipe")
    places = {
        "file/under": "can't be written", "n" * 256: "can't be written", "m" * 256 + "/a": "can't be written",
        "folder": "is a folder", "pipe": "is no plain file",
    }  # fmt: skip
    before = sorted(tmp_path.iterdir())
    for place, says in places.items():
        with pytest.raises(NasaInterpError, match=says):
            RESULTS[name]().save(tmp_path / place)
    assert sorted(tmp_path.iterdir()) == before


def test_a_table_is_written_over_the_same_table_alone(tmp_path) -> None:
    frame = pd.DataFrame({"id": ["1"], "text": ["a, b"]})
    path = write_table(tmp_path / "a.csv", frame)
    assert pd.read_csv(write_table(path, frame), dtype=str).equals(frame)
    for text in ("question,label\na?,yes\n", "id\n", "text,id\n", "{}", "\n"):
        path.write_text(text)
        with pytest.raises(ResultError, match="exists and holds something else"):
            write_table(path, frame)
        assert path.read_text() == text


def test_the_json_says_which_tensors_are_its_own(tmp_path) -> None:
    """What docs/files.md promises of the files."""
    import hashlib

    path = head_scores().save(tmp_path / "scores.json")
    content = json.loads(path.read_text())
    beside = (tmp_path / "scores.json.safetensors").read_bytes()
    assert content["tensors_sha256"] == hashlib.sha256(beside).hexdigest()
    assert json.loads(head_scores(kept=False).save(path).read_text())["tensors_sha256"] is None
    # The same result gives the same bytes.
    head_scores().save(path)
    assert (tmp_path / "scores.json.safetensors").read_bytes() == beside


@pytest.mark.parametrize("error", [KeyError("run"), IndexError(), TypeError("x"), ValueError("x"), AttributeError("x")])
def test_what_a_damaged_file_raises_becomes_one_error_that_names_it(error):
    with pytest.raises(ResultError) as raised, parsing_result("some.json", "decide again"):
        raise error
    assert str(raised.value) == f"some.json is damaged ({error!r}); decide again"
    assert raised.value.__cause__ is error


def test_errors_that_say_what_is_wrong_pass_unless_they_mean_damage():
    error = HeadError("no head")
    with pytest.raises(HeadError) as raised, parsing_result("some.json", "decide again"):
        raise error
    assert raised.value is error
    with pytest.raises(ResultError, match="no head") as damage, parsing_result("some.json", "decide again", HeadError):
        raise error
    assert damage.value.__cause__ is error


def test_a_result_is_read_under_its_kinds_names_alone(tmp_path):
    path = tmp_path / "some.json"
    for content in ({"kind": "new"}, {"kind": "old"}):
        path.write_text(json.dumps(content))
        assert read_result(path, "new", "a thing", "write one", earlier=("old",)) == content
    for content in ({"kind": "ne"}, {"kind": ["new"]}, {}, ["kind"], None):
        path.write_text(json.dumps(content))
        with pytest.raises(ResultError) as raised:
            read_result(path, "new", "a thing", "write one", earlier=("old",))
        assert str(raised.value) == f"{path} does not hold a thing; write one"
    path.write_text(json.dumps({"kind": "new", "files_sha256": {"other.json": "0"}}))
    with pytest.raises(ResultError, match=r"other\.json is missing"):
        read_result(path, "new", "a thing", "write one")


@pytest.mark.parametrize("path", ["", ".", "/"])
def test_a_place_without_a_parent_is_a_folder(path) -> None:
    with pytest.raises(ResultError, match="is a folder"):
        results.check_place(path, "alignment")
