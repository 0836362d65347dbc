"""The transfer matrix as a table: one row a cell, a summary by method, and a verdict in words."""

import html
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from ..comparison.table import NASA, RANDOM, Entry
from ..errors import AlignmentError, ResultError
from ..results import parsing_result, read_result, write_result
from ..run import RunInfo, jsonable
from .verdict import verdict_of

KEYS = ("fitted_on", "asked", "method", "variant")
CONDITIONS = ("fitted", "asked")
# What random heads are compared by: the end of each column's name, and whether more is better.
COMPARED = {"imbalance": ("", False), "accuracy": ("_accuracy", True), "auc": ("_auc", True)}
P_VALUES = ("sets", *(f"{name}{end}" for end, _ in COMPARED.values() for name in ("nasa", "random", "p")))


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
    row |= {name: entry.fitted.get(name, float("nan")) for name in ("perplexity_ratio", "seconds")}
    row["weights"] = entry.weights
    return row


@dataclass(frozen=True, repr=False, eq=False)
class TransferMatrix:
    """What cures are worth where they were not fitted.

    Args:
        table: one row a cell: fitted_on (empty where nothing of a row is used), asked, method, variant, n; imbalance in
            each order with its interval, and the mean of both by size; accuracy, AUC within an order; imbalance by
            kind of question; weights changed; perplexity as a multiple of the base model's; seconds that fitting took.
        run: of the first column's prompts.
        details: the base model's hash, heads, recipe, limits, seed, conditions and what else makes two matrices alike.
    """

    table: pd.DataFrame
    run: RunInfo
    details: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, rows: Sequence[dict[str, Any]], run: RunInfo, details: dict[str, Any]) -> "TransferMatrix":
        """From the cells' rows."""
        return cls(pd.DataFrame(list(rows)), run, jsonable(details))

    def joined(self, other: "TransferMatrix") -> "TransferMatrix":
        """The cells of both: of a matrix that was made part by part, other rows, methods, seeds or random sets each.

        A cell that both have is taken from this one.

        Raises:
            AlignmentError: another model, other heads, recipe, limits, seed, or number of questions set aside, or
                conditions of one name that differ.
        """
        unlike = [
            key for key, value in self.details.items() if key not in CONDITIONS and value != other.details.get(key)
        ]
        for kind in CONDITIONS:
            theirs = other.details[kind]
            unlike += [name for name, told in self.details[kind].items() if theirs.get(name, told) != told]
        if unlike:
            raise AlignmentError(f"two matrices with another {', '.join(unlike)} can't be one; make them alike")
        table = pd.concat([self.table, other.table]).drop_duplicates(list(KEYS), ignore_index=True)
        conditions = {kind: other.details[kind] | self.details[kind] for kind in CONDITIONS}
        return TransferMatrix(table, self.run, {**self.details, **conditions})

    def to_dataframe(self) -> pd.DataFrame:
        """The table."""
        return self.table

    def cells(self) -> pd.DataFrame:
        """One row a method in each cell: medians over its seeds or random sets, whose number is `runs`."""
        groups = self.table.drop(columns=["variant", "kinds"]).groupby(["fitted_on", "asked", "method"], sort=False)
        return groups.median().assign(runs=groups.size()).reset_index()

    def summary(self) -> pd.DataFrame:
        """One row a method: medians over its cells of imbalance (by size), accuracy and AUC; the worst imbalance."""
        groups = self.cells().groupby("method", sort=False)
        frame = groups[["imbalance", "accuracy", "auc", "perplexity_ratio"]].median()
        return frame.assign(worst=groups["imbalance"].max(), cells=groups.size()).reset_index()

    def p_values(self) -> pd.DataFrame:
        """For each pair of conditions: how often random heads do as well as the chosen ones, exact.

        p = (1 + sets at least as near to balance) / (1 + sets): with 19 sets the smallest is 0.05. p_accuracy and p_auc
        are the same of sets with at least as many right, and that sort at least as well. Of several seeds the first is
        compared, which the sets are tuned with too. `nasa` and `random` are imbalances, `nasa_accuracy` and so on what
        their names say; those of random heads are medians.
        """
        rows = []
        for _, cells in self.table.groupby(["fitted_on", "asked"], sort=False):
            row = cells.iloc[0][["fitted_on", "asked"]].to_dict()
            mine, sets = (cells[cells.method == method] for method in (NASA, RANDOM))
            if len(mine) and len(sets):  # the first seed is the one that the sets are tuned with
                row["sets"], first = len(sets), mine.iloc[0]
                for name, (end, more) in COMPARED.items():
                    theirs, ours = sets[name], first[name]
                    as_good = (theirs >= ours) if more else (theirs <= ours)
                    row |= {f"nasa{end}": ours, f"random{end}": float(np.median(theirs))}
                    row[f"p{end}"] = (1 + int(as_good.sum())) / (1 + len(sets))
                rows.append(row)
        return pd.DataFrame(rows, columns=[*KEYS[:2], *P_VALUES])

    @property
    def verdict(self) -> str:
        """Which to take, and what it costs, in one paragraph."""
        return verdict_of(self.cells(), self.p_values())

    def save(self, path: str | Path) -> Path:
        """Writes JSON; raises as `write_result` does."""
        content = {
            "kind": "transfer",
            "verdict": self.verdict,
            "cells": self.cells().to_dict(orient="records"),
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
