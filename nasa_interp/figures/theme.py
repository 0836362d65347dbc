"""One look for all figures: colours, a light and a dark template, and titles that say what was measured on what."""

import html
import textwrap
from collections.abc import Mapping
from typing import Any, Literal

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from jaxtyping import Float

from ..run import RunInfo

# Okabe and Ito's colours: distinct for colour-blind readers and in grey print.
BLUE, VERMILLION, GREEN, PURPLE, ORANGE, SKY = "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9"
GREY = "#808080"
YES, NO = BLUE, VERMILLION
SERIES = (BLUE, VERMILLION, GREEN, PURPLE, ORANGE, SKY, "#999933")
# A second mark besides the colour, for grey print.
SYMBOLS = ("circle", "square", "diamond", "triangle-up", "x", "cross", "star", "triangle-down", "pentagon")
DASHES = ("solid", "dash", "dot", "dashdot", "longdash")

ORDER_NAMES = {"yes_no": "order Yes, No", "no_yes": "order No, Yes"}

WIDTH = 760
TITLE_WRAP, CAPTION_WRAP = 78, 112
Theme = Literal["light", "dark"]
PAPER: dict[Theme, str] = {"light": "#ffffff", "dark": "#16181d"}


def _template(paper: str, text: str, grid: str, line: str, low: str, middle: str, high: str) -> go.layout.Template:
    axis = {"gridcolor": grid, "linecolor": line, "zerolinecolor": line, "tickcolor": line, "automargin": True}
    layout = {
        "paper_bgcolor": paper,
        "plot_bgcolor": paper,
        "font": {"color": text, "size": 13, "family": "system-ui, 'Segoe UI', Helvetica, Arial, sans-serif"},
        "title": {"font": {"size": 17, "color": text}, "subtitle": {"font": {"size": 12, "color": text}}},
        "xaxis": {**axis, "title": {"standoff": 8}},
        "yaxis": {**axis, "title": {"standoff": 8}},
        "legend": {"bgcolor": "rgba(0,0,0,0)"},
        "hoverlabel": {"bgcolor": paper, "bordercolor": text, "font": {"color": text}, "align": "left"},
        "shapedefaults": {"line": {"color": text}},
        "annotationdefaults": {"font": {"color": text}},
    }
    heat = {
        "colorscale": [[0.0, low], [0.5, middle], [1.0, high]],
        "colorbar": {"outlinewidth": 0, "tickcolor": line, "thickness": 14},
    }
    return go.layout.Template(layout=layout, data={"heatmap": [heat]})


# Heat maps leave their colours to the template, so that the middle of the scale is the paper's own shade.
TEMPLATES: dict[Theme, go.layout.Template] = {
    "light": _template(PAPER["light"], "#1f2328", "#e3e6ea", "#8a9099", BLUE, "#f4f4f4", VERMILLION),
    "dark": _template(PAPER["dark"], "#e6e8eb", "#2f343c", "#7d8590", SKY, "#22252b", ORANGE),
}


def themed(figure: go.Figure, theme: Theme) -> go.Figure:
    """A copy of the figure in light or dark colours; figures are made light."""
    return go.Figure(figure).update_layout(template=TEMPLATES[theme])


def describe(run: RunInfo | Mapping[str, Any] | str) -> str:
    """The caption's line on model, data and number of prompts."""
    if isinstance(run, str):
        return run
    known = run if isinstance(run, RunInfo) else RunInfo.from_dict(dict(run))
    return f"{known.summary()}; {known.n_questions * len(known.orders)} prompts"


def safe(text: object) -> str:
    """Text from data, escaped so that plotly shows it literally and never reads it as markup."""
    return html.escape(str(text), quote=False)


def wrapped(text: object, width: int) -> str:
    """Safe text, wrapped to lines of `width` letters."""
    return "<br>".join(safe(line) for line in textwrap.wrap(str(text), width) or [""])


def captioned(
    figure: go.Figure,
    title: str,
    run: RunInfo | Mapping[str, Any] | str,
    *,
    height: int,
    width: int = WIDTH,
    note: str = "",
) -> go.Figure:
    """Gives a figure its title, its caption (what was measured on what), its size and the light template."""
    caption = f"{describe(run)}. {note}" if note else describe(run)
    share = width / WIDTH
    head, small = wrapped(title, int(TITLE_WRAP * share)), wrapped(caption, int(CAPTION_WRAP * share))
    top = 34 + 22 * (head.count("<br>") + 1) + 16 * (small.count("<br>") + 1)
    figure.update_layout(
        template=TEMPLATES["light"],
        title={
            "text": head,
            "subtitle": {"text": small},
            **{"x": 0, "xref": "container", "xanchor": "left", "y": 1, "yref": "container", "yanchor": "top"},
            # Plotly sets a title of several lines higher than one of a single line, and cuts it off.
            "pad": {"t": 26 if "<br>" in head else 14, "l": 14},
        },
        margin={"l": 70, "r": 24, "t": top + 14, "b": 56},
        height=height + top,
        width=width,
        # Fewer buttons, as they would cover the title of a narrow figure.
        modebar={"remove": ["pan", "select", "lasso", "zoomin", "zoomout", "autoscale"]},
    )
    return figure


def legend_below(figure: go.Figure, space: int = 60) -> go.Figure:
    """Puts the legend under the axis titles, wrapped to the figure's width."""
    return figure.update_layout(
        legend={"orientation": "h", "x": 0, "y": 0, "yref": "container", "yanchor": "bottom"},
        margin={"b": 56 + space},
    )


def column(frame: pd.DataFrame, *names: str) -> Float[np.ndarray, " row"]:
    """The first of these columns that a frame has, as numbers; NaN throughout where it has none."""
    for name in names:
        if name in frame:
            return np.asarray(frame[name], dtype=object).astype(np.float64)
    return np.full(len(frame), np.nan)


def band(x: Any, low: Any, high: Any, colour: str, **more: Any) -> go.Scatter:
    """An interval's area along x, in a faint shade of the colour."""
    xs, ends = [*x, *reversed(list(x))], [*high, *reversed(list(low))]
    red, green, blue = (int(colour[start : start + 2], 16) for start in (1, 3, 5))
    fill = f"rgba({red},{green},{blue},0.22)"
    return go.Scatter(
        x=xs, y=ends, fill="toself", fillcolor=fill, line={"width": 0}, mode="lines", hoverinfo="skip", **more
    )
