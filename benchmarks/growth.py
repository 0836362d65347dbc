"""How time and peak memory of scoring grow with prompts, length, batch, layers and heads.

python benchmarks/growth.py                   # some twenty minutes on an idle machine
python benchmarks/growth.py --series length   # one series alone; the others stay as they are in the file

Random Llama models with the embedded one's tokenizer, since its own sizes are fixed; float32, both orders for `prompts`
(in parts, as a laboratory would), one order elsewhere. Every measurement is a process of its own: seconds of the run
without the start-up, and how far resident memory rose above that of the loaded model. The points of a series take
turns, so that a slow minute slows all of them. Processes have their own benchmark, `streams.py`.
"""

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from memory import forget_peak, in_fresh_process, made, resident

# One size changes in a series, the others stay.
BASE = {"layers": 4, "heads": 4, "groups": 4, "width": 256, "inner": 704, "length": 96, "prompts": 128, "batch": None}
SERIES: dict[str, list[int]] = {
    "prompts": [64, 256, 1024, 4096, 16384],
    "length": [64, 256, 1024, 4096, 8192],
    "batch": [1, 4, 16, 64, 128],
    "layers": [2, 4, 8, 16, 32],
    "heads": [2, 4, 8, 16, 32],
}
PICTURE = Path(__file__).parents[1] / "figures" / "growth.png"


def shape(series: str, size: int) -> dict[str, Any]:
    """What is measured at this size of a series."""
    sizes = {**BASE, series: size}
    if series == "heads":
        # As wide as its heads together, as models are.
        sizes |= {"groups": size, "width": 64 * size, "inner": 176 * size}
    if series == "length":
        sizes["prompts"] = max(1, 16384 // size)
    return sizes


def measure(series: str, size: int) -> dict[str, Any]:
    """One run in this process, which did nothing else; something small before it, not counted."""
    import torch

    from nasa_interp.models import load_tokenizer

    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    sizes = shape(series, size)
    model = made({"kind": "llama", **sizes, "positions": 16384}, load_tokenizer("demo"))
    with tempfile.TemporaryDirectory() as place:
        small, whole = (in_parts if series == "prompts" else at_once)(model, sizes, Path(place))
        small()
        forget_peak()
        before, start = resident("VmRSS"), time.perf_counter()
        whole()
        seconds = time.perf_counter() - start
    return {"seconds": seconds, "mb": (resident("VmHWM") - before) / 2**20}


def in_parts(model: Any, sizes: dict[str, Any], place: Path) -> list[Callable[[], Any]]:
    """Scoring a few questions of a file, and as many prompts as `sizes` say, in both orders."""
    from streams import questions

    from nasa_interp.streams import stream_scores

    files = [questions(place / f"{n}.jsonl", n // 2) for n in (4, sizes["prompts"])]
    return [partial(stream_scores, model, f, f.with_suffix(""), draws=100, progress=False) for f in files]


def at_once(model: Any, sizes: dict[str, Any], place: Path) -> list[Callable[[], Any]]:
    """Scoring one short prompt, and those that `sizes` say, in one order."""
    from costs import prompts_of

    from nasa_interp.scoring.fused import score_fused

    asked = prompts_of(model, sizes["length"], sizes["prompts"])
    return [
        partial(score_fused, model, prompts_of(model, 64, 1), progress=False),
        partial(score_fused, model, asked, sizes["batch"], progress=False),
    ]


def measured(series: str, runs: int, threads: int) -> list[dict[str, Any]]:
    """Every size of a series: its runs, in turns, with their median."""
    found: dict[int, list[dict[str, Any]]] = {size: [] for size in SERIES[series]}
    for _ in range(runs):
        for size, taken in found.items():
            taken.append(in_fresh_process(__file__, series, str(size), threads=threads))
            print(f"{series} {size}: {taken[-1]}", file=sys.stderr, flush=True)
    return [
        {"size": size, **{key: statistics.median(each[key] for each in taken) for key in taken[0]}, "runs": taken}
        for size, taken in found.items()
    ]


def table(series: dict[str, list[dict[str, Any]]]) -> str:
    """A row a point: medians, and the least and most in brackets."""
    lines = ["| series | size | seconds | MiB above the loaded model |", "| --- | --- | --- | --- |"]
    for name, points in series.items():
        for point in points:
            cells = []
            for key, digits in (("seconds", 2), ("mb", 0)):
                low, high = (limit(each[key] for each in point["runs"]) for limit in (min, max))
                cells.append(f"{point[key]:.{digits}f} ({low:.{digits}f} to {high:.{digits}f})")
            lines.append(f"| {name} | {point['size']:,} | {' | '.join(cells)} |")
    return "\n".join(lines)


def draw(series: dict[str, list[dict[str, Any]]], threads: int, path: Path) -> None:
    """A column a series: time above, memory below."""
    import plotly.graph_objects as go
    from plotly.subplots import make_subplots

    from nasa_interp.figures import save_figure
    from nasa_interp.figures.theme import BLUE, TEMPLATES, VERMILLION

    figure = make_subplots(2, len(series), column_titles=list(series), vertical_spacing=0.14)
    for column, points in enumerate(series.values(), 1):
        sizes = [point["size"] for point in points]
        for row, (key, colour) in enumerate((("seconds", BLUE), ("mb", VERMILLION)), 1):
            values = [point[key] for point in points]
            above = [max(each[key] for each in p["runs"]) - p[key] for p in points]
            below = [p[key] - min(each[key] for each in p["runs"]) for p in points]
            spread = {"type": "data", "array": above, "arrayminus": below}
            line = go.Scatter(x=sizes, y=values, error_y=spread, mode="lines+markers", marker_color=colour)
            figure.add_trace(line, row, column)
        figure.update_xaxes(
            type="log", tickvals=sizes, ticktext=[f"{size:,}" for size in sizes], tickangle=-45, col=column
        )
    # The same decades for all series, so that what hardly grows looks flat.
    figure.update_yaxes(type="log", dtick=1)
    figure.update_yaxes(title="seconds", row=1, col=1)
    figure.update_yaxes(title="MiB above the loaded model", row=2, col=1)
    figure.update_yaxes(range=[-1, 2], row=1)
    figure.update_yaxes(range=[0, 3], row=2)
    title = (
        f"What scoring costs as one size grows ({threads} thread{'s' * (threads > 1)}, float32, random Llama models)"
    )
    figure.update_layout(template=TEMPLATES["light"], title=title, showlegend=False, width=1400, height=640)
    save_figure(figure, path, scale=1.0)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--series", nargs="+", choices=SERIES, default=list(SERIES))
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--child", nargs=2, help=argparse.SUPPRESS)
    parser.add_argument("--out", type=Path, default=Path(__file__).with_suffix(".json"))
    parser.add_argument("--figure", type=Path, default=PICTURE)
    options = parser.parse_args()
    if options.child:
        print(json.dumps(measure(options.child[0], int(options.child[1]))))
        return
    before = json.loads(options.out.read_text())["series"] if options.out.exists() else {}
    for name in options.series:
        before[name] = measured(name, options.runs, options.threads)
    series = {name: before[name] for name in SERIES if name in before}
    result = {"threads": options.threads, "runs": options.runs, "shape": BASE, "series": series}
    options.out.write_text(json.dumps(result, indent=1) + "\n")
    print(table(series))
    draw(series, options.threads, options.figure)


if __name__ == "__main__":
    main()
