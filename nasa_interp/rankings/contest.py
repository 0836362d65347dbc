"""Which ranking of heads finds those behind the bias? Removes the top heads of each and asks the same questions."""

import html
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
from scipy.stats import spearmanr
from tqdm.auto import tqdm

from ..bootstrap import DRAWS, interval
from ..errors import HeadError, ResultError
from ..heads import HeadList, Side
from ..interventions.effect import MEASURES, AblationEffect, Ablator
from ..models import as_model
from ..prompts import ORDERS, PromptStyle
from ..questions import BinaryQuestion
from ..results import parsing_result, read_result, write_result
from ..run import RunInfo
from .rank import random_rankings, rank_heads

RANDOM = "random"
Goal = Literal["bias", "bias at equal AUC"]


@dataclass(frozen=True)
class Winner:
    """The set of heads that won a contest.

    Args:
        on: the rule it won by.
        ranking, k: the first k heads of that ranking.
        heads: those heads.
        bias: change of the mean logit difference, averaged over the data, in the order in which it fell (or, with a
            bias toward Yes, rose) less.
        auc: change of the AUC, averaged over the data, in the order in which it fell more.
    """

    on: Goal
    ranking: str
    k: int
    heads: HeadList
    bias: float
    auc: float

    def __str__(self) -> str:
        return (
            f"{self.on}: top {self.k} by {self.ranking} (mean logit difference {self.bias:+.2f}, AUC {self.auc:+.3f})"
        )


