"""Heat maps: one cell a head, or a head at a position."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import plotly.graph_objects as go
from jaxtyping import Float

from ..errors import ResultError
from ..head_table import HeadTable
from ..heads import HeadList
from ..run import RunInfo
from .theme import captioned, safe, wrapped

TITLES = {
    "values": "in the order Yes, No",
    "polarity": "polarity: attention to No (below 0: to Yes) wherever it stands",
    "recency": "recency: attention to the later candidate",
}


def head_heatmap(
    table: HeadTable | Float[np.ndarray, "layer head"],
    by: str = "values",
    heads: HeadList | Iterable[Any] | None = None,
    *,
    intervals: Float[np.ndarray, "2 layer head"] | None = None,
    title: str | None = None,
    unit: str | None = None,
    run: RunInfo | Mapping[str, Any] | str | None = None,
) -> go.Figure:
    """Every head as one cell: layers down, heads across, colours centred at 0, unmeasured heads blank.

    Args:
        table: what `score_heads`, `sweep_heads`, `estimate_zero_ablation`, ... returned, or a bare grid, [layer, head].
        by: a column of the table; of scores "values", "polarity" or "recency".
        heads: heads to outline.
        intervals: of a bare grid: low and high ends, for the hover.
        title, unit: of a bare grid: what it shows, and in which unit; a table knows both.
        run: of a bare grid: where it came from, or a line with model, data and number of prompts.

    Raises:
        ResultError: for a bare grid without title, unit or run.
        HeadError: for a column that the table lacks, or an outlined head outside the grid.
    """
    if isinstance(table, HeadTable):
        grid, ends = table.get(by), table.intervals[by]
        title = title or f"{table.quantity} by head{_words(table, by)}"
        unit, run = unit or f"{table.quantity} ({table.unit})", run or table.run
    elif title and unit and run:
        grid, ends = table, intervals
    else:
        raise ResultError("a bare grid doesn't say what it shows; give title=, unit= and run= with it")
    n_layers, n_heads = grid.shape
    names = np.array([[f"{layer}.{head}" for head in range(n_heads)] for layer in range(n_layers)], dtype=object)
    height = max(300, 70 + 17 * n_layers)
    figure = go.Figure(_heat(grid, names, ends, unit, height))
    for head in HeadList.of(heads or ()).check(n_layers, n_heads):
        _outline(figure, head.index, head.layer)
    figure.update_xaxes(title="head", dtick=max(1, n_heads // 12), range=[-0.5, n_heads - 0.5])
    figure.update_yaxes(title="layer", autorange="reversed", dtick=max(1, n_layers // 15))
    figure.update_xaxes(showgrid=False, zeroline=False).update_yaxes(showgrid=False, zeroline=False)
    return captioned(figure, title, run, height=height, width=640)


def patch_heatmap(
    grid: Float[np.ndarray, "row column"],
    rows: Sequence[object] | None = None,
    columns: Sequence[object] | None = None,
    *,
    title: str,
    unit: str,
    run: RunInfo | Mapping[str, Any] | str,
    heads: HeadList | Iterable[Any] | None = None,
) -> go.Figure:
    """The effect of patching, by head, or by head and position.

    Args:
        grid: [layer, head]; with labels, [head, position].
        rows, columns: labels of rows (heads) and columns (positions or position classes); both or neither.
        title, unit: what is shown, and in which unit.
        run: where it came from.
        heads: of a grid by head: heads to outline.

    Raises:
        ResultError: where the number of labels differs from that of rows or columns.
    """
    if rows is None and columns is None:
        return head_heatmap(grid, heads=heads, title=title, unit=unit, run=run)
    if (len(rows or ()), len(columns or ())) != grid.shape:
        raise ResultError(
            f"{len(rows or ())} rows and {len(columns or ())} columns are named in a grid of {grid.shape}; "
            f"name each once"
        )
    names = np.array([[safe(f"{row}, {column}") for column in columns or ()] for row in rows or ()], dtype=object)
    height = max(260, 130 + 20 * len(grid))
    figure = go.Figure(_heat(grid, names, None, unit, height))
    for axis, title_of, labels in ((figure.update_xaxes, "position", columns), (figure.update_yaxes, "head", rows)):
        # Numbers as tick values, so that two tokens with the same text keep a row each.
        ticks = {"tickvals": list(range(len(labels or ()))), "ticktext": [safe(label) for label in labels or ()]}
        axis(title=title_of, showgrid=False, zeroline=False, **ticks)
    figure.update_yaxes(autorange="reversed")
    return captioned(figure, title, run, height=height)


def _words(table: HeadTable, by: str) -> str:
    """What the title says about a column; a table's only column needs no words."""
    if by == "values" and "polarity" not in table.columns:
        return ""
    return f", {TITLES.get(by, by)}"


def _heat(
    grid: Float[np.ndarray, "row column"],
    names: Any,
    ends: Float[np.ndarray, "2 row column"] | None,
    unit: str,
    height: int,
) -> go.Heatmap:
    """The cells, centred at 0, with names and intervals for the hover."""
    reach = float(np.nanmax(np.abs(grid))) if not np.isnan(grid).all() else 1.0
    shown = "%{customdata[0]}: %{z:.3f}"
    return go.Heatmap(
        z=grid,
        zmid=0,
        zmin=-(reach or 1.0),
        zmax=reach or 1.0,
        customdata=np.dstack([names]) if ends is None else np.dstack([names, *ends]),
        hovertemplate=f"{shown}<extra></extra>"
        if ends is None
        else f"{shown} [%{{customdata[1]:.3f}}, %{{customdata[2]:.3f}}]<extra></extra>",
        hoverongaps=False,
        # Along the bar, wrapped to its height.
        colorbar={"title": {"text": wrapped(unit, (height - 80) // 8), "side": "right"}},
    )


def _outline(figure: go.Figure, x: int, y: int) -> None:
    """A frame around a cell, in the template's own colour for lines."""
    figure.add_shape(type="rect", x0=x - 0.5, x1=x + 0.5, y0=y - 0.5, y1=y + 0.5, line={"width": 2})
