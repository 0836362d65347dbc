"""Decisions: where they fall, how one-sided they are, and how far to trust the model's probabilities."""

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots
from scipy.special import expit

from ..decisions import BinaryReport, Estimates
from ..measures import N_BINS
from .theme import GREY, NO, ORDER_NAMES, YES, captioned, describe, legend_below, safe

BEFORE, AFTER = "circle-open", "circle"


def decision_histogram(report: BinaryReport, after: BinaryReport | None = None, threshold: float = 0.0) -> go.Figure:
    """Where the decisions fall: logit(No) - logit(Yes) of the questions whose answer is yes and no, in each order.

    Left of the threshold the model answers Yes. Two separate heaps on one side of it mean that the model knows the
    answer and still says the same.

    Args:
        report: the decisions.
        after: decisions of a changed model, drawn below the others on the same scale.
        threshold: where Yes turns to No, in logits; 0 is the model's own.
    """
    sides = [("", report)] if after is None else [("before, ", report), ("after, ", after)]
    panels = [(f"{side}{ORDER_NAMES[o]}", decisions, o) for side, decisions in sides for o in decisions.orders]
    n = len(panels)
    figure = make_subplots(
        rows=n,
        cols=1,
        shared_xaxes=True,
        subplot_titles=[title for title, _, _ in panels],
        vertical_spacing=0.24 / n if n > 1 else 0.0,
    )
    edges = np.histogram_bin_edges(np.concatenate([[threshold], *(r.logit_differences for _, r in sides)]), bins=50)
    for row, (_, decisions, order) in enumerate(panels, start=1):
        _heaps(figure, decisions, order, edges, row)
        figure.add_vline(x=threshold, line={"dash": "dash", "width": 1.5}, row=row, col=1)  # type: ignore[arg-type]
        figure.update_yaxes(title="questions", row=row, col=1)
    figure.update_xaxes(title=f"logit(No) - logit(Yes)<br>(left of {threshold:g}: the model answers Yes)", row=n, col=1)
    figure.update_layout(barmode="overlay")
    caption = describe(report.run) if after is None else f"Before: {describe(report.run)}. After: {describe(after.run)}"
    return legend_below(captioned(figure, "Where the decisions fall", caption, height=130 + 180 * n), 50)


def _heaps(figure: go.Figure, report: BinaryReport, order: str, edges: np.ndarray, row: int) -> None:
    """The histograms of true yes and true no in one candidate order."""
    in_order = np.array(report.order) == order
    for is_yes, colour, pattern in ((True, YES, ""), (False, NO, "/")):
        figure.add_histogram(
            x=report.logit_differences[in_order & (report.label == is_yes)],
            xbins={"start": edges[0], "end": edges[-1] + 1e-9, "size": edges[1] - edges[0]},
            marker={"color": colour, "pattern": {"shape": pattern, "fillmode": "overlay", "size": 6}},
            opacity=0.85,
            name=f"the answer is {'yes' if is_yes else 'no'}",
            legendgroup=str(is_yes),
            showlegend=row == 1,
            hovertemplate="%{x}: %{y} questions<extra></extra>",
            row=row,
            col=1,
        )


def precision_recall(report: BinaryReport, after: BinaryReport | None = None) -> go.Figure:
    """Precision and recall of the answer Yes, overall, in each order and for each group.

    Args:
        report: the decisions.
        after: decisions of a changed model; then open marks are before, filled ones after.
    """
    figure = go.Figure()
    sides = [("", report, AFTER)] if after is None else [("before", report, BEFORE), ("after", after, AFTER)]
    for side, decisions, symbol in sides:
        for name, colour, shift in (("precision", YES, -0.14), ("recall", NO, 0.14)):
            figure.add_trace(_dots(decisions, name, f"{name} {side}".strip(), colour, symbol, shift, side != "before"))
    parts = list(report.parts)
    figure.update_xaxes(title="precision, recall (intervals: 95%)", range=[-0.03, 1.03])
    figure.update_yaxes(
        title="questions",
        tickvals=list(range(len(parts))),
        ticktext=[safe(ORDER_NAMES.get(part.removeprefix("order "), part)) for part in parts],
        range=[len(parts) - 0.5, -0.5],
        showgrid=False,
        zeroline=False,
    )
    caption = describe(report.run) if after is None else f"Before: {describe(report.run)}. After: {describe(after.run)}"
    note = "Where the model never says Yes precision is undefined"
    title = "Precision and recall of the answer Yes"
    return legend_below(captioned(figure, title, caption, height=130 + 34 * len(parts), note=note), 50)


