"""What a comparison says, in sentences: made from its numbers alone, whichever way they fall."""

import math
from typing import Any

import pandas as pd

# What no weights need to change for, what is done to heads without training, and the words for each.
WITHOUT_WEIGHTS = {
    "offset": "one offset for all answers",
    "offset per order": "an offset for each candidate order",
    "calibration": "an offset for each order from questions without labels",
    "content-free": "an offset for each order from content-free texts",
    "average": "averaging both candidate orders",
    "average and offset": "averaging both candidate orders with an offset",
}
TURNED_DOWN = {"zero": "taking the same heads away", "scale": "turning the same heads down"}
MEASURES = {"recovered": "of the lost accuracy", "accuracy": "of accuracy"}

# Of a measure's mean over its runs: the interval, and the runs' least and most.
ENDS = ("_low", "_high", "_min", "_max")

# Below this a set of heads does better than random ones by more than luck.
LEVEL = 0.05


def verdict_of(summary: pd.DataFrame, differences: pd.DataFrame) -> tuple[str, ...]:
    """Sentences on NASA, and on when to prefer which method.

    Args:
        summary: one row a method, as `Comparison.summary` gives it.
        differences: NASA less each other method, as `Comparison.differences` gives it.

    Caveat: "told apart" means a paired 95% interval over questions and runs without 0 in it; seeds and sets are few.

    Source: ours.
    """
    rows = {row["method"]: row for row in summary.to_dict(orient="records")}
    # where there is nothing to recover, accuracy itself is compared
    on = "accuracy" if math.isnan(rows["nasa"]["recovered"]) else "recovered"
    against, aucs = _against(differences, on), _against(differences, "auc_within_orders")
    sentences = [_gained(rows, against["base"], aucs["base"], on)]
    if best := _best(rows, WITHOUT_WEIGHTS, on):
        sentences.append(_without_weights(best, against[best], on))
    if best := _best(rows, TURNED_DOWN, on):
        sentences.append(_turned_down(best, against[best], aucs[best], on))
    if "lora" in rows:
        sentences.append(_lora(rows, against["lora"], on))
    if "nasa without labels" in rows:
        sentences.append(_unlabeled(rows, against["nasa without labels"], on))
    if "random heads" in rows:
        sentences.append(_random(rows, against["random heads"], on))
    return tuple(sentences)


def _against(differences: pd.DataFrame, measure: str) -> dict[str, Any]:
    rows = (row for row in differences.to_dict(orient="records") if row["measure"] == measure)
    return {row["method"]: row for row in rows}


def _best(rows: dict[str, Any], names: dict[str, str], on: str) -> str | None:
    """The strongest of these on the test itself: the choice favours the baseline, never NASA."""
    there = [name for name in names if name in rows]
    return max(there, key=lambda name: rows[name][on]) if there else None


def _gained(rows: dict[str, Any], accuracy: dict[str, Any], auc: dict[str, Any], on: str) -> str:
    base, nasa = rows["base"], rows["nasa"]
    moved = {1: "gained", 0: "changed, within what luck does,", -1: "lost"}[_sign(accuracy)]
    runs = f" (mean of {nasa['runs']} seeds, {_spread(nasa, on)})" if nasa["runs"] > 1 else ""
    sorting = {1: "sorts better", 0: "sorts neither better nor worse by more than luck", -1: "sorts worse"}[_sign(auc)]
    return (
        f"NASA {moved} {_interval(accuracy)} {MEASURES[on]}{runs}: accuracy {base['accuracy']:.2f} to "
        f"{nasa['accuracy']:.2f}, AUC within orders {base['auc_within_orders']:.2f} to "
        f"{nasa['auc_within_orders']:.2f} (the tuned model {sorting}), imbalance {_imbalances(base)} to "
        f"{_imbalances(nasa)}, perplexity x {nasa['perplexity_ratio']:.4f}, with {nasa['share']:.3%} of the weights."
    )


