"""The one table of heads: its columns and intervals by hand, its laws, and the files of earlier versions."""

import json
from dataclasses import replace

import numpy as np
import pytest
from safetensors.numpy import save_file

from nasa_interp import BinaryQuestion
from nasa_interp.attribution import DirectLogitAttribution
from nasa_interp.bootstrap import cluster_index, draw_weights, interval
from nasa_interp.errors import HeadError, ResultError
from nasa_interp.head_table import HeadTable
from nasa_interp.heads import Head
from nasa_interp.run import RunInfo
from nasa_interp.scoring import HeadScores

RUN = RunInfo("tiny", "six", 6, ("yes_no", "no_yes"), seed=3, draws=40)
QUESTIONS = [BinaryQuestion(f"q{i}", i % 2 == 0, str(i), pair="twins" if i < 2 else None) for i in range(6)]


def numbers(seed=0, orders=("yes_no", "no_yes")):
    """Each prompt's numbers in each order; one head is not measured on one prompt, another on none."""
    rng = np.random.default_rng(seed)
    per_prompt = {order: rng.normal(size=(6, 2, 4)).astype(np.float32) for order in orders}
    for grid in per_prompt.values():
        grid[2, 1, 3], grid[:, 0, 1] = np.nan, np.nan
    return per_prompt


def table(cls=HeadTable, seed=0, **fields):
    return cls.from_prompts(numbers(seed), QUESTIONS, RUN, **fields)


def direct(seed=0):
    rows = np.random.default_rng(seed).normal(size=12)
    return table(DirectLogitAttribution, seed, parts={"mlp 0": rows, "embedding": rows * 2}, d=rows * 3)


def loop_mean(grids, layer, head, weights):
    """The mean of a head's measured numbers, each as often as its weight says."""
    counted = [(w, float(x[layer, head])) for w, x in zip(weights, grids, strict=True) if not np.isnan(x[layer, head])]
    total = sum(w for w, _ in counted)
    return sum(w * x for w, x in counted) / total if total else np.nan


BY_HAND = {
    (HeadTable, "values"): lambda yes_no, no_yes: (yes_no + no_yes) / 2,
    (HeadScores, "values"): lambda yes_no, no_yes: yes_no,
    (HeadScores, "polarity"): lambda yes_no, no_yes: (yes_no + no_yes) / 2,
    (HeadScores, "recency"): lambda yes_no, no_yes: (yes_no - no_yes) / 2,
}


@pytest.mark.parametrize(("cls", "name"), BY_HAND)
def test_columns_and_intervals_equal_a_loop(cls, name) -> None:
    found, per_prompt = table(cls), numbers()
    clusters = cluster_index([q.id for q in QUESTIONS], [q.pair for q in QUESTIONS])
    assert clusters.tolist() == [0, 0, 1, 2, 3, 4]
    draws = draw_weights(clusters, RUN.draws, RUN.seed)
    for layer, head in np.ndindex(2, 4):
        column, *drawn = (
            BY_HAND[cls, name](*(loop_mean(per_prompt[order], layer, head, weights) for order in per_prompt))
            for weights in [np.ones(6), *draws]
        )
        np.testing.assert_allclose(found.get(name)[layer, head], column, rtol=1e-6)
        np.testing.assert_allclose(found.intervals[name][:, layer, head], interval(np.array(drawn)), rtol=1e-6)


def test_an_order_that_was_not_asked_leaves_its_columns_unmeasured() -> None:
    scores = HeadScores.from_prompts(numbers(orders=("no_yes",)), QUESTIONS, RUN)
    assert all(np.isnan(grid).all() for grid in scores.columns.values())
    with pytest.raises(HeadError, match="needs the order yes_no"):
        scores.top(3)
    with pytest.raises(HeadError, match="needs both candidate orders"):
        scores.top(3, "recency")
    plain = HeadTable.from_prompts(numbers(orders=("no_yes",)), QUESTIONS, RUN)
    np.testing.assert_allclose(plain.values[0, 0], numbers(orders=("no_yes",))["no_yes"][:, 0, 0].mean(), rtol=1e-6)
    assert (~np.isnan(plain.values)).sum() == 7


