"""Where a cure holds: methods and what they were fitted on, against what was asked."""

from collections.abc import Mapping
from typing import Any

import pandas as pd
import plotly.graph_objects as go

from ..run import RunInfo
from .theme import WIDTH, captioned, safe

PER_ROW, PER_COLUMN = 40, 92
# What a figure takes beside its columns: names, and the scale of colours.
BESIDE = 360


def transfer_heatmap(
    frame: pd.DataFrame, *, run: RunInfo | Mapping[str, Any] | str, title: str = "Where a cure holds"
) -> go.Figure:
    """One cell for each cure and each condition that was asked: how far from balance, and how many right.

    Args:
        frame: as `TransferMatrix.cells()` gives it: fitted_on, asked, method, imbalance_yes_no, imbalance_no_yes,
            imbalance (their mean by size), accuracy; runs, of which these are medians.
        run: where it came from.
        title: of the figure.
    """
    frame = frame.assign(name=[_name(row) for _, row in frame.iterrows()])
    names, asked = list(dict.fromkeys(frame["name"])), list(dict.fromkeys(frame["asked"]))
    cells = {(row["name"], row["asked"]): row for _, row in frame.iterrows()}
    grid = [[cells[n, a]["imbalance"] if (n, a) in cells else None for a in asked] for n in names]
    text = [[_told(cells[n, a]) if (n, a) in cells else "" for a in asked] for n in names]
    figure = go.Figure(
        go.Heatmap(
            z=grid,
            x=[safe(a) for a in asked],
            y=[safe(n) for n in names],
            text=text,
            texttemplate="%{text}",
            textfont={"size": 10},
            colorscale="Purples",
            zmin=0,
            zmax=0.5,
            colorbar={"title": {"text": "imbalance, by size", "side": "right"}},
            hovertemplate="%{y}<br>asked: %{x}<br>%{text}<extra></extra>",
        )
    )
    figure.update_yaxes(autorange="reversed", title=None)
    figure.update_xaxes(title="asked", side="bottom")
    note = "In a cell: imbalance with Yes first / with No first, and accuracy. Dark: far from balance."
    width = max(WIDTH, BESIDE + PER_COLUMN * len(asked))
    return captioned(figure, title, run, height=180 + PER_ROW * len(names), width=width, note=note)


def _name(row: Any) -> str:
    cure = row["method"] if row["runs"] == 1 else f"{row['method']} (median of {row['runs']})"
    return f"{cure}, on {row['fitted_on']}" if row["fitted_on"] else cure


def _told(row: Any) -> str:
    return f"{row['imbalance_yes_no']:+.2f} / {row['imbalance_no_yes']:+.2f}<br>{row['accuracy']:.2f} right"
