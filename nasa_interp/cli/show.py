"""Results on stdout, messages on stderr."""

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import typer

from ..run import jsonable
from ..streams import world_rank


def print_result(content: Any, as_json: bool) -> None:
    typer.echo(json.dumps(jsonable(content), indent=1) if as_json else content)


def deliver(show: Callable[[], None], *files: tuple[Path | None, Callable[[Path], Any]]) -> None:
    """Writes a result to the requested files, and prints it even if one can't be written.

    Of several processes with the same result, the first does.

    Args:
        show: prints it.
        files: pairs of a path, or None for no file, and the function that writes the result there.
    """
    if world_rank() > 0:
        return
    try:
        for path, save in files:
            if path is not None:
                save(path)
    finally:
        show()


def print_report(report: Any) -> None:
    columns = ["part", "n", "accuracy", "precision", "recall", "imbalance", "yes_rate", "auc", "oracle_accuracy", "ece"]
    within = [f"auc_{order}" for order in report.orders] if len(report.orders) > 1 else []
    frame = report.summary_dataframe()[[*columns, "mean_logit_difference", "answer_mass", *within]]
    short = {"oracle_accuracy": "oracle", "mean_logit_difference": "mean d", "answer_mass": "mass"}
    frame = frame.rename(columns=short).set_index("part").astype(object)
    # Precision without a single Yes is undefined; an AUC within an order is given for groups only.
    frame["precision"] = [f"{x:.2f}" if x == x else "undefined" for x in frame["precision"]]
    frame[within] = frame[within].map(lambda x: f"{x:.2f}" if x == x else "")
    typer.echo(frame.to_string(index_names=False, float_format=lambda x: f"{x:.2f}", na_rep="undefined"))
    typer.echo("\n" + report.verdict)


def print_scores(scores: Any, k: int, toward: Any = "no") -> None:
    frame = scores.to_dataframe().set_index("head")
    for by in ("values", "polarity"):
        if frame[by].isna().all():
            typer.echo(f"\n{by} was not measured: it needs {'order yes_no' if by == 'values' else 'both orders'}")
            continue
        top = scores.top(k, by, toward=toward)
        rows = frame.loc[[str(head) for head in top]]
        typer.echo(f"\ntop {len(top)} heads by {top.ranked_by} ({scores.quantity}, {scores.unit})")
        shown = rows[["values", "polarity", "recency", f"{by}_low", f"{by}_high"]]
        typer.echo(shown.to_string(float_format=lambda x: f"{x:+.3f}"))


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def show_warning(message: Any, category: Any, filename: Any, lineno: Any, file: Any = None, line: Any = None) -> None:
    if issubclass(category, UserWarning):
        say(f"warning: {message}")