def _without_weights(name: str, row: dict[str, Any], on: str) -> str:
    what = WITHOUT_WEIGHTS[name]
    result = (
        f"Of what changes no weights, {what} does best ({row['other']:+.2f}; the best on the test itself, which "
        f"favours it); NASA is {_apart(row, on)}. "
    )
    if _sign(row) > 0:
        return result + "Prefer NASA, also where logits can be read."
    if _sign(row) < 0:
        return result + (
            f"Prefer {what} wherever logits can be read and the candidates are known beforehand; it does nothing for "
            f"answers that are generated, for which NASA is left."
        )
    return result + (
        f"Where logits can be read, {what} is the simpler choice; NASA is for answers that are generated, and for a "
        f"model that is passed on."
    )


def _turned_down(name: str, row: dict[str, Any], auc: dict[str, Any], on: str) -> str:
    what = TURNED_DOWN[name]
    result = (
        f"{what.capitalize()} without training gives {row['other']:+.2f}; NASA is {_apart(row, on)}, "
        f"and its AUC within orders is {_apart(auc, '')}. "
    )
    if _sign(row) < 0 or (_sign(row) == 0 and _sign(auc) < 0):
        return result + f"Prefer {what}: it needs no training."
    if _sign(row) == 0 and _sign(auc) == 0:
        return result + f"Training isn't shown to be worth it here; {what} is simpler."
    return result + "Prefer NASA."


def _lora(rows: dict[str, Any], row: dict[str, Any], on: str) -> str:
    nasa, lora = rows["nasa"], rows["lora"]
    result = (
        f"A LoRA with {lora['weights']:,.0f} trained weights (NASA changes {nasa['weights']:,.0f}) gives "
        f"{row['other']:+.2f} at perplexity x {lora['perplexity_ratio']:.4f}; NASA is {_apart(row, on)}. "
    )
    if not lora["weights"]:
        return result + "No LoRA came through validation within the limits."
    if _sign(row) < 0:
        return result + "Prefer the LoRA, unless the change has to stay in few heads."
    if _sign(row) > 0:
        return result + "Prefer NASA."
    return result + "Neither is shown to be better; NASA's change stays in few heads and can be read head by head."


def _unlabeled(rows: dict[str, Any], row: dict[str, Any], on: str) -> str:
    without = rows["nasa without labels"]
    return (
        f"Tuned without labels the same heads give {row['other']:+.2f}, imbalance {_imbalances(without)}; NASA with "
        f"labels is {_apart(row, on)}."
    )


def _random(rows: dict[str, Any], row: dict[str, Any], on: str) -> str:
    runs, better = int(row["runs"]), int(row["better"])
    p = (better + 1) / (runs + 1)
    result = (
        f"Of {runs} random sets of as many heads from the same layers, tuned alike, {better} do as well as NASA's or "
        f"better (p = {p:.2f}; their mean {row['other']:+.2f}, {_spread(rows['random heads'], on)}). "
    )
    if p <= LEVEL:
        return result + "Which heads are tuned matters here."
    if better == 0:
        return result + f"So few sets can't show p <= {LEVEL}; none of them reaches it, which is a sign and no more."
    if _sign(row) > 0:
        return result + f"On average NASA is {_apart(row, on)}: a better choice than chance, but not the only one."
    return result + "That the chosen heads matter is not shown: others would do too."


def _sign(row: dict[str, Any]) -> int:
    """1 or -1 where the interval of the difference leaves 0 out, else 0."""
    return 1 if row["low"] > 0 else -1 if row["high"] < 0 else 0


def _apart(row: dict[str, Any], on: str) -> str:
    unit = f" {MEASURES[on]}" if on else ""
    words = {1: f"better by {_interval(row)}{unit}", -1: f"worse by {_interval(row)}{unit}"}
    return words.get(_sign(row), f"not told apart from it ({_interval(row)}{unit})")


def _interval(row: dict[str, Any]) -> str:
    return f"{row['difference']:+.2f} [{row['low']:+.2f}, {row['high']:+.2f}]"


def _spread(row: dict[str, Any], on: str) -> str:
    return f"from {row[f'{on}_min']:+.2f} to {row[f'{on}_max']:+.2f}"


def _imbalances(row: dict[str, Any]) -> str:
    names = [name for name in row if name.startswith("imbalance") and not name.endswith(ENDS)]
    return " / ".join(f"{row[name]:+.2f}" for name in names)