@dataclass(frozen=True, repr=False, eq=False)
class RankingContest:
    """Rankings of heads, and what removing the first heads of each does to the decisions.

    Args:
        table: one row per ranking, k, data and candidate order; see `to_dataframe`.
        rankings: each ranking's heads, all of them, best first.
        run: the run that ranked them; where rankings were passed in, the last run that asked questions.
        details: limits, number of random sets, names of the data, the random sets.
    """

    table: pd.DataFrame
    rankings: dict[str, HeadList]
    run: RunInfo
    details: dict[str, Any] = field(default_factory=dict)

    @property
    def toward(self) -> Side:
        """The answer that the model gives too often; files of earlier versions, which only knew No, say "no"."""
        return self.details.get("toward", "no")

    @property
    def _sign(self) -> int:
        """1 where less logit difference is less bias, -1 where more is."""
        return -1 if self.toward == "yes" else 1

    def to_dataframe(self) -> pd.DataFrame:
        """The table: ranking, k, data, order, and `<measure>_before`, `_change`, `_low`, `_high` for each measure.

        Low and high end the change's paired bootstrap interval (95%, over questions). "random" is the average over the
        random sets.
        """
        return self.table.copy()

    def summary(self) -> pd.DataFrame:
        """One row per ranking and k: change of the mean logit difference and of both AUCs, by the rule of `winner`."""
        sets: dict[tuple[str, int], dict[str, list[dict]]] = {}
        for row in self.table.to_dict(orient="records"):
            sets.setdefault((row["ranking"], int(row["k"])), {}).setdefault(row["order"], []).append(row)
        names = ("mean_logit_difference", "auc", "auc_within_groups")
        rows = []
        for key, orders in sets.items():
            bias, auc, within = ([_mean(rows, f"{name}_change") for rows in orders.values()] for name in names)
            rows.append((*key, self._sign * max(self._sign * change for change in bias), min(auc), min(within)))
        return pd.DataFrame(rows, columns=["ranking", "k", "bias", "auc", "auc_within_groups"])

    def winner(self, on: Goal = "bias", auc_loss: float = 0.02) -> Winner:
        """The heads whose removal takes away the most bias, over both orders and all data.

        Each ranking and k counts by the candidate order in which it does less: in each order the change is averaged
        over the data, and the worse of the two orders' averages decides. So a ranking that only trades one order's bias
        for the other's can't win. Random sets can't win either.

        Args:
            on: "bias": the lowest change of the mean logit difference wins, or the highest where the model says Yes too
                often (`toward`). "bias at equal AUC": the same among those whose AUC falls by no more than `auc_loss`;
                AUCs are taken within an order, as orders shift d.
            auc_loss: the fall of the AUC that still counts as equal.

        Raises:
            ResultError: where no ranking lowers the bias in both orders, or none that does keeps its AUC.

        Caveat: the winner is the best of many on the same data; `confirm` measures it on new data.
        """
        if on not in ("bias", "bias at equal AUC"):
            raise ResultError(f"no rule {on!r} to win by; use 'bias' or 'bias at equal AUC'")
        rows = self.summary().to_dict(orient="records")
        candidates = [row for row in rows if row["ranking"] != RANDOM and self._sign * row["bias"] < 0]
        if not candidates:
            raise ResultError("no ranking's heads take bias away in both candidate orders; try others or another k")
        if on == "bias at equal AUC":
            cheapest = max(row["auc"] for row in candidates)
            candidates = [row for row in candidates if row["auc"] >= -auc_loss]
            if not candidates:
                raise ResultError(
                    f"every ranking that takes bias away costs more AUC than {auc_loss}; the cheapest costs "
                    f"{-cheapest:.3f}: allow that, or take smaller k"
                )
        best = min(candidates, key=lambda row: self._sign * row["bias"])
        heads = self.rankings[best["ranking"]][: best["k"]]
        return Winner(on, best["ranking"], best["k"], heads, best["bias"], best["auc"])

    def correlations(self) -> pd.DataFrame:
        """Spearman's rank correlation of every pair of rankings, over the heads in both."""
        ranks = {name: {head: rank for rank, head in enumerate(heads)} for name, heads in self.rankings.items()}
        table = pd.DataFrame(index=list(ranks), columns=list(ranks), dtype=float)
        for one, ours in ranks.items():
            for other, theirs in ranks.items():
                both = [head for head in ours if head in theirs]
                rho = spearmanr([ours[head] for head in both], [theirs[head] for head in both])
                table.loc[one, other] = float(np.asarray(rho)[0])
        return table

    def save(self, path: str | Path) -> Path:
        """Writes JSON: the table's rows, the rankings, who won, and the run; raises as `write_result` does."""
        rankings = {
            name: {
                "by": ranking.by,
                "toward": ranking.toward,
                "heads": [str(head) for head in ranking],
                "scores": ranking.scores,
            }
            for name, ranking in self.rankings.items()
        }
        content = {
            "kind": "ranking_contest",
            "table": self.table.to_dict(orient="records"),
            "summary": self.summary().to_dict(orient="records"),
            "winners": self._winners(),
            "correlations": self.correlations().to_dict(),
            "rankings": rankings,
            "details": self.details,
            "run": self.run.to_dict(),
        }
        return write_result(path, content)

    @classmethod
    def load(cls, path: str | Path) -> "RankingContest":
        """Reads what `save` wrote; raises ResultError where the file holds something else."""
        content = read_result(path, "ranking_contest", "a contest of rankings", "write one with ranking_contest")
        with parsing_result(path, "hold the contest again"):
            run = RunInfo.from_dict(content["run"])
            rankings = {
                name: HeadList(
                    HeadList.of(ranking["heads"]).heads,
                    tuple(ranking["scores"]),
                    ranking["by"],
                    run.to_dict(),
                    ranking.get("toward", ""),
                )
                for name, ranking in content["rankings"].items()
            }
            table = pd.DataFrame(content["table"])
            words = ["ranking", "data", "order"]
            numbers = [name for name in table.columns if name not in (*words, "k")]
            return cls(table.astype(dict.fromkeys(numbers, float)), rankings, run, content["details"])

    def _winners(self) -> dict[str, Any]:
        winners = {}
        for goal in ("bias", "bias at equal AUC"):
            try:
                winner = self.winner(goal)
                winners[goal] = {**vars(winner), "heads": [str(head) for head in winner.heads]}
            except ResultError as error:
                winners[goal] = {"reason": str(error)}
        return winners

    def __repr__(self) -> str:
        winners = [f"{on}: top {w['k']} by {w['ranking']}" for on, w in self._winners().items() if "k" in w]
        data = ", ".join(dict.fromkeys(self.table.data))
        return (
            f"RankingContest({len(self.rankings)} rankings from {self.run.summary()}; on {data}; {'; '.join(winners)})"
        )

    def _repr_html_(self) -> str:
        table = self.summary().sort_values("bias").to_html(index=False, float_format="%+.3f")
        return f"<p>{html.escape(repr(self))}</p>{table}"


