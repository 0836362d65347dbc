"""Measures against a setting: number of ablated heads, steps of an alignment, or any other knob."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from ..errors import ResultError
from ..run import RunInfo
from .theme import BLUE, GREEN, GREY, SERIES, SYMBOLS, VERMILLION, band, captioned, column, legend_below, safe

NAMES = {
    "mean_logit_difference": "mean logit(No)<br>- logit(Yes)",
    "auc": "AUC",
    "imbalance": "imbalance",
    "accuracy": "accuracy",
    "perplexity_ratio": "perplexity,<br>after / before",
}
STEP_MEASURES = ("imbalance", "auc", "accuracy", "perplexity_ratio")
PER_MEASURE = 190


def ablation_curve(
    frame: pd.DataFrame,
    random: Sequence[pd.DataFrame] = (),
    *,
    run: RunInfo | Mapping[str, Any] | str,
    measures: Sequence[str] = ("mean_logit_difference", "auc"),
) -> go.Figure:
    """What ablating the first k heads of a ranking does, beside random sets of as many heads.

    Args:
        frame: what `cumulative_effect` returned: k, and for each measure _change, _low and _high.
        random: the same for random sets, one frame per set; drawn as their mean and range.
        run: where it came from.
        measures: which to draw, one panel each.
    """
    figure = _panels(len(measures))
    for row, name in enumerate(measures, start=1):
        _random_band(figure, random, name, row)
        low, high = frame[f"{name}_low"], frame[f"{name}_high"]
        first = row == 1
        area = band(frame["k"], low, high, VERMILLION, name="ranked heads, interval", showlegend=first, legendgroup="i")
        figure.add_trace(area, row=row, col=1)
        figure.add_scatter(
            **{"x": frame["k"], "y": frame[f"{name}_change"], "row": row, "col": 1},
            customdata=np.column_stack([low, high]),
            mode="lines+markers",
            line={"color": VERMILLION},
            name="ranked heads",
            showlegend=first,
            legendgroup="r",
            hovertemplate="%{x} heads: %{y:+.3f} [%{customdata[0]:+.3f}, %{customdata[1]:+.3f}]<extra></extra>",
        )
        figure.update_yaxes(title=f"change of<br>{NAMES.get(name, safe(name))}", row=row, col=1)
    figure.update_xaxes(title="heads ablated", row=len(measures), col=1)
    title = "Ablating the first heads of a ranking" + (f", beside {len(random)} random sets" if len(random) else "")
    figure = captioned(figure, title, run, height=140 + PER_MEASURE * len(measures))
    return legend_below(figure)


def _random_band(figure: go.Figure, random: Sequence[pd.DataFrame], name: str, row: int) -> None:
    if not len(random):
        return
    sets: Any = pd.concat(random).groupby("k")[f"{name}_change"]
    lowest, mean, highest = sets.min(), sets.mean(), sets.max()
    k, first = list(mean.index), row == 1
    area = band(k, lowest, highest, GREY, name="random sets, reach", showlegend=first, legendgroup="reach")
    figure.add_trace(area, row=row, col=1)
    figure.add_scatter(
        **{"x": k, "y": mean, "row": row, "col": 1},
        mode="lines+markers",
        line={"color": GREY, "dash": "dash"},
        marker={"symbol": "square"},
        name="random sets, mean",
        showlegend=first,
        legendgroup="mean",
        hovertemplate="%{x} random heads: %{y:+.3f}<extra></extra>",
    )


def alignment_log(frame: pd.DataFrame, *, run: RunInfo | Mapping[str, Any] | str) -> go.Figure:
    """What each step of an alignment brought and cost, head by head, accepted or rolled back.

    Args:
        frame: one row per step with `head` and, where known, `accepted`, `steps`, and for each measure `_before` and
            `_after`, or the measure alone. Each measure in the frame gets a panel.
        run: where it came from.

    Raises:
        ResultError: where the frame holds no measure.
    """
    known = [m for m in STEP_MEASURES if {m, f"{m}_after"} & set(frame.columns)]
    if not known:
        raise ResultError(
            f"nothing to draw among the columns {', '.join(map(str, frame.columns))}; give what "
            f"cumulative_effect returns"
        )
    x = np.arange(1, len(frame) + 1)
    heads = [safe(head) for head in frame["head"]] if "head" in frame else [f"step {step}" for step in x]
    accepted = frame["accepted"].astype(bool).to_numpy() if "accepted" in frame else np.ones(len(frame), dtype=bool)
    figure = _panels(len(known))
    for row, name in enumerate(known, start=1):
        before, after = column(frame, f"{name}_before"), column(frame, f"{name}_after", name)
        more = {"row": row, "col": 1, "x": x, "showlegend": row == 1}
        figure.add_scatter(
            y=before, mode="markers", name="before", marker={"symbol": "circle-open", "color": GREY, "size": 9}, **more
        )
        for some, label, colour, symbol in (
            (accepted, "after, accepted", GREEN, "circle"),
            (~accepted, "after, rolled back", VERMILLION, "x"),
        ):
            figure.add_scatter(
                y=np.where(some, after, np.nan),
                mode="markers",
                name=label,
                marker={"symbol": symbol, "color": colour, "size": 9},
                customdata=np.column_stack([heads, before, column(frame, "steps")]),
                hovertemplate="%{customdata[0]}: %{customdata[1]:.3f} to %{y:.3f}, "
                "%{customdata[2]} steps<extra></extra>",
                **more,
            )
        figure.update_yaxes(title=NAMES[name], row=row, col=1)
    figure.update_xaxes(tickvals=x, ticktext=[_ticked(head) for head in heads], range=[0.5, len(frame) + 0.5])
    figure.update_xaxes(title="head, in the order of the steps", row=len(known), col=1)
    figure = captioned(figure, "Alignment, head by head", run, height=140 + PER_MEASURE * len(known))
    return legend_below(figure)


def cost_curves(
    frame: pd.DataFrame,
    knob: str,
    measures: Sequence[str],
    *,
    run: RunInfo | Mapping[str, Any] | str,
    by: str | None = None,
    title: str | None = None,
) -> go.Figure:
    """Measures against a knob, one panel per measure: what turning it up brings, and what it costs.

    Args:
        frame: one row per setting; a measure's `_low` and `_high`, where present, are drawn as its interval.
        knob: the column along x.
        measures: columns to draw.
        run: where it came from.
        by: a column that tells several curves apart.
        title: replaces the one made from the names.
    """
    kinds = list(dict.fromkeys(frame[by])) if by else [""]
    figure = _panels(len(measures))
    for row, name in enumerate(measures, start=1):
        for index, kind in enumerate(kinds):
            rows: Any = frame[frame[by] == kind] if by else frame
            rows = rows.sort_values(knob)
            colour = SERIES[index % len(SERIES)] if by else BLUE
            if {f"{name}_low", f"{name}_high"} <= set(rows.columns):
                area = band(rows[knob], rows[f"{name}_low"], rows[f"{name}_high"], colour, showlegend=False)
                figure.add_trace(area, row=row, col=1)
            figure.add_scatter(
                **{"x": rows[knob], "y": rows[name], "row": row, "col": 1},
                mode="lines+markers",
                name=safe(kind),
                line={"color": colour},
                marker={"symbol": SYMBOLS[index % len(SYMBOLS)]},
                showlegend=row == 1 and by is not None,
                legendgroup=str(index),
                hovertemplate=f"{safe(kind)} %{{x}}: %{{y:.3f}}<extra></extra>",
            )
        figure.update_yaxes(title=NAMES.get(name, safe(name)), row=row, col=1)
    figure.update_xaxes(title=safe(knob.replace("_", " ")), row=len(measures), col=1)
    shown = [NAMES.get(name, name.replace("_", " ")).replace("<br>", " ") for name in measures]
    title = title or f"{', '.join(shown)} against {knob.replace('_', ' ')}"
    figure = captioned(figure, title, run, height=140 + PER_MEASURE * len(measures))
    return legend_below(figure) if by else figure


def _ticked(heads: str) -> str:
    """Heads tuned together, as a count where their names would be too long; hovering shows the names."""
    return heads if heads.count(" ") < 3 else f"{heads.count(' ') + 1} heads"


def _panels(n: int) -> go.Figure:
    return make_subplots(rows=n, cols=1, shared_xaxes=True, vertical_spacing=0.24 / n if n > 1 else 0.0)