def _dots(
    report: BinaryReport, measure: str, label: str, colour: str, symbol: str, shift: float, bars: bool
) -> go.Scatter:
    """One measure in every part of a report, a little above or below the part's line."""
    parts: list[Estimates] = list(report.parts.values())
    sides = (parts, [e.low for e in parts], [e.high for e in parts])
    value, low, high = (np.array([getattr(e, measure) for e in side]) for side in sides)
    ends = {"type": "data", "symmetric": False, "array": high - value, "arrayminus": value - low, "thickness": 1.2}
    return go.Scatter(
        x=value,
        y=np.arange(len(parts)) + shift,
        customdata=np.column_stack([[safe(name) for name in report.parts], low, high]),
        mode="markers",
        name=label,
        marker={"color": colour, "symbol": symbol, "size": 9},
        error_x=ends if bars else None,
        hovertemplate=f"%{{customdata[0]}}: {label} %{{x:.2f}} "
        "[%{customdata[1]:.2f}, %{customdata[2]:.2f}]<extra></extra>",
    )


def calibration_bins(report: BinaryReport) -> pd.DataFrame:
    """P(yes) = sigmoid(-d) in 15 equal bins: count, mean probability and rate of true yes; empty bins are left out.

    The mean over decisions of |probability - rate| is the report's ECE.
    """
    p = expit(-report.logit_differences.astype(np.float64))
    rows = pd.DataFrame({"bin": np.minimum((p * N_BINS).astype(int), N_BINS - 1), "p": p, "yes": report.label})
    bins = rows.groupby("bin").agg(n=("p", "size"), probability=("p", "mean"), rate=("yes", "mean"))
    return bins.reset_index()


def calibration_curve(report: BinaryReport, after: BinaryReport | None = None) -> go.Figure:
    """How often yes is right at each probability that the model gives it; on the diagonal the model is well calibrated.

    Args:
        report: the decisions.
        after: decisions of a changed model.
    """
    figure = make_subplots(rows=2, cols=1, shared_xaxes=True, row_heights=[0.74, 0.26], vertical_spacing=0.06)
    figure.add_scatter(
        **{"x": [0, 1], "y": [0, 1], "row": 1, "col": 1},
        mode="lines",
        line={"dash": "dot", "color": GREY},
        name="as often as it says",
        hoverinfo="skip",
    )
    sides = [("decisions", report, YES)] if after is None else [("before", report, GREY), ("after", after, NO)]
    for name, decisions, colour in sides:
        bins = calibration_bins(decisions)
        figure.add_scatter(
            **{"x": bins["probability"], "y": bins["rate"], "row": 1, "col": 1},
            customdata=bins["n"],
            mode="lines+markers",
            line={"color": colour, "dash": "dash" if name == "before" else "solid"},
            marker={"symbol": "square" if name == "before" else "circle"},
            name=f"{name}, ECE {decisions.ece:.2f}",
            hovertemplate="said %{x:.2f}, true %{y:.2f}, %{customdata} decisions<extra></extra>",
        )
        figure.add_bar(
            **{"x": (bins["bin"] + 0.5) / N_BINS, "y": bins["n"], "row": 2, "col": 1},
            marker={"color": colour},
            name=name,
            showlegend=False,
            hovertemplate="%{y} decisions<extra></extra>",
        )
    figure.update_xaxes(range=[-0.02, 1.02])
    figure.update_xaxes(title="P(yes) = sigmoid(logit(Yes) - logit(No))", row=2, col=1)
    figure.update_yaxes(title="rate of true yes", range=[-0.04, 1.04], row=1, col=1)
    figure.update_yaxes(title="decisions", row=2, col=1)
    caption = describe(report.run) if after is None else f"Before: {describe(report.run)}. After: {describe(after.run)}"
    return legend_below(captioned(figure, "Calibration of P(yes), 15 bins", caption, height=480), 50)
