"""Results to plotly figures. Knows results, not models; computes nothing that a result doesn't hold.

Each function returns a `plotly.graph_objects.Figure`; nothing is shown or written unasked.
"""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from .decisions import BinaryReport
from .heads import HeadList
from .run import write_text
from .scoring import HeadScores

# Okabe and Ito's colours: told apart by colour-blind readers and in grey print.
YES, NO, MARK = "#0072B2", "#D55E00", "#000000"
DIVERGING = [[0.0, "#0072B2"], [0.5, "#F7F7F7"], [1.0, "#D55E00"]]
_TITLES = {
    "values": "NAS in the order Yes, No",
    "polarity": "polarity: attention to No wherever it stands",
    "order": "order: attention to the later candidate",
}


def head_heatmap(scores: HeadScores, by: str = "values", heads: HeadList | Iterable[Any] | None = None) -> go.Figure:
    """Every head as one cell: layers down, heads across, colours centred at 0, heads that were not measured blank.

    Args:
        scores: what `score_heads` returned.
        by: "values", "polarity" or "order".
        heads: heads to outline.
    """
    grid = scores.get(by)
    low, high = scores.intervals[by]
    n_layers, n_heads = grid.shape
    names = [[f"{layer}.{head}" for head in range(n_heads)] for layer in range(n_layers)]
    reach = float(np.nanmax(np.abs(grid))) if not np.isnan(grid).all() else 1.0
    figure = go.Figure(
        go.Heatmap(
            z=grid,
            zmid=0,
            zmin=-reach,
            zmax=reach,
            colorscale=DIVERGING,
            customdata=np.dstack([np.array(names, dtype=object), low, high]),
            hovertemplate="%{customdata[0]}: %{z:.3f} [%{customdata[1]:.3f}, %{customdata[2]:.3f}]<extra></extra>",
            hoverongaps=False,
            colorbar={"title": {"text": f"{scores.quantity}<br>({scores.unit.replace(', ', ',<br>')})"}},
        )
    )
    for head in HeadList.of(heads or ()).check(n_layers, n_heads):
        x, y = head.index, head.layer
        figure.add_shape(type="rect", x0=x - 0.5, x1=x + 0.5, y0=y - 0.5, y1=y + 0.5, line={"color": MARK, "width": 2})
    figure.update_xaxes(title="head", dtick=max(1, n_heads // 16), showgrid=False, zeroline=False)
    figure.update_yaxes(
        title="layer", autorange="reversed", dtick=max(1, n_layers // 15), showgrid=False, zeroline=False
    )
    figure.update_layout(height=max(360, 110 + 17 * n_layers), width=640)
    return _captioned(figure, f"{scores.quantity} by head, {_TITLES[by]}", scores.run.summary())


def decision_histogram(report: BinaryReport) -> go.Figure:
    """Where the decisions fall: logit(No) - logit(Yes) of the questions whose answer is yes and no, in each order.

    Left of the line at 0 the model answers Yes. Two heaps that lie apart on one side of it mean: it knows, and says
    No all the same.
    """
    orders = list(report.orders)
    titles = [f"order {'Yes, No' if o == 'yes_no' else 'No, Yes'}" for o in orders]
    figure = make_subplots(rows=len(orders), cols=1, shared_xaxes=True, subplot_titles=titles, vertical_spacing=0.12)
    d, label = report.logit_differences, report.label
    in_order = np.array(report.order)
    edges = np.histogram_bin_edges(np.append(d, 0.0), bins=50)
    for row, order in enumerate(orders, start=1):
        for is_yes, colour in ((True, YES), (False, NO)):
            figure.add_histogram(
                x=d[(in_order == order) & (label == is_yes)],
                xbins={"start": edges[0], "end": edges[-1] + 1e-9, "size": edges[1] - edges[0]},
                marker_color=colour,
                opacity=0.6,
                name=f"the answer is {'yes' if is_yes else 'no'}",
                legendgroup=str(is_yes),
                showlegend=row == 1,
                hovertemplate="%{x}: %{y} questions<extra></extra>",
                row=row,
                col=1,
            )
        figure.add_vline(x=0, line_dash="dash", line_color=MARK, row=row, col=1)  # type: ignore[arg-type]
        figure.update_yaxes(title="questions", row=row, col=1)
    figure.update_xaxes(title="logit(No) - logit(Yes); the model answers Yes left of 0", row=len(orders), col=1)
    figure.update_layout(barmode="overlay", height=170 + 210 * len(orders), width=760)
    figure.update_layout(legend={"orientation": "h", "x": 0, "y": -0.16, "yanchor": "top"})
    return _captioned(figure, "Decisions", report.run.summary())


def save_figure(figure: go.Figure, path: str | Path) -> Path:
    """Writes a figure as one HTML page that opens offline."""
    return write_text(path, figure.to_html(include_plotlyjs=True, full_html=True))


def _captioned(figure: go.Figure, title: str, caption: str) -> go.Figure:
    return figure.update_layout(
        title={"text": title, "subtitle": {"text": caption, "font": {"size": 11}}},
        template="plotly_white",
        font={"size": 13},
        margin={"l": 70, "r": 20, "t": 90, "b": 60},
    )