@pytest.mark.parametrize("make", [table, lambda: table(HeadScores), direct], ids=["plain", "scores", "direct"])
def test_a_table_less_itself_is_nothing(make) -> None:
    one = make()
    nothing = one.diff(one)
    measured = ~np.isnan(one.values)
    for name in one.columns:
        assert (nothing.get(name)[measured] == 0).all()
        assert (nothing.intervals[name][:, measured] == 0).all()
    assert nothing.quantity == f"difference in {one.quantity}"
    assert type(nothing) is type(one)
    if isinstance(one, DirectLogitAttribution):
        assert not nothing.d.any()
        assert not any(values.any() for values in nothing.parts.values())


def test_a_difference_is_paired_where_the_questions_are_the_same() -> None:
    one, other = table(seed=0), table(seed=1)
    found = one.diff(other)
    np.testing.assert_allclose(found.values, one.values - other.values, rtol=1e-5)
    assert not np.isnan(found.intervals["values"][:, 1, 0]).any()
    for alone in (replace(other, asked="else"), replace(other, per_prompt={}, ids=(), pairs=())):
        assert np.isnan(one.diff(alone).intervals["values"]).all()
        np.testing.assert_array_equal(one.diff(alone).values, one.values - other.values)
    means = replace(one, per_prompt={})
    assert np.isnan(means.diff(means).intervals["values"]).all()
    for unlike in ({"unit": "nats"}, {"sign": -1}):
        with pytest.raises(ResultError, match="can't be subtracted"):
            one.diff(replace(other, **unlike))


@pytest.mark.parametrize("sign", [1, -1])
def test_top_respects_sign_and_what_was_not_measured(sign) -> None:
    found = table(sign=sign, quantity="zero ablation")
    ranking = found.ranking()
    assert (ranking.by, ranking.toward) == ("zero ablation", "no")
    assert len(ranking) == 7
    assert Head(0, 1) not in ranking
    assert list(ranking.scores) == sorted(ranking.scores, reverse=sign > 0)
    assert found[ranking[0]] == ranking.scores[0] == (np.nanmax if sign > 0 else np.nanmin)(found.values)
    assert {head.layer for head in found.ranking(from_layer=1)} == {1}
    assert found.top(2) == ranking[:2]
    with pytest.raises(HeadError, match="top 0"):
        found.top(0)
    with pytest.raises(HeadError, match="no layer 2"):
        found.top(1, from_layer=2)
    with pytest.raises(HeadError, match="can't be ranked by"):
        found.top(1, "polarity")


@pytest.mark.parametrize("cls", [HeadTable, HeadScores])
@pytest.mark.parametrize("sign", [1, -1])
def test_a_table_of_the_other_sign_swaps_no_and_yes(cls, sign) -> None:
    one = table(cls, sign=sign)
    other = replace(one, sign=-sign)
    for by in set(one.columns) - {"recency"}:
        for a, b in (("no", "yes"), ("yes", "no"), ("bias", "bias")):
            assert one.looking(by, toward=a).heads == other.looking(by, toward=b).heads
            assert one.ranking(by, toward=a).scores == other.ranking(by, toward=b).scores
        turned = replace(one, columns=one.columns | {by: -one.get(by)})
        assert one.looking(by, toward="no").heads == turned.looking(by, toward="yes").heads
        assert one.ranking(by, toward="yes").heads == one.ranking(by, toward="no").heads[::-1]


def test_either_way_is_both_sides_by_size() -> None:
    one = table(HeadScores)
    one.polarity[1, 1] = 0.0
    for by in one.columns:
        either = one.looking(by, toward="bias")
        turned = replace(one, columns=one.columns | {by: -one.get(by)})
        assert set(either) == {*one.looking(by), *turned.looking(by)}
        assert [abs(x) for x in either.scores] == sorted((abs(x) for x in either.scores), reverse=True)
        assert all(
            score == one.get(by)[head.layer, head.index] for head, score in zip(either, either.scores, strict=True)
        )
        assert not {*one.looking(by)} & {*turned.looking(by)}
    assert Head(1, 1) not in one.looking("polarity", toward="bias")
    assert Head(1, 1) in one.ranking("polarity")


