"""The view as plotly figures: tokens run down the page, so that they are readable at any width."""

import numpy as np
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from ..figures.theme import GREEN, NO, YES, captioned, safe
from .markup import visible
from .value import HeadView

ROW, LONGEST = 17, 16
# From transparent to a colour, so that the background shows through in light and dark themes.
SHADES = [[0.0, "rgba(0,158,115,0)"], [1.0, GREEN]]


def brief(view: HeadView) -> go.Figure:
    """All heads side by side: mean attention that the queries pay to each token, and what each query adds to NAS."""
    figure = make_subplots(rows=1, cols=2, shared_yaxes=True, horizontal_spacing=0.05)
    n, names = len(view.tokens), [str(head) for head in view.heads]
    received = view.received.T
    added = np.full((n, len(names)), np.nan)
    added[view.first_query :] = view.contributions.T
    reach = float(np.nanmax(np.abs(added))) if not np.isnan(added).all() else 1.0
    tokens = np.repeat(np.array([safe(visible(token)) for token in view.tokens])[:, None], len(names), axis=1)
    common = {"x": names, "y": np.arange(n), "customdata": tokens[..., None], "hoverongaps": False, "xgap": 2}
    bar = {"orientation": "h", "yref": "container", "y": 0.0, "yanchor": "bottom", "len": 0.44, "thickness": 12}
    bar |= {"nticks": 4, "tickangle": 0}
    figure.add_heatmap(
        **{**common, "z": received, "zmin": 0.0, "zmax": _most(view), "colorscale": SHADES, "row": 1, "col": 1},
        colorbar={**bar, "x": 0.235, "title": {"text": "attention", "side": "top", "font": {"size": 12}}},
        hovertemplate="%{x} to %{customdata[0]}: %{z:.4f}<extra></extra>",
    )
    figure.add_heatmap(
        **{**common, "z": added, "zmid": 0, "zmin": -(reach or 1.0), "zmax": reach or 1.0, "row": 1, "col": 2},
        colorbar={**bar, "x": 0.765, "title": {"text": "adds to NAS", "side": "top", "font": {"size": 12}}},
        hovertemplate="%{x} at %{customdata[0]}: %{z:+.4f} nats<extra></extra>",
    )
    _label_tokens(figure, view)
    figure.update_xaxes(type="category", side="top", showgrid=False)
    note = (
        "Left: mean attention that the queries pay to the token, on a scale that ends at the largest besides the first "
        "token's. Right: what the token adds to the head's NAS as a query, above 0 toward No"
    )
    return _captioned(
        figure, "A prompt under the lens: attention, and what each query adds to NAS", view, (36, 90), note
    )


def pattern(view: HeadView, row: int) -> go.Figure:
    """The whole pattern of one head: queries across, tokens down."""
    n, queries = len(view.tokens), range(view.first_query, len(view.tokens))
    grid = view.attention[row].T
    shown = [safe(visible(token)) for token in view.tokens]
    names = np.array([[f"{shown[query]} to {shown[key]}" for query in queries] for key in range(n)], dtype=object)
    seen = np.where(np.arange(n)[:, None] <= np.array(queries)[None, :], grid, np.nan)
    figure = go.Figure(
        go.Heatmap(
            **{"x": list(queries), "y": np.arange(n), "z": seen, "zmin": 0.0, "zmax": _most(view, row)},
            colorscale=SHADES,
            hoverongaps=False,
            customdata=names[..., None],
            colorbar={"title": {"text": "attention", "side": "right"}},
            hovertemplate="%{customdata[0]}: %{z:.4f}<extra></extra>",
        )
    )
    _label_tokens(figure, view)
    ticks = {
        "tickvals": list(queries),
        "ticktext": [safe(_clipped(visible(view.tokens[query]))) for query in queries],
        "tickangle": -90,
    }
    figure.update_xaxes(side="top", showgrid=False, **ticks)
    title = f"Attention of head {view.heads[row]}: from queries (across) to tokens (down)"
    return _captioned(figure, title, view, (80, 40))


def _most(view: HeadView, row: int | None = None) -> float:
    """The top of the scale, without the first token, where idle heads put their attention."""
    shown = view.received if row is None else view.attention[row]
    return float(shown[..., 1:].max()) or 1.0


def _clipped(text: str) -> str:
    """The beginning of a token that is too long for the axis; hovering shows all of it."""
    return text if len(text) <= LONGEST else text[: LONGEST - 1] + "…"


def _label_tokens(figure: go.Figure, view: HeadView) -> None:
    """Labels every token at its row; frames and colours the candidates."""
    text = []
    for position, token in enumerate(view.tokens):
        label, role = safe(_clipped(visible(token))), view.role(position)
        marked = {"yes": f"<b>{label} (yes)</b>", "no": f"<b>{label} (no)</b>"}
        text.append(marked.get(role, label))
    figure.update_yaxes(tickvals=list(range(len(text))), ticktext=text, tickfont={"size": 11}, ticks="", showgrid=False)
    figure.update_yaxes(range=[len(text) - 0.5, -0.5], zeroline=False)
    for span, colour in ((view.yes_span, YES), (view.no_span, NO)):
        frame = {"type": "rect", "xref": "x domain", "x0": 0, "x1": 1, "y0": span[0] - 0.5, "y1": span[1] - 0.5}
        figure.add_shape(**frame, line={"color": colour, "width": 2})


def _captioned(figure: go.Figure, title: str, view: HeadView, space: tuple[int, int], note: str = "") -> go.Figure:
    """Adds title and caption, with room above for the column labels and below for the scales."""
    answer = "No" if view.logit_difference >= 0 else "Yes"
    line = (
        f"{view.run.model}, one prompt, order {view.order}: {view.question!r}. "
        f"The model says {answer} (logit(No) - logit(Yes) = {view.logit_difference:+.2f})"
    )
    figure = captioned(figure, title, line, height=sum(space) + ROW * len(view.tokens), note=note)
    return figure.update_layout(margin={"t": figure.layout.margin.t + space[0], "b": space[1], "l": 110})
