"""Figures to files: a page that opens offline, or a picture."""

from pathlib import Path

import plotly.graph_objects as go

from ..errors import ResultError
from ..run import write_text, write_whole

PICTURES = (".png", ".svg", ".pdf", ".jpg", ".webp")


def save_figure(figure: go.Figure, path: str | Path, scale: float = 2.0) -> Path:
    """Writes a figure as one HTML page that opens offline, or as a picture, by the name's ending.

    Args:
        figure: any figure of plotly's.
        path: ends in .html, .png, .svg, .pdf, .jpg or .webp.
        scale: of pixel pictures: pixels for each pixel of the figure's size.

    Raises:
        ResultError: for another ending, or for a picture where no Chromium is installed to draw it.
    """
    path = Path(path)
    if path.suffix == ".html":
        return write_text(path, figure.to_html(include_plotlyjs=True, full_html=True))
    if path.suffix not in PICTURES:
        raise ResultError(f"{path}: figures are written as .html, {', '.join(PICTURES)}; give another ending")
    picture = _picture(figure, path.suffix[1:], scale, path)
    return write_whole(path, lambda part: _write(part, picture))


def _write(part: Path, picture: bytes) -> None:
    part.write_bytes(picture)


def _picture(figure: go.Figure, kind: str, scale: float, path: Path) -> bytes:
    import kaleido
    from choreographer.browsers.chromium import ChromeNotFoundError

    options = {"format": kind, "scale": scale if kind not in ("svg", "pdf") else 1.0}
    try:
        # Without this kaleido's page fetches MathJax from a server.
        return kaleido.calc_fig_sync(figure, opts=options, kopts={"mathjax": False})
    except ChromeNotFoundError as error:
        raise ResultError(f"{path}: pictures are drawn by Chromium; install it, or save as .html") from error
