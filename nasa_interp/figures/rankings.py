"""Rankings of heads compared: polarity and recency, two data sets, bias and AUC."""

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from jaxtyping import Bool, Float
from plotly.subplots import make_subplots

from ..heads import Head, HeadList
from ..run import RunInfo
from ..scoring import HeadScores, RankOverlap
from .theme import (
    BLUE,
    DASHES,
    GREY,
    ORDER_NAMES,
    SERIES,
    SYMBOLS,
    VERMILLION,
    captioned,
    column,
    describe,
    legend_below,
    safe,
)


def polarity_against_recency(
    scores: HeadScores, heads: HeadList | Iterable[Any] | None = None, names: int = 14
) -> go.Figure:
    """Every head as a point: does it attend to No, to Yes, or only to whichever candidate comes later?

    Args:
        scores: of both candidate orders.
        heads: heads to mark.
        names: how many of the outlying heads to label, if there is room; hovering names every head.
    """
    x, y, unit = scores.recency, scores.polarity, scores.unit
    chosen = HeadList.of(heads or ()).check(*scores.shape)
    figure = _head_scatter(x, y, chosen.heads, names)
    figure.update_xaxes(title=f"recency, {safe(unit)}<br>(right of 0: to the later candidate)")
    figure.update_yaxes(title=f"polarity, {safe(unit)}<br>(above 0: to No; below: to Yes)")
    title = f"{scores.quantity}: polarity against recency, one point a head"
    return captioned(figure, title, scores.run, height=480)


def overlap_scatter(overlap: RankOverlap, a: HeadScores, b: HeadScores, names: int = 10) -> go.Figure:
    """The same heads scored on two data sets; those that lead on both are marked.

    Args:
        overlap: what `rank_overlap(a, b)` found.
        a, b: the scores that it compared.
        names: how many heads to label, if there is room.
    """
    figure = _head_scatter(a.get(overlap.by), b.get(overlap.by), overlap.shared, names, "in both tops")
    figure.update_xaxes(title=f"{overlap.by} on {safe(a.run.data)},<br>{safe(a.unit)}")
    figure.update_yaxes(title=f"{overlap.by} on {safe(b.run.data)},<br>{safe(b.unit)}")
    caption = f"Across: {describe(a.run)}. Up: {describe(b.run)}"
    return captioned(figure, str(overlap), caption, height=480)


def contest_curves(frame: pd.DataFrame, *, run: RunInfo | Mapping[str, Any] | str) -> go.Figure:
    """What each ranking's heads do when ablated: toward Yes to the left, AUC kept at the top.

    Args:
        frame: one row per ranking, number of heads, data set and candidate order: ranking, k, data, order,
            mean_logit_difference_change and auc_change, and their _low and _high for the hover.
        run: where it came from.
    """
    orders, rankings, data = (list(dict.fromkeys(frame[column])) for column in ("order", "ranking", "data"))
    titles = [ORDER_NAMES.get(order, safe(order)) for order in orders]
    gap = 0.12 if len(orders) > 1 else 0.0
    figure = make_subplots(rows=len(orders), cols=1, shared_xaxes=True, subplot_titles=titles, vertical_spacing=gap)
    for (order, ranking, name), rows in frame.groupby(["order", "ranking", "data"], sort=False):  # type: ignore[misc]
        style = rankings.index(ranking), data.index(name)
        trace = _contest_trace(rows.sort_values("k"), safe(ranking), safe(name), *style)
        trace.showlegend = order == orders[0] and name == data[0]
        figure.add_trace(trace, row=orders.index(order) + 1, col=1)
    for row in range(1, len(orders) + 1):
        figure.update_yaxes(title="change of AUC", row=row, col=1)
    figure.update_xaxes(
        title="change of the mean of logit(No)<br>- logit(Yes) (left of 0: toward Yes)", row=len(orders)
    )
    note = "Bigger marks: more heads. " + "; ".join(
        f"{DASHES[index % len(DASHES)]} line: {name}" for index, name in enumerate(data)
    )
    figure = captioned(
        figure, "Rankings of heads, zeroed: bias against sorting power", run, height=160 + 330 * len(orders), note=note
    )
    return legend_below(figure, 74)