@pytest.mark.parametrize("toward", ["no", "yes", "bias"])
def test_fewer_heads_on_the_wanted_side_than_asked_are_said(toward) -> None:
    one = table()
    count = {"no": (one.values > 0).sum(), "yes": (one.values < 0).sum(), "bias": 7}[toward]
    assert len(one.top(int(count), toward=toward)) == count
    other = f", {7 - count} of which are not toward {toward.title()} by values" if toward != "bias" else ""
    says = f"{count} of 9 heads asked: the model has 8 heads, 1 of which is not measured{other}; ask for fewer"
    with pytest.warns(UserWarning, match=says):
        found = one.top(9, toward=toward)
    assert len(found) == count
    assert found.toward == toward
    nowhere = replace(one, columns={"values": -np.abs(one.values)})
    with pytest.warns(UserWarning, match="0 of 1 heads asked"):
        assert len(nowhere.top(1)) == 0


def test_recency_has_a_side_of_its_own() -> None:
    one = table(HeadScores)
    later = one.looking("recency")
    assert later.toward == "later"
    assert (one.recency > 0).sum() == len(later)
    assert repr(later).startswith(f"HeadList({len(later)} by recency, toward the later candidate: ")
    assert one.looking("recency", toward="bias").toward == "bias"
    with pytest.raises(HeadError, match="'recency' doesn't tell No from Yes"):
        one.top(1, "recency", toward="yes")
    with pytest.warns(UserWarning, match="not toward the later candidate by recency"):
        one.top(8, "recency")


def test_rank_correlation_respects_signs() -> None:
    one, other = table(seed=0), table(seed=1)
    turned = replace(one, columns={"values": -one.values}, sign=-1)
    assert one.rank_correlation(turned) == pytest.approx(1)
    assert one.rank_correlation(replace(turned, sign=1)) == pytest.approx(-1)
    few = replace(one, columns={"values": np.where(np.arange(8).reshape(2, 4) < 5, one.values, np.nan)})
    assert few.rank_correlation(one) == pytest.approx(1)
    from scipy.stats import spearmanr

    kept = ~np.isnan(one.values)
    assert one.rank_correlation(other) == pytest.approx(np.asarray(spearmanr(one.values[kept], other.values[kept]))[0])
    with pytest.raises(ResultError, match="two models"):
        one.rank_correlation(HeadTable({"values": np.zeros((1, 1))}, {}, RUN))


def test_the_frame_has_a_row_a_head() -> None:
    found = table(HeadScores)
    frame = found.to_dataframe().set_index("head")
    assert len(frame) == 8
    assert frame.loc["1.2", "recency"] == found.recency[1, 2]
    assert frame.loc["1.2", "polarity_low"] == found.intervals["polarity"][0, 1, 2]
    assert "top by polarity, either way" in repr(found)
    assert "<table" in found._repr_html_()


def same(one, other) -> bool:
    """Whether two tables hold the same bits."""
    grids = [(one.columns, other.columns), (one.intervals, other.intervals), (one.per_prompt, other.per_prompt)]
    grids += [(getattr(one, "parts", {}), getattr(other, "parts", {}))]
    if not all(a.keys() == b.keys() for a, b in grids):
        return False
    alike = [np.array_equal(a[name], b[name], equal_nan=True) for a, b in grids for name in a]
    words = [
        (t.ids, t.pairs, t.asked, t.quantity, t.unit, t.sign, t.run, list(t.per_prompt), type(t)) for t in (one, other)
    ]
    return all(alike) and words[0] == words[1]


