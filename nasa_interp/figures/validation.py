"""Validation during tuning, by checkpoint: imbalance in each order, and the measures that must not be lost."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from ..errors import ResultError
from ..run import RunInfo
from .theme import BLUE, GREEN, GREY, ORDER_NAMES, VERMILLION, captioned, column, legend_below, safe

PANELS = {"auc": "AUC within<br>an order", "accuracy": "accuracy", "answer_mass": "answer mass"}
PER_PANEL = 130


def validation_curves(frame: pd.DataFrame, *, run: RunInfo | Mapping[str, Any] | str) -> go.Figure:
    """How an alignment went: every checkpoint, and which ones were kept.

    Args:
        frame: as `Alignment.checkpoints` gives it: head, step, kept, imbalance in each order, auc, accuracy and
            answer_mass.
            Heads that were tuned one after another follow each other along x.
        run: where it came from.

    Raises:
        ResultError: where there are no checkpoints.
    """
    orders = [order for order in ORDER_NAMES if f"imbalance_{order}" in frame]
    if not len(frame) or not orders:
        raise ResultError("there are no checkpoints to draw; an alignment whose target was reached before has none")
    x, starts = _along(frame)
    kept = frame["kept"].astype(bool).to_numpy()
    figure = make_subplots(rows=1 + len(PANELS), cols=1, shared_xaxes=True, vertical_spacing=0.05)
    for order, colour, symbol in zip(orders, (BLUE, VERMILLION), ("circle", "square"), strict=False):
        trace = _line(frame, f"imbalance_{order}", x, colour, symbol)
        figure.add_trace(trace.update(name=f"imbalance, {ORDER_NAMES[order]}", showlegend=True), row=1, col=1)
        figure.add_trace(_rings(column(frame, f"imbalance_{order}"), x, kept, order == orders[0]), row=1, col=1)
    figure.add_hline(y=0, line={"color": GREY, "width": 1}, row=1, col=1)  # type: ignore[arg-type]
    figure.update_yaxes(title="imbalance", row=1, col=1)
    for row, (name, title) in enumerate(PANELS.items(), start=2):
        figure.add_trace(_line(frame, name, x, BLUE, "circle"), row=row, col=1)
        figure.add_trace(_rings(column(frame, name), x, kept, False), row=row, col=1)
        figure.update_yaxes(title=title, nticks=4, row=row, col=1)
    for start in starts[1:]:
        figure.add_vline(x=start, line={"color": GREY, "width": 1, "dash": "dot"})
    figure.update_xaxes(title="steps of tuning", row=1 + len(PANELS), col=1)
    note = "On the validation questions; checkpoints that weren't kept are undone."
    if len(starts) > 1:
        note += " Dotted: the next head begins."
    height = 120 + PER_PANEL * (1 + len(PANELS))
    return legend_below(captioned(figure, "What validation saw while tuning", run, height=height, note=note))


def _along(frame: pd.DataFrame) -> tuple[np.ndarray, list[float]]:
    """Where every checkpoint lies along x, and where each head's checkpoints begin."""
    steps, heads = column(frame, "step"), frame["head"].astype(str).to_numpy()
    new = np.r_[True, heads[1:] != heads[:-1]]
    before, starts, positions = 0.0, [], np.empty(len(frame))
    for row, step in enumerate(steps):
        if new[row]:
            before = positions[row - 1] if row else 0.0
            starts.append(before)
        positions[row] = before + step
    return positions, starts


def _line(frame: pd.DataFrame, name: str, x: np.ndarray, colour: str, symbol: str) -> go.Scatter:
    return go.Scatter(
        x=x,
        y=column(frame, name),
        mode="lines+markers",
        line={"color": colour, "width": 1.5},
        marker={"symbol": symbol, "size": 6},
        customdata=[safe(head) for head in frame["head"]],
        showlegend=False,
        hovertemplate="%{customdata}, step %{x}: %{y:.3f}<extra></extra>",
    )


def _rings(y: np.ndarray, x: np.ndarray, kept: np.ndarray, legend: bool) -> go.Scatter:
    return go.Scatter(
        x=x[kept],
        y=y[kept],
        mode="markers",
        name="kept",
        marker={"symbol": "circle-open", "size": 14, "color": GREEN, "line": {"width": 2}},
        showlegend=legend,
        legendgroup="kept",
        hoverinfo="skip",
    )