def _contest_trace(rows: pd.DataFrame, ranking: str, data: str, colour: int, dash: int) -> go.Scatter:
    """One ranking on one data set, by number of heads."""
    # Short names as `cumulative_effect` writes them, or long ones as in a table of changes.
    measures = [(m, e) for m in ("mean_logit_difference", "auc") for e in ("low", "high")]
    ends = [column(rows, f"{m}_{e}", f"{m}_change_{e}") for m, e in measures]
    shade = GREY if ranking == "random" else SERIES[colour % len(SERIES)]
    sizes = 7 + 3 * np.argsort(np.argsort(rows["k"].to_numpy(), kind="stable"))
    return go.Scatter(
        x=rows["mean_logit_difference_change"],
        y=rows["auc_change"],
        customdata=np.column_stack([rows["k"], *ends]),
        mode="lines+markers",
        name=ranking,
        legendgroup=ranking,
        line={"color": shade, "width": 1, "dash": DASHES[dash % len(DASHES)]},
        marker={
            "symbol": SYMBOLS[colour % len(SYMBOLS)],
            "size": sizes,
            "color": shade,
            "opacity": 1,
            "line": {"width": 0},
        },
        hovertemplate=f"{ranking}, %{{customdata[0]}} heads, {data}<br>bias %{{x:+.2f}} "
        "[%{customdata[1]:+.2f}, %{customdata[2]:+.2f}]<br>AUC %{y:+.3f} "
        "[%{customdata[3]:+.3f}, %{customdata[4]:+.3f}]<extra></extra>",
    )


def _head_scatter(
    x: Float[np.ndarray, "layer head"],
    y: Float[np.ndarray, "layer head"],
    marked: tuple[Head, ...],
    names: int,
    marked_as: str = "chosen",
) -> go.Figure:
    """Heads as points, hover "17.7"; marked heads in another colour and shape; outliers labelled if there is room."""
    labels = np.array([f"{layer}.{head}" for layer, head in np.ndindex(x.shape)])
    flat_x, flat_y = x.ravel(), y.ravel()
    is_marked = np.isin(labels, [str(head) for head in marked])
    named = _room_for_names(flat_x, flat_y, is_marked, names)
    figure = go.Figure()
    for some, name, colour, symbol in (
        (~is_marked, "heads", GREY, "circle"),
        (is_marked, marked_as, VERMILLION, "diamond"),
    ):
        if not some.any():
            continue
        figure.add_scatter(
            x=flat_x[some],
            y=flat_y[some],
            text=np.where(named, labels, "")[some],
            customdata=labels[some],
            mode="markers+text",
            textposition="top center",
            textfont={"size": 11},
            marker={"color": colour, "symbol": symbol, "size": 9 if symbol == "diamond" else 6, "opacity": 0.85},
            name=name,
            hovertemplate="%{customdata}: %{x:.2f}, %{y:.2f}<extra></extra>",
        )
    figure.update_layout(showlegend=bool(is_marked.any()), legend={"x": 0.01, "y": 0.99, "bordercolor": BLUE})
    return figure


def _room_for_names(
    x: Float[np.ndarray, " head"], y: Float[np.ndarray, " head"], first: Bool[np.ndarray, " head"], n: int
) -> Bool[np.ndarray, " head"]:
    """Which points get a label: marked ones, then the farthest out, unless the labels would overlap."""
    named = np.zeros(len(x), dtype=bool)
    if np.isnan(x).all() or np.isnan(y).all():
        return named
    spread = [(values - np.nanmedian(values)) / (np.nanmax(values) - np.nanmin(values) or 1.0) for values in (x, y)]
    far = np.nan_to_num(np.hypot(*spread), nan=-1.0) + 10 * first
    for point in np.argsort(-far)[: n + int(first.sum())]:
        across, up = (np.abs(values[named] - values[point]) for values in spread)
        if far[point] >= 0 and not ((across < 0.075) & (up < 0.05)).any() and named.sum() < max(n, int(first.sum())):
            named[point] = True
    return named
