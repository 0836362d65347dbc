"""Methods against a bias side by side: what each gained and cost, on the same questions."""

from collections import Counter
from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from ..run import RunInfo
from .theme import BLUE, GREY, ORDER_NAMES, VERMILLION, captioned, column, legend_below, safe

# Panels from left to right; the two orders share the first.
PANELS = {"imbalance": "imbalance", "accuracy": "accuracy", "auc_within_orders": "AUC within<br>an order"}
PER_METHOD = 34
# A method's row is 1 high. APART: the distance between its runs. ORDERS_APART: from a run's middle to each order.
APART, ORDERS_APART = 0.4, 0.1


def method_comparison(
    frame: pd.DataFrame, *, run: RunInfo | Mapping[str, Any] | str, title: str = "NASA beside its baselines"
) -> go.Figure:
    """Every run of every method, with its interval: imbalance in each candidate order, accuracy, and AUC.

    Args:
        frame: as `Comparison.to_dataframe()` gives it: method, variant, imbalance_yes_no, imbalance_no_yes, accuracy,
            auc_within_orders, each with _low and _high. The base model is the method "base"; it is drawn as a line.
        run: where it came from.
        title: of the figure.
    """
    runs = Counter(str(name) for name in frame["method"])
    methods = list(runs)
    frame = frame.sort_values("method", key=lambda names: names.astype(str).map(methods.index), kind="stable")
    orders = [order for order in ORDER_NAMES if f"imbalance_{order}" in frame]
    figure = make_subplots(rows=1, cols=len(PANELS), shared_yaxes=True, horizontal_spacing=0.04)
    middles, heights = _heights(runs)
    for order, colour, symbol, shift in zip(orders, (BLUE, VERMILLION), ("circle", "square"), (-1, 1), strict=False):
        at = heights + (shift * ORDERS_APART if len(orders) > 1 else 0)
        trace = _points(frame, f"imbalance_{order}", at, colour, symbol)
        figure.add_trace(trace.update(name=f"imbalance, {ORDER_NAMES[order]}", showlegend=True), row=1, col=1)
    for panel, name in enumerate(PANELS, start=1):
        if name in frame:
            figure.add_trace(_points(frame, name, heights, BLUE, "circle"), row=1, col=panel)
            _base_line(figure, frame, name, panel)
        figure.update_xaxes(title=PANELS[name], row=1, col=panel)
    figure.add_vline(x=0, line={"color": GREY, "width": 1}, row=1, col=1)  # type: ignore[arg-type]
    names = [f"{safe(name)} ({n})" if n > 1 else safe(name) for name, n in runs.items()]
    end = heights[-1] + 0.5
    figure.update_yaxes(tickvals=middles, ticktext=names, range=[end, -0.5], zeroline=False)
    # Three panels must fit side by side in a narrow window too.
    figure.update_yaxes(title="method", col=1)
    figure.update_xaxes(nticks=4, tickangle=0, tickfont={"size": 11}, title={"font": {"size": 12}})
    note = "Bars: 95% intervals over questions. Several runs of a method (seeds, sets) one above the other."
    if "base" in methods:
        note += " Dashed: the model as it is."
    height = int(150 + PER_METHOD * (end + 0.5))
    return legend_below(captioned(figure, title, run, height=height, note=note))


def _heights(runs: Mapping[str, int]) -> tuple[np.ndarray, np.ndarray]:
    """The height of each method's name, and of each of its runs, in the order of the methods."""
    top, middles, heights = 0.0, [], []
    for n in runs.values():
        own = top + APART * np.arange(n)
        middles.append(own.mean())
        heights.append(own)
        top = own[-1] + 1
    return np.array(middles), np.concatenate(heights)


def _points(frame: pd.DataFrame, name: str, heights: np.ndarray, colour: str, symbol: str) -> go.Scatter:
    value, low, high = (column(frame, f"{name}{end}") for end in ("", "_low", "_high"))
    variants = frame["variant"] if "variant" in frame else [""] * len(frame)
    labels = [safe(f"{m} {v}".strip()) for m, v in zip(frame["method"], variants, strict=True)]
    return go.Scatter(
        x=value,
        y=heights,
        error_x={"array": high - value, "arrayminus": value - low, "width": 0, "thickness": 1.2, "color": colour},
        customdata=np.column_stack([np.array(labels, dtype=object), low, high]),
        mode="markers",
        marker={"color": colour, "symbol": symbol, "size": 7},
        showlegend=False,
        hovertemplate="%{customdata[0]}<br>%{x:.3f} [%{customdata[1]:.3f}, %{customdata[2]:.3f}]<extra></extra>",
    )


def _base_line(figure: go.Figure, frame: pd.DataFrame, name: str, panel: int) -> None:
    base = column(frame, name)[(frame["method"] == "base").to_numpy()]
    if len(base) and np.isfinite(base[0]):
        figure.add_vline(x=float(base[0]), line={"color": GREY, "width": 1, "dash": "dash"}, row=1, col=panel)  # type: ignore[arg-type]