@pytest.mark.parametrize(
    "make", [lambda: table(sign=-1, quantity="q", unit="u"), lambda: table(HeadScores), direct],
    ids=["plain", "scores", "direct"],
)  # fmt: skip
def test_saving_and_loading_is_exact(make, tmp_path) -> None:
    one = make()
    again = type(one).load(one.save(tmp_path / "table.json"))
    assert same(again, one)
    if isinstance(one, DirectLogitAttribution):
        assert np.array_equal(again.d, one.d)
        assert np.array_equal(again.total, one.total, equal_nan=True)
    other = HeadScores if type(one) is HeadTable else HeadTable
    with pytest.raises(ResultError, match="does not hold"):
        other.load(tmp_path / "table.json")
    content = json.loads((tmp_path / "table.json").read_text())
    for name in ("columns", "values", "ids", "sign"):
        broken = {key: value for key, value in content.items() if key != name}
        (tmp_path / "table.json").write_text(json.dumps(broken))
        with pytest.raises(ResultError, match="damaged"):
            type(one).load(tmp_path / "table.json")


def as_of_old(grid):
    return [[None if np.isnan(x) else float(x) for x in row] for row in grid]


def earlier_grid(tmp_path, kind, by, further, tensors):
    """A file of estimates or attributions as versions before wrote them: a row a prompt, order after order, no hash."""
    per_prompt = numbers()
    rows = np.nan_to_num(np.concatenate(list(per_prompt.values())))
    names = [q.id for q in QUESTIONS] * 2, [q.pair for q in QUESTIONS] * 2, ["yes_no"] * 6 + ["no_yes"] * 6
    content = {"kind": kind, "by": by, **further, "mean": rows.mean(0, dtype=np.float64).tolist(),
               "rows": dict(zip(("ids", "pairs", "orders"), names, strict=True)), "run": RUN.to_dict()}  # fmt: skip
    (tmp_path / "old.json").write_text(json.dumps(content))
    save_file({"heads": rows, **tensors}, tmp_path / "old.safetensors")
    clean = {order: np.nan_to_num(grid) for order, grid in per_prompt.items()}
    return tmp_path / "old.json", clean


def test_estimates_of_earlier_versions_load(tmp_path) -> None:
    path, per_prompt = earlier_grid(tmp_path, "head_estimates", "first-order zero", {"of": "zero"}, {})
    expected = HeadTable.from_prompts(per_prompt, QUESTIONS, RUN, quantity="first-order zero", sign=-1)
    found = HeadTable.load(path)
    np.testing.assert_allclose(found.values, expected.values, rtol=1e-6)
    assert same(replace(found, columns=expected.columns, asked=expected.asked), expected)
    (tmp_path / "old.safetensors").unlink()
    with pytest.warns(UserWarning, match="means alone"):
        assert np.isnan(HeadTable.load(path).intervals["values"]).all()


def test_attributions_of_earlier_versions_load(tmp_path) -> None:
    d = np.arange(12.0)
    further = {"parts": {"mlp 0": 0.5}, "d": float(d.mean())}
    tensors = {"d": d, "part mlp 0": d / 2}
    path, per_prompt = earlier_grid(tmp_path, "direct_attribution", "direct attribution", further, tensors)
    found = DirectLogitAttribution.load(path)
    assert np.array_equal(found.rows, np.concatenate(list(per_prompt.values())))
    assert (found.quantity, found.sign) == ("direct attribution", 1)
    assert np.array_equal(found.d, d)
    assert np.array_equal(found.parts["mlp 0"], d / 2)


def test_scores_of_earlier_versions_load_with_recency_for_order(tmp_path) -> None:
    one = table(HeadScores)
    names = {"values": "values", "polarity": "polarity", "order": "recency"}
    grids = {old: as_of_old(one.get(new)) for old, new in names.items()}
    intervals = {old: [as_of_old(ends) for ends in one.intervals[new]] for old, new in names.items()}
    content = {"kind": "head_scores", "quantity": one.quantity, "unit": one.unit, **grids, "intervals": intervals,
               "ids": one.ids, "pairs": one.pairs, "asked": one.asked, "run": RUN.to_dict()}  # fmt: skip
    (tmp_path / "old.json").write_text(json.dumps(content))
    save_file(one.per_prompt, tmp_path / "old.safetensors")
    assert same(HeadScores.load(tmp_path / "old.json"), one)