def ranking_contest(
    model: Any,
    probe: Any = "builtin:verify#probe",
    val: Any = ("builtin:verify#val",),
    ks: Sequence[int] = (5, 10, 20),
    *,
    limit: int | None = None,
    probe_limit: int | None = None,
    sweep_limit: int | None = 32,
    n_random: int = 4,
    rankings: Mapping[str, HeadList] | None = None,
    style: PromptStyle | None = None,
    seed: int = 0,
    draws: int = DRAWS,
    progress: bool = True,
    toward: Side | None = None,
) -> RankingContest:
    """Ranks the heads in every way on `probe`, removes the first k of each ranking, and asks `val` again.

    Args:
        model: a Model, or what `load_model` accepts besides names.
        probe: questions, or a data specification, to rank by.
        val: one or several of them to judge by; keep the test set for `confirm`.
        ks: sizes of the head sets.
        limit: questions of each data set in `val`; `probe_limit` those to rank by, `sweep_limit` those of the exact
            sweep, which costs one pass per head. None takes all.
        n_random: random sets, drawn from all layers alike and averaged.
        rankings: head lists of one's own, by name, in place of those that `rank_heads` makes; `probe` then isn't asked.
        style, seed, draws: as for `decide`.
        progress: show bars.
        toward: the answer that the model gives too often: heads that push to it come first, and less of it wins. None:
            what the decisions on `probe` say, or, with rankings of one's own, those on `val`.

    Returns:
        The rankings ("values", "polarity", "recency", "polarity per query", "first-order zero", "direct attribution",
        "exact ablation") and, for each of them and "random", k, data set and candidate order, the effect of removing
        those heads on every measure, paired with the model as it is.

    Raises:
        ModelError: where fused attention isn't exact for the model, so that it can't be intervened on.
        HeadError: a k that is larger than the number of heads.

    Source: the paper ranks by NAS ("values") and validates by intervening; the comparison is ours.
    """
    model = as_model(model)
    count = model.n_layers * model.n_heads
    if not ks or not 1 <= min(ks) <= max(ks) <= count:
        raise HeadError(f"sets of {tuple(ks)} heads can't be removed: the model has {count} heads; choose other ks")
    data_sets, run = _as_list(val), None
    options: dict[str, Any] = {"style": style, "seed": seed, "draws": draws}
    if rankings is None:
        toward = toward or Ablator(model, probe, limit=probe_limit, progress=False, **options).base.toward
        limits = {"limit": probe_limit, "sweep_limit": sweep_limit, "progress": progress}
        rankings, run = rank_heads(model, probe, toward=toward, **limits, **options)
    for name, ranking in rankings.items():
        if len(ranking) < max(ks):
            raise HeadError(
                f"the ranking {name!r} names {len(ranking)} heads, too few for a set of {max(ks)}; rank more heads"
            )
    random = random_rankings(model, n_random, seed)
    entries = {**{name: (ranking,) for name, ranking in rankings.items()}, **({RANDOM: random} if random else {})}
    rows: list[dict[str, Any]] = []
    names: list[str] = []
    sets = len(data_sets) * len(ks) * (len(rankings) + n_random)
    with tqdm(total=sets, desc="removing heads", unit="set", disable=not progress) as bar:
        for data in data_sets:
            ablator = Ablator(model, data, limit=limit, progress=False, **options)
            names.append(_new_name(ablator.base.run.data, names))
            rows += _remove(ablator, entries, ks, names[-1], bar)
    drawn = [[str(head) for head in one[: max(ks)]] for one in random]
    limits = {"limit": limit, "probe_limit": probe_limit, "sweep_limit": sweep_limit}
    toward = toward or ("yes" if np.mean([row["imbalance_before"] for row in rows]) < 0 else "no")
    details = {"toward": toward, "val": names, "ks": list(ks), **limits, "n_random": n_random, "random_sets": drawn}
    return RankingContest(pd.DataFrame(rows), dict(rankings), run or ablator.base.run, details)


def _remove(
    ablator: Ablator, entries: Mapping[str, tuple[HeadList, ...]], ks: Sequence[int], data: str, bar: tqdm
) -> Iterator[dict[str, Any]]:
    """The table's rows for one data set."""
    for name, lists in entries.items():
        for k in ks:
            effects = []
            for ranking in lists:
                effects.append(ablator.effect_of(ranking[:k]))
                bar.update()
            for order in ORDERS:
                yield {"ranking": name, "k": k, "data": data, "order": order, **_changes(effects, order)}


def _as_list(val: Any) -> list[Any]:
    if isinstance(val, (str, Path, pd.DataFrame)):
        return [val]
    items = list(val)
    return [items] if all(isinstance(item, (BinaryQuestion, Mapping)) for item in items) else items


def _new_name(name: str, taken: Sequence[str]) -> str:
    """The name, numbered where other data of the contest already has it, as with lists of the user's own questions."""
    return next(
        candidate for n in range(len(taken) + 1) if (candidate := f"{name} ({n + 1})" if n else name) not in taken
    )


def _mean(rows: Sequence[Mapping[str, Any]], column: str) -> float:
    """The column's mean over the rows in which it is defined."""
    values = [row[column] for row in rows if not np.isnan(row[column])]
    return float(np.mean(values)) if values else np.nan


def _changes(effects: Sequence[AblationEffect], order: str) -> dict[str, float]:
    """Each measure before, its change and the change's interval, averaged over the effects draw by draw."""
    points = [effect.points(order) for effect in effects]
    draws = [effect.draws(order) for effect in effects]
    changes: dict[str, float] = {}
    for name in MEASURES:
        before = float(np.mean([values[name][0] for values in points]))
        after = float(np.mean([values[name][1] for values in points]))
        low, high = interval(np.mean([values[name] for values in draws], axis=0))
        ends = {f"{name}_low": float(low), f"{name}_high": float(high)}
        changes |= {f"{name}_before": before, f"{name}_change": after - before, **ends}
    return changes
