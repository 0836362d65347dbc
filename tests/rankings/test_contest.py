"""The contest of rankings: its numbers are those of plain ablations, its rules are those that it states."""

from dataclasses import replace

import families
import numpy as np
import pandas as pd
import pytest
import torch
from planted import PLANTED, planted_model
from scipy.stats import rankdata

import nasa_interp as ni
from nasa_interp.errors import HeadError, ResultError
from nasa_interp.heads import HeadList
from nasa_interp.interventions import Ablator, ablation_effect, sweep_heads
from nasa_interp.interventions.effect import MEASURES
from nasa_interp.prompts import ORDERS, build_prompts
from nasa_interp.rankings import Confirmation, RankingContest, confirm, rank_heads, ranking_contest
from nasa_interp.run import RunInfo

QUESTIONS = list(families.QUESTIONS)
RANKINGS = [
    "values", "polarity", "recency", "polarity per query", "first-order zero", "direct attribution", "exact ablation",
]  # fmt: skip
QUIET = {"draws": 20, "progress": False}


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    """Tiny products only lose by sharing threads."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def contest() -> RankingContest:
    return ranking_contest(planted_model(), QUESTIONS, (QUESTIONS, QUESTIONS[:4]), ks=(1, 3), n_random=2, **QUIET)


def test_one_row_for_each_ranking_k_data_and_order(contest) -> None:
    table = contest.to_dataframe()
    assert list(dict.fromkeys(table.ranking)) == [*RANKINGS, "random"]
    assert list(contest.rankings) == RANKINGS
    assert table.groupby(["ranking", "k", "data", "order"]).ngroups == len(table) == 8 * 2 * 2 * 2
    assert list(table.columns) == ["ranking", "k", "data", "order"] + [
        f"{name}_{part}" for name in MEASURES for part in ("before", "change", "low", "high")
    ]
    assert all(len(ranking) == 12 for ranking in contest.rankings.values())


@pytest.mark.filterwarnings("ignore:answer mass")
def test_rows_are_plain_ablations(contest) -> None:
    model, table = planted_model(), contest.to_dataframe()
    for ranking, k in (("direct attribution", 3), ("recency", 1)):
        effect = ablation_effect(model, QUESTIONS, contest.rankings[ranking][:k], **QUIET)
        for order in ORDERS:
            expected = effect.estimate(order)
            rows = table[(table.ranking == ranking) & (table.k == k) & (table.order == order)]
            row = rows.iloc[0]
            for name in MEASURES:
                assert row[f"{name}_change"] == pytest.approx(expected.change[name], abs=1e-4, nan_ok=True)
                assert row[f"{name}_low"] == pytest.approx(expected.low[name], abs=1e-4, nan_ok=True)


def test_random_rows_are_the_average_of_the_sets(contest) -> None:
    model, table = planted_model(), contest.to_dataframe()
    sets = contest.details["random_sets"]
    changes = [ablation_effect(model, QUESTIONS, heads[:3], **QUIET).change("imbalance", "no_yes") for heads in sets]
    row = table[(table.ranking == "random") & (table.k == 3) & (table.order == "no_yes")].iloc[0]
    assert row.imbalance_change == pytest.approx(np.mean(changes), abs=1e-6)


def test_the_planted_head_leads_every_ranking_that_looks_for_it_and_wins(contest) -> None:
    for ranking in set(RANKINGS) - {"recency"}:
        assert contest.rankings[ranking][0] == PLANTED, ranking
    won = contest.winner("bias")
    assert PLANTED in won.heads
    assert won.bias < -1
    assert len(won.heads) == won.k


def test_a_bias_toward_yes_is_hunted_like_one_toward_no(contest, tmp_path) -> None:
    """The planted head looks at the word "No"; where that is the candidate for yes, it makes the model say yes."""
    style = ni.PromptStyle(yes="No", no="Yes")
    found = ranking_contest(planted_model(), QUESTIONS, QUESTIONS, ks=(1,), n_random=1, style=style, **QUIET)
    assert (contest.toward, found.toward) == ("no", "yes")
    for ranking in set(RANKINGS) - {"recency"}:
        assert found.rankings[ranking][0] == PLANTED, ranking
        assert (found.rankings[ranking].toward, found.rankings[ranking].scores[0] < 0) == (
            "yes", ranking not in ("first-order zero", "exact ablation"),
        )  # fmt: skip
    won = found.winner("bias")
    assert won.heads.heads == (PLANTED,)
    assert won.bias > 1
    again = RankingContest.load(found.save(tmp_path / "contest.json"))
    assert str(again.winner("bias")) == str(won)
    assert again.winner("bias").heads.toward == "yes"
    confirmed = confirm(planted_model(), found, QUESTIONS, n=9, on="bias", style=style, **QUIET)
    assert (confirmed.table["p"] == 0.1).all()


def test_rankings_of_ones_own_are_judged_by_what_val_says() -> None:
    mine = {"mine": HeadList.of([PLANTED])}
    for style, side in ((None, "no"), (ni.PromptStyle(yes="No", no="Yes"), "yes")):
        options = {"val": QUESTIONS, "ks": (1,), "rankings": mine, "n_random": 0, "style": style, **QUIET}
        found = ranking_contest(planted_model(), **options)
        assert found.toward == side
        assert found.winner().heads.heads == (PLANTED,)
        other = ranking_contest(planted_model(), toward={"no": "yes", "yes": "no"}[side], **options)
        with pytest.raises(ResultError, match="take bias away"):
            other.winner()


def test_exact_ablation_is_the_sweep_over_both_orders(tiny, questions) -> None:
    rankings, _ = rank_heads(tiny, questions, sweep_limit=None, **QUIET)
    effects = [sweep_heads(tiny, build_prompts(tiny, questions, order)).values.ravel() for order in ORDERS]
    ranked = rankings["exact ablation"]
    np.testing.assert_allclose(ranked.scores, sorted(np.mean(effects, axis=0)), atol=1e-6)
    assert ranked.by == "exact ablation"


def table_of(**rows: tuple[float, float, float, float]) -> RankingContest:
    """A contest by hand: for each ranking the bias and AUC changes in yes_no, then in no_yes."""
    entries = [
        {"ranking": name, "k": 2, "data": "d", "order": order, "mean_logit_difference_change": bias, "auc_change": auc,
         "auc_within_groups_change": auc}
        for name, (bias_1, auc_1, bias_2, auc_2) in rows.items()
        for order, bias, auc in (("yes_no", bias_1, auc_1), ("no_yes", bias_2, auc_2))
    ]  # fmt: skip
    heads = HeadList.of(["0.1", "0.2", "0.3"])
    return RankingContest(pd.DataFrame(entries), dict.fromkeys(rows, heads), RunInfo("m", "d", 1, ("yes_no",)))


def test_the_worse_order_decides_and_random_sets_never_win() -> None:
    contest = table_of(
        one_sided=(-5.0, 0.0, +1.0, 0.0),
        strong=(-2.0, -0.1, -3.0, 0.0),
        gentle=(-1.0, 0.0, -1.5, -0.02),
        random=(-9.0, 0.5, -9.0, 0.5),
    )
    won = contest.winner("bias")
    assert (won.ranking, won.bias, won.auc) == ("strong", -2.0, -0.1)
    assert contest.winner("bias at equal AUC").ranking == "gentle"
    assert contest.winner("bias at equal AUC", auc_loss=0.1).ranking == "strong"
    with pytest.raises(ResultError, match=r"cheapest costs 0\.020"):
        contest.winner("bias at equal AUC", auc_loss=0.01)


def test_what_wins_is_the_same_where_every_sign_is_turned() -> None:
    rows = {"strong": (-2.0, -0.1, -3.0, 0.0), "gentle": (-1.0, 0.0, -1.5, -0.02), "one_sided": (-5.0, 0.0, 1.0, 0.0)}
    one = table_of(**rows)
    turned = table_of(**{name: (-a, b, -c, d) for name, (a, b, c, d) in rows.items()})
    turned = replace(turned, details={"toward": "yes"})
    for goal in ("bias", "bias at equal AUC"):
        a, b = one.winner(goal), turned.winner(goal)
        assert (a.ranking, a.bias, a.auc) == (b.ranking, -b.bias, b.auc)
    assert (one.summary().bias == -turned.summary().bias).all()


def test_nothing_wins_where_nothing_helps_in_both_orders() -> None:
    with pytest.raises(ResultError, match="both candidate orders"):
        table_of(one_sided=(-5.0, 0.0, +1.0, 0.0)).winner()


def test_correlations_of_rankings(contest) -> None:
    table = contest.correlations()
    assert np.allclose(np.diag(table), 1)
    assert np.allclose(table, table.T)
    one, other = contest.rankings["values"], contest.rankings["direct attribution"]
    places = [list(one.heads).index(head) for head in other]
    expected = np.corrcoef(rankdata(places), np.arange(12))[0, 1]
    assert table.loc["values", "direct attribution"] == pytest.approx(expected)


def test_saving_and_loading_is_exact(contest, tmp_path) -> None:
    again = RankingContest.load(contest.save(tmp_path / "contest.json"))
    pd.testing.assert_frame_equal(again.table, contest.table, check_exact=True)
    assert again.run == contest.run
    assert {name: ranking.heads for name, ranking in again.rankings.items()} == {
        name: ranking.heads for name, ranking in contest.rankings.items()
    }
    assert str(again.winner("bias")) == str(contest.winner("bias"))
    assert "bias: top" in repr(again)
    assert "<table" in again._repr_html_()
    (tmp_path / "other.json").write_text("{}")
    with pytest.raises(ResultError, match="does not hold a contest"):
        RankingContest.load(tmp_path / "other.json")


def test_lists_of_ones_own_take_part(tiny, questions) -> None:
    mine = {"mine": HeadList.of(["1.2", "0.1"])}
    found = ranking_contest(tiny, val=questions, ks=(2,), rankings=mine, n_random=1, **QUIET)
    assert list(dict.fromkeys(found.table.ranking)) == ["mine", "random"]
    with pytest.raises(HeadError, match="'mine' names 2 heads"):
        ranking_contest(tiny, val=questions, ks=(3,), rankings=mine, **QUIET)
    with pytest.raises(HeadError, match="has 8 heads"):
        ranking_contest(tiny, questions, val=questions, ks=(2, 9), **QUIET)


def test_auc_within_groups_is_the_mean_of_the_cells(tiny, questions) -> None:
    effect = Ablator(tiny, questions, **QUIET).effect(["1.2"])
    cells = [cell.auc for group in effect.changed.cells.values() for cell in group.values()]
    assert effect.changes.after["auc_within_groups"] == pytest.approx(np.nanmean(cells))
    assert effect.points()["auc_within_groups"][1] == pytest.approx(np.nanmean(cells))
    one = [group["no_yes"].auc for group in effect.base.cells.values()]
    assert effect.points("no_yes")["auc_within_groups"][0] == pytest.approx(np.nanmean(one))


def test_groups_with_one_label_are_left_out_of_the_mean_and_intervals_are_paired(tiny, questions) -> None:
    some = [q for q in questions if q.group == "facts" or not q.label]
    ablator = Ablator(tiny, some, **QUIET)
    facts = [ablator.base.cells["facts"][order].auc for order in ORDERS]
    assert ablator.effect(["1.2"]).points()["auc_within_groups"][0] == pytest.approx(np.mean(facts))
    assert np.isnan(ablator.base.cells["sums"]["yes_no"].auc)
    unchanged = ablator.effect([]).estimate("yes_no").dropna()
    assert len(unchanged) == len(MEASURES)
    assert (unchanged[["change", "low", "high"]] == 0).all(axis=None)


@pytest.mark.filterwarnings("ignore:answer mass")
def test_confirming_the_planted_head(contest, tmp_path) -> None:
    model = planted_model()
    found = confirm(model, [PLANTED], QUESTIONS, n=9, **QUIET)
    table = found.to_dataframe().set_index("order")
    assert list(table.index) == ["yes_no", "no_yes", "both"]
    assert (table["p"] == 0.1).all()
    assert (table["shift"] < 3 * table.random_mean.abs().clip(lower=0.1) * -1).all()
    expected = ablation_effect(model, QUESTIONS, [PLANTED], **QUIET)
    assert table["shift"]["both"] == pytest.approx(expected.mean_logit_difference_change)
    assert table.auc_change["no_yes"] == pytest.approx(expected.estimate("no_yes").change["auc"])
    again = Confirmation.load(found.save(tmp_path / "confirmed.json"))
    pd.testing.assert_frame_equal(again.table, found.table, check_exact=True)
    assert again.heads.heads == found.heads.heads
    assert "p = 0.10" in repr(again)
    from_contest = confirm(model, contest, QUESTIONS, n=1, on="bias", **QUIET)
    assert from_contest.heads.heads == contest.winner("bias").heads.heads
    assert from_contest.details["ranking"] == contest.winner("bias").ranking


def test_the_contest_leaves_the_model_as_it_was(questions) -> None:
    model = ni.load_model(families.tiny_model("qwen2"), tokenizer=families.tiny_tokenizer())
    tokens, weights = torch.arange(5, 25)[None], model.weights_hash()
    with torch.no_grad():
        before = model.hf(tokens).logits
        ranking_contest(model, questions, questions, ks=(1,), n_random=1, **QUIET)
        assert torch.equal(model.hf(tokens).logits, before)
    assert model.weights_hash() == weights
    assert all(parameter.requires_grad for parameter in model.hf.parameters())
