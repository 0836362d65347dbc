"""Data sets against forms, and how soon the leading heads settle."""

from collections.abc import Mapping
from typing import Any

import pandas as pd
import plotly.graph_objects as go

from ..errors import ResultError
from ..run import RunInfo
from .theme import WIDTH, captioned, safe

SHOWN: dict[str, tuple[str, str, float, float]] = {
    "imbalance": ("imbalance", "RdBu_r", -0.5, 0.5),
    "meaning_imbalance": ("imbalance of the meaning", "RdBu_r", -0.5, 0.5),
    "auc": ("AUC", "PuOr", 0.0, 1.0),
    "answer_mass": ("answer mass", "Purples", 0.0, 1.0),
    "shared": ("leading heads shared", "Purples", 0.0, 10.0),
}
"""What a matrix's figure can show: its name, its colours, and where they end."""

# Pixels that a number with its star takes, and that the names beside take.
PER_FORM, BESIDE = 62, 340


def form_matrix_heatmap(
    frame: pd.DataFrame, value: str = "imbalance", *, run: RunInfo | Mapping[str, Any] | str, title: str | None = None
) -> go.Figure:
    """One cell for each data set and form.

    Args:
        frame: as `FormMatrix.table`; rows of parts by knowledge are left out.
        value: a key of `SHOWN`.
        run: where it came from.
        title: of the figure.

    Raises:
        ResultError: a value that can't be shown.
    """
    if value not in SHOWN:
        raise ResultError(f"a matrix can't be drawn by {value!r}; take one of {', '.join(SHOWN)}")
    name, colours, low, high = SHOWN[value]
    cells = {(row["data"], row["form"]): row for _, row in frame[frame["known"] == "all"].iterrows()}
    data, forms = (list(dict.fromkeys(str(key[side]) for key in cells)) for side in (0, 1))
    grid = [[cells[d, f].get(value) if (d, f) in cells else None for f in forms] for d in data]
    most = int(frame.loc[frame["known"] == "all", "n"].max())
    text = [[_told(cells[d, f], value, most) if (d, f) in cells else "" for f in forms] for d in data]
    figure = go.Figure(
        go.Heatmap(
            z=grid,
            x=[safe(form) for form in forms],
            y=[safe(_short(each)) for each in data],
            text=text,
            texttemplate="%{text}",
            textfont={"size": 11},
            colorscale=colours,
            zmin=low,
            zmax=high,
            colorbar={"title": name},
            hovertemplate="%{y}<br>%{x}<br>%{text}<extra></extra>",
        )
    )
    figure.update_yaxes(autorange="reversed", title=None)
    figure.update_xaxes(title="form", side="bottom")
    note = {
        "imbalance": "Above 0: No is said too often. A star: the model sorts right from wrong no better than chance.",
        "shared": f"Of ten; by chance {frame['expected'].mean():.1f}." if "expected" in frame else "Of ten.",
    }.get(value, "")
    note = f"{most} questions a cell, or as many as it says. {note}".strip()
    width = max(WIDTH, BESIDE + PER_FORM * len(forms))
    return captioned(
        figure, title or f"Data and forms: {name}", run, height=220 + 44 * len(data), width=width, note=note
    )


def settling_curve(
    frame: pd.DataFrame, *, run: RunInfo | Mapping[str, Any] | str, title: str = "How soon the leading heads settle"
) -> go.Figure:
    """How many leading heads two draws of so many questions share, with chance.

    Args:
        frame: as `ni.survey.settling` gives it; a column `name` parts it into several lines.
        run: where it came from.
        title: of the figure.
    """
    figure = go.Figure()
    named = frame if "name" in frame else frame.assign(name="shared heads")
    for name, rows in named.groupby("name", sort=False):
        ends = {"array": rows["high"] - rows["shared"], "arrayminus": rows["shared"] - rows["low"], "symmetric": False}
        figure.add_scatter(x=rows["n"], y=rows["shared"], error_y=ends, mode="lines+markers", name=safe(str(name)))
    figure.add_hline(y=float(frame["chance"].iloc[0]), line_dash="dot", annotation_text="chance")
    figure.update_xaxes(title="questions in each of two draws", type="log", tickvals=sorted(set(frame["n"])))
    figure.update_yaxes(title=f"shared of {int(frame['k'].iloc[0])}", rangemode="tozero")
    return captioned(figure, title, run, height=420, note="Bars: 95% of the draws.")


def _told(row: Any, value: str, most: int) -> str:
    """The number, with a star where the model doesn't sort and an n where fewer were asked; a dash without a number."""
    number = row.get(value)
    if number is None or number != number:
        return "–"
    shown = f"{number:.0f}" if value == "shared" else f"{number:+.2f}" if "imbalance" in value else f"{number:.2f}"
    blind = value == "imbalance" and not row["auc_low"] > 0.5
    return shown + ("*" if blind else "") + (f"<br>n={int(row['n'])}" if row["n"] < most else "")


def _short(data: str) -> str:
    """A data specification without the folders of its path."""
    source, colon, path = data.partition(":")
    return f"{source}{colon}{path.rpartition('/')[2]}" if "/" in path else data
