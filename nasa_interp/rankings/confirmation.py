"""The only use of the test set: the chosen heads against random sets, in each candidate order."""

import html
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from ..bootstrap import DRAWS
from ..heads import HeadList
from ..interventions.controls import RandomControls, random_controls
from ..interventions.effect import Ablator
from ..interventions.values import Intervention, Zero
from ..prompts import PromptStyle
from ..results import parsing_result, read_result, write_result
from ..run import RunInfo
from .contest import Goal, RankingContest


@dataclass(frozen=True, repr=False, eq=False)
class Confirmation:
    """What the chosen heads do on data that had no part in choosing them.

    Args:
        table: one row per order (yes_no, no_yes, both); see `to_dataframe`.
        heads: the chosen heads.
        run: where it came from.
        details: how the heads were chosen, the intervention, number and kind of the random sets, and what each random
            set did to the mean logit difference in each order.
    """

    table: pd.DataFrame
    heads: HeadList
    run: RunInfo
    details: dict[str, Any] = field(default_factory=dict)

    def to_dataframe(self) -> pd.DataFrame:
        """order; mean logit difference before, shift, low, high; random_mean, random_low, random_high, ratio, p; and
        for auc, auc_within_groups, imbalance, yes_rate and answer_mass: before, change, low, high, and the random sets'
        mean and p."""
        return self.table.copy()

    def save(self, path: str | Path) -> Path:
        """Writes JSON; raises as `write_result` does."""
        heads = {"by": self.heads.by, "toward": self.heads.toward, "heads": [str(head) for head in self.heads]}
        content = {"kind": "confirmation", "table": self.table.to_dict(orient="records"), **heads}
        return write_result(path, {**content, "details": self.details, "run": self.run.to_dict()})

    @classmethod
    def load(cls, path: str | Path) -> "Confirmation":
        """Reads what `save` wrote; raises ResultError where the file holds something else."""
        content = read_result(path, "confirmation", "a confirmation", "write one with confirm")
        with parsing_result(path, "confirm again"):
            table = pd.DataFrame(content["table"])
            table = table.astype({name: float for name in table.columns if name != "order"})
            heads = HeadList(HeadList.of(content["heads"]).heads, (), content["by"], toward=content.get("toward", ""))
            return cls(table, heads, RunInfo.from_dict(content["run"]), content["details"])

    def __repr__(self) -> str:
        lines = [
            f"{row['order']}: {row['shift']:+.2f} [{row['low']:+.2f}, {row['high']:+.2f}] against "
            f"{row['random_mean']:+.2f}, p = {row['p']:.2f}, AUC {row['auc_change']:+.3f} "
            f"[{row['auc_low']:+.3f}, {row['auc_high']:+.3f}]"
            for row in self.table.to_dict(orient="records")
        ]
        return f"Confirmation({len(self.heads)} heads by {self.heads.by}; {self.run.summary()}; {'; '.join(lines)})"

    def _repr_html_(self) -> str:
        return f"<p>{html.escape(repr(self))}</p>{self.table.to_html(index=False, float_format='%.3f')}"


def confirm(
    model: Any,
    contest_or_heads: RankingContest | HeadList | Iterable[Any],
    test: Any = "builtin:verify#test",
    n: int = 99,
    *,
    on: Goal = "bias at equal AUC",
    auc_loss: float = 0.02,
    matched: bool = True,
    intervention: Intervention | None = None,
    style: PromptStyle | None = None,
    limit: int | None = None,
    seed: int = 0,
    draws: int = DRAWS,
    progress: bool = True,
) -> Confirmation:
    """Measures one set of heads, the contest's winner, on data that nothing was chosen on, against random sets.

    Args:
        model: as for `ranking_contest`.
        contest_or_heads: a contest, whose winner by `on` and `auc_loss` is taken, or heads.
        test: questions, or a data specification.
        n: random sets of the same size; each costs a pass over the test set.
        on, auc_loss: as for `RankingContest.winner`.
        matched: random sets take as many heads from each layer.
        intervention: `Zero()` by default.
        style, limit, seed, draws: as for `decide`; the seed also draws the random sets.
        progress: show a bar over sets.

    Returns:
        In each order and over both: the shift of the mean logit difference with its interval, the random sets' mean,
        the ratio of the two, p, and what it costs in AUC.

    Source: ours.
    """
    details: dict[str, Any] = {}
    if isinstance(contest_or_heads, RankingContest):
        winner = contest_or_heads.winner(on, auc_loss)
        heads, details = winner.heads, {"on": on, "auc_loss": auc_loss, "ranking": winner.ranking, "k": winner.k}
    else:
        heads = HeadList.of(contest_or_heads)
    ablator = Ablator(model, test, style=style, limit=limit, seed=seed, draws=draws, progress=False)
    intervention = intervention or Zero()
    controls = random_controls(ablator, heads, intervention, n, matched, seed, progress)
    details |= {"intervention": repr(intervention), "n_random": n, "matched": matched}
    details["random_shifts"] = {
        order or "both": sets["mean_logit_difference"] for order, sets in controls.random.items()
    }
    table = pd.DataFrame([_row(controls, order) for order in (*(o for o in controls.random if o), None)])
    return Confirmation(table, heads, controls.chosen.changed.run, details)


def _row(controls: RandomControls, order: str | None) -> dict[str, Any]:
    changes, control = controls.chosen.estimate(order), controls.of(order=order)
    main = changes.loc["mean_logit_difference"]
    low, high = np.quantile(control.random, [0.025, 0.975]) if control.random else (np.nan, np.nan)
    row: dict[str, Any] = {
        "order": order or "both", "before": main.before, "shift": main.change, "low": main.low, "high": main.high,
        "random_mean": control.mean, "random_low": float(low), "random_high": float(high), "ratio": control.ratio,
        "p": control.p,
    }  # fmt: skip
    for name in ("auc", "auc_within_groups", "imbalance", "yes_rate", "answer_mass"):
        effect, other = changes.loc[name], controls.of(name, order)
        row |= {f"{name}_{part}": float(effect[part]) for part in ("before", "change", "low", "high")}
        row |= {f"{name}_random_mean": other.mean, f"{name}_p": other.p}
    return row
