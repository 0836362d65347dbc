"""Figures to files: a page that opens offline, or a picture."""

import os
import subprocess
import sys
import tempfile
from contextlib import suppress
from pathlib import Path

import plotly.graph_objects as go
import psutil

from ..errors import ResultError
from ..run import write_bytes, write_text

PICTURES = (".png", ".svg", ".pdf", ".jpg", ".webp")
# The most seconds that a picture may take, including the browser's start.
LIMIT = 60.0

# Runs in its own process: kaleido waits forever for a browser that doesn't answer, and for its threads.
# Without mathjax=False its page fetches MathJax from a server.
DRAW = """
import json, os, sys
try:
    import kaleido
    options = {"format": sys.argv[1], "scale": float(sys.argv[2])}
    picture = kaleido.calc_fig_sync(json.load(sys.stdin), opts=options, kopts={"mathjax": False})
    sys.stdout.buffer.write(picture)
    sys.stdout.flush()
    os._exit(0)
except BaseException as error:
    reason = " ".join(str(error.args[0] if error.args else "").split())
    print(f"{type(error).__name__}: {reason}", file=sys.stderr, flush=True)
    os._exit(1)
"""


def save_figure(figure: go.Figure, path: str | Path, scale: float = 2.0) -> Path:
    """Writes a figure as one HTML page that opens offline, or as a picture, depending on the file's suffix.

    Args:
        figure: any plotly figure.
        path: ends in .html, .png, .svg, .pdf, .jpg or .webp.
        scale: for pixel formats: pixels per pixel of the figure's size.

    Raises:
        ResultError: for another suffix; or for a picture where Chromium is not installed, fails, or takes more than a
            minute, after which it is killed.
    """
    path = Path(path)
    if path.suffix == ".html":
        return write_text(path, figure.to_html(include_plotlyjs=True, full_html=True))
    if path.suffix not in PICTURES:
        raise ResultError(f"{path}: figures are written as .html, {', '.join(PICTURES)}; give another ending")
    return write_bytes(path, _picture(figure, path.suffix[1:], scale, path))


def _picture(figure: go.Figure, kind: str, scale: float, path: Path) -> bytes:
    command = [sys.executable, "-P", "-c", DRAW, kind, str(scale if kind not in ("svg", "pdf") else 1.0)]
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        try:
            process = subprocess.run(
                command,
                input=str(figure.to_json()).encode(),
                capture_output=True,
                timeout=LIMIT,
                env=os.environ | {"TMPDIR": folder},
            )
        except subprocess.TimeoutExpired as error:
            reason = f"took more than {LIMIT:.0f} s for it"
            raise ResultError(f"{path}: Chromium {reason}; start it by hand to see why, or save as .html") from error
        finally:
            _end_all(folder)
    if process.returncode == 0:
        return process.stdout
    *_, reason = process.stderr.decode("utf-8", "replace").strip().splitlines() or ["no reason given"]
    if reason.startswith("ChromeNotFoundError"):
        raise ResultError(f"{path}: pictures are drawn by Chromium; install it, or save as .html")
    raise ResultError(f"{path}: Chromium failed to draw it ({reason}); start it by hand to see why, or save as .html")


def _end_all(folder: str) -> None:
    """Kills every process that uses this folder for temporary files: a browser outlives the process that started it."""
    ended = []
    for process in psutil.process_iter():
        with suppress(psutil.Error, OSError):
            if process.environ().get("TMPDIR") == folder:
                process.kill()
                ended.append(process)
    psutil.wait_procs(ended, timeout=5)
