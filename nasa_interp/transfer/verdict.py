"""What a transfer matrix says to somebody who has to choose, in one paragraph: made from its numbers alone."""

from typing import Any

import numpy as np
import pandas as pd

from ..comparison.table import LORA, NASA, RANDOM, UNLABELED
from .cures import BASE, COLUMN, FREE, ROW, THEN

NEAR = 0.1
# A method that costs more has to gain so much accuracy, or so much balance, to be taken.
WORTH = 0.02

WORDS = {
    ROW: "an offset from unlabeled questions where the cure was fitted",
    COLUMN: "an offset from unlabeled questions in the very condition that is asked",
    FREE: "an offset from content-free texts",
    NASA: "heads tuned with labels",
    f"{NASA} {UNLABELED}": "heads tuned without labels",
    f"{NASA}{THEN}": "heads tuned with labels and an offset on top",
    f"{NASA} {UNLABELED}{THEN}": "heads tuned without labels and an offset on top",
    LORA: "a LoRA with labels",
    f"{LORA} {UNLABELED}": "a LoRA without labels",
    RANDOM: "random heads tuned with labels",
}
OFFSET_COST = "logits or a logit bias at inference, and unlabeled questions in each wording"
TUNED_COST = "nothing at inference"


def verdict_of(cells: pd.DataFrame, p_values: pd.DataFrame) -> str:
    """Which cure to take, what it costs at inference, and what tuning adds.

    Args:
        cells: as `TransferMatrix.cells` gives them.
        p_values: as `TransferMatrix.p_values` gives them.

    Source: ours.
    """
    cells, common = _alike(cells)
    cells = cells.assign(near=cells.filter(regex="^imbalance_(yes_no|no_yes)$").abs().max(axis=1) <= NEAR)
    rows = {str(name): _row(group) for name, group in cells.groupby("method", sort=False)}
    base = rows.pop(BASE)
    told = [f"As it is, the model is off balance by {base['imbalance']:.2f} (median over what was asked)."]
    if common:
        told.append(f"Of what was fitted on {' and '.join(common)}, as all methods were:")
    if not rows:
        return told[0]
    simple = _nearest({name: row for name, row in rows.items() if name in (ROW, COLUMN, FREE)})
    best = _nearest({name: row for name, row in rows.items() if name != RANDOM}) or RANDOM
    if simple is not None and rows[simple]["imbalance"] <= rows[best]["imbalance"] + WORTH:
        best = simple
    told.append(f"Take {_told(best, rows[best])}, at the cost of {_cost(best)}.")
    if simple is not None and best != simple:
        told.append(f"What changes no weights comes to {_told(simple, rows[simple])}.")
    told += _of_tuning(rows, best)
    if len(p_values):
        told.append(_of_chance(p_values))
    return " ".join(told)


def _alike(cells: pd.DataFrame) -> tuple[pd.DataFrame, list[str]]:
    """The cells of the rows that all methods have, so that none is judged by others; and which rows, where not all.

    Random heads aren't counted for that: they are compared with the chosen ones cell by cell. Without such a row, all
    cells.
    """
    fitted = cells.query("fitted_on != '' and method != @RANDOM")
    rows = list(dict.fromkeys(fitted.fitted_on))
    common = [row for row in rows if set(fitted[fitted.fitted_on == row].method) == set(fitted.method)]
    if not common or common == rows:
        return cells, []
    return pd.DataFrame(cells[cells.fitted_on.isin(["", *common])]), common


def _of_tuning(rows: dict[str, Any], best: str) -> list[str]:
    """What tuned heads are worth by themselves, and beneath an offset."""
    told = []
    for name in (NASA, f"{NASA} {UNLABELED}", LORA, f"{LORA} {UNLABELED}"):
        if name in rows and name != best:
            words = _told(name, rows[name])
            told.append(f"{words[0].upper()}{words[1:]}, at the cost of {_cost(name)}.")
    on_top = f"{NASA}{THEN}"
    if on_top in rows and COLUMN in rows and best != on_top:
        gain = rows[on_top]["accuracy"] - rows[COLUMN]["accuracy"]
        what = "is worth tuning for" if gain > WORTH else "is not worth tuning for"
        told.append(
            f"With an offset on top, tuned heads get {gain:+.2f} more right than the offset alone, which {what}."
        )
    return told


def _of_chance(p_values: pd.DataFrame) -> str:
    """Whether the chosen heads are a better choice than chance."""
    median, told = p_values.select_dtypes("number").median(), []
    for what, end in (("imbalance", ""), ("accuracy", "_accuracy"), ("AUC", "_auc")):
        p = p_values[f"p{end}"]
        numbers = f"{what} {median[f'random{end}']:.2f} where the chosen ones have {median[f'nasa{end}']:.2f}"
        fewest = int((p == 1 / (1 + p_values["sets"])).to_numpy().sum())
        told.append(f"{numbers} (p from {p.min():.2f} to {p.max():.2f}; no set as good in {fewest} of {len(p)} cells)")
    return f"Random heads, tuned alike: {', '.join(told)}; p says how often chance does as well."


def _row(cells: pd.DataFrame) -> dict[str, float]:
    """The medians of a method, and in how many cells both orders are near balance."""
    medians = {name: float(np.median(cells[name].to_numpy())) for name in ("imbalance", "accuracy", "auc")}
    return medians | {"near": int(cells["near"].to_numpy().sum()), "cells": len(cells)}


def _nearest(rows: dict[str, Any]) -> str | None:
    """The method with the smallest median imbalance."""
    return min(rows, key=lambda name: rows[name]["imbalance"], default=None)


def _told(name: str, row: dict[str, Any]) -> str:
    within = f"within {NEAR:.2f} in both orders in {row['near']} of {row['cells']} cells"
    numbers = f"off by {row['imbalance']:.2f}, {within}, accuracy {row['accuracy']:.2f}, AUC {row['auc']:.2f}"
    return f"{WORDS[name]} ({numbers})"


def _cost(name: str) -> str:
    return OFFSET_COST if name in (ROW, COLUMN, FREE) or name.endswith(THEN) else TUNED_COST
