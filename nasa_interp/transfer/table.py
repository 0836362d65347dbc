"""The transfer matrix as a table: one row a cell, a summary by method, and a verdict in words."""

import html
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from ..comparison.table import Entry
from ..errors import ResultError
from ..results import parsing_result, read_result, write_result
from ..run import RunInfo, jsonable
from .cures import BASE, COLUMN, NASA, RANDOM

KEYS = ("fitted_on", "asked", "method", "variant")


def row_of(fitted: str, asked: str, entry: Entry) -> dict[str, Any]:
    """One cell: measures of its decisions with the ends of their intervals, and what fitting it took."""
    report = entry.report
    row: dict[str, Any] = dict(zip(KEYS, (fitted, asked, entry.method, entry.variant), strict=True))
    row["n"] = len(report.questions) // len(report.orders)
    for order, e in report.orders.items():
        row |= {f"imbalance_{order}": e.imbalance, f"imbalance_{order}_low": e.low.imbalance}
        row |= {f"imbalance_{order}_high": e.high.imbalance, f"auc_{order}": e.auc}
    overall = report.overall
    row["imbalance"] = float(np.mean([abs(e.imbalance) for e in report.orders.values()]))
    row |= {"accuracy": overall.accuracy, "accuracy_low": overall.low.accuracy, "accuracy_high": overall.high.accuracy}
    row["auc"] = float(np.mean([e.auc for e in report.orders.values()]))
    row["kinds"] = {kind: e.imbalance for kind, e in report.groups.items()}
    row |= {"weights": entry.weights, "perplexity_ratio": entry.fitted.get("perplexity_ratio", float("nan"))}
    return row


@dataclass(frozen=True, repr=False, eq=False)
class TransferMatrix:
    """What cures are worth where they were not fitted.

    Args:
        table: one row a cell: fitted_on (empty where nothing of a row is used), asked, method, variant, n; imbalance in
            each order with its interval, and the mean of both by size; accuracy, AUC within an order; imbalance by
            kind of question; weights changed; perplexity as a multiple of the base model's.
        run: of the first column's prompts.
        details: heads, recipe, limits, seed.
    """

    table: pd.DataFrame
    run: RunInfo
    details: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, rows: Sequence[dict[str, Any]], run: RunInfo, details: dict[str, Any]) -> "TransferMatrix":
        """From the cells' rows."""
        return cls(pd.DataFrame(list(rows)), run, jsonable(details))

    def to_dataframe(self) -> pd.DataFrame:
        """The table."""
        return self.table

    def summary(self) -> pd.DataFrame:
        """One row a method: medians over its cells of imbalance (by size), accuracy and AUC; the worst imbalance."""
        groups = self.table.groupby("method", sort=False)
        frame = groups[["imbalance", "accuracy", "auc", "perplexity_ratio"]].median()
        return frame.assign(worst=groups["imbalance"].max(), cells=groups.size()).reset_index()

    def p_values(self) -> pd.DataFrame:
        """For each pair of conditions: how often random heads end as near to balance as the chosen ones, exact.

        p = (1 + sets at least as near) / (1 + sets): with 19 sets the smallest is 0.05.
        """
        rows = []
        for _, cells in self.table.groupby(["fitted_on", "asked"], sort=False):
            fitted, asked = cells.iloc[0][["fitted_on", "asked"]]
            mine, sets = (cells.loc[cells.method == method, "imbalance"].to_numpy() for method in (NASA, RANDOM))
            if len(mine) and len(sets):
                p = (1 + int((sets <= mine[0]).sum())) / (1 + len(sets))
                rows.append({"fitted_on": fitted, "asked": asked, "nasa": mine[0], "random": np.median(sets), "p": p})
        return pd.DataFrame(rows, columns=["fitted_on", "asked", "nasa", "random", "p"])

    @property
    def verdict(self) -> str:
        """Which to take, and what it costs, in one paragraph."""
        frame = self.summary()
        medians = dict(zip(frame["method"].astype(str), frame["imbalance"].astype(float), strict=True))
        lines = [f"As it is, the model is off balance by {medians[BASE]:.2f} (median over what was asked)."]
        others = {method: value for method, value in medians.items() if method != BASE}
        if others:
            best = min(others, key=others.__getitem__)
            lines.append(f"Nearest to balance: {best}, {others[best]:.2f}.")
        if COLUMN in others and NASA in others:
            near = "nearer to" if others[NASA] < others[COLUMN] else "farther from"
            lines.append(
                f"Tuned heads end {near} balance ({others[NASA]:.2f}) than an offset from unlabeled questions of the "
                f"very condition that is asked ({others[COLUMN]:.2f}), which costs such a fit a wording, and logits or "
                f"a logit bias at inference; tuned weights cost nothing there, and hold where they were fitted."
            )
        if len(chances := self.p_values()):
            few = f"p from {chances.p.min():.2f} to {chances.p.max():.2f}"
            lines.append(f"Random heads, tuned alike: median {chances.random.median():.2f} ({few}).")
        return " ".join(lines)

    def save(self, path: str | Path) -> Path:
        """Writes JSON; raises as `write_result` does."""
        content = {
            "kind": "transfer",
            "verdict": self.verdict,
            "table": self.table.to_dict(orient="records"),
            "summary": self.summary().to_dict(orient="records"),
            "p_values": self.p_values().to_dict(orient="records"),
            "details": self.details,
            "run": self.run.to_dict(),
        }
        return write_result(path, content)

    @classmethod
    def load(cls, path: str | Path) -> "TransferMatrix":
        """Reads what `save` wrote."""
        content = read_result(path, "transfer", "a transfer matrix", "write one with `nasa-interp transfer`")
        with parsing_result(path, "run it again"):
            frame = pd.DataFrame(content["table"])
            if missing := [name for name in (*KEYS, "imbalance", "accuracy", "auc") if name not in frame]:
                raise ResultError(f"no column {missing[0]!r}")
            numbers = [name for name in frame if name not in (*KEYS, "kinds")]
            frame[numbers] = frame[numbers].apply(pd.to_numeric)
            return cls(frame, RunInfo.from_dict(content["run"]), content["details"])

    def __repr__(self) -> str:
        return f"TransferMatrix({len(self.table)} cells; {self.verdict})"

    def _repr_html_(self) -> str:
        return f"<p>{html.escape(self.verdict)}</p>{self.summary().to_html(index=False, float_format='%.3f')}"
