"""The story that the package tells, on the embedded model, into one run folder."""

import time
from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .decisions import BinaryReport, decide
from .figures import decision_histogram, head_heatmap, save_figure
from .models import load_model
from .run import write_json
from .scoring import HeadScores, score_heads

QUICK = 96


@dataclass
class Story:
    """What the demo found, and how long each stage took in seconds."""

    folder: Path
    report: BinaryReport
    scores: HeadScores
    seconds: dict[str, float] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """Plain values: the measures, the top heads, the times."""
        return {
            "folder": str(self.folder),
            "verdict": self.report.verdict,
            "overall": self.report.overall.to_dict(),
            "top_by_values": [str(h) for h in self.scores.top(10)],
            "top_by_polarity": [str(h) for h in self.scores.top(10, "polarity")],
            "seconds": self.seconds,
        }

    def text(self) -> str:
        """Closing lines: times and where to look."""
        times = ", ".join(f"{stage} {seconds:.0f} s" for stage, seconds in self.seconds.items())
        return f"{times}; all {sum(self.seconds.values()):.0f} s\nwritten to {self.folder}: open its .html files"


def run_demo(
    folder: Path,
    quick: bool = False,
    seed: int = 0,
    device: str | None = None,
    dtype: str | None = None,
    limit: int | None = None,
    say: Callable[[str], None] = lambda text: None,
) -> Story:
    """Asks the embedded model, scores its heads, writes every result as soon as it is there.

    Args:
        folder: where to write; files of an earlier run are replaced one by one.
        quick: draw fewer questions; intervals get wider, nothing else changes.
        seed: of sampling and bootstrap.
        limit: questions a stage, in place of what `quick` says.
        say: called with a line at the start of each stage.
    """
    seconds: dict[str, float] = {}
    limit = limit or (QUICK if quick else None)

    @contextmanager
    def stage(name: str, title: str):
        say(title)
        start = time.perf_counter()
        yield
        seconds[name] = round(time.perf_counter() - start, 2)

    with stage("load", "1/4 loading the embedded model (converted once, the first time)"):
        model = load_model("demo", device=device, dtype=dtype)
    with stage("decide", "2/4 asking builtin:verify#test in both candidate orders"):
        report = decide(model, "builtin:verify#test", limit=limit, seed=seed)
        report.save(folder / "decisions.json")
        save_figure(decision_histogram(report), folder / "decisions.html")
    with stage("score", "3/4 scoring every head on builtin:verify#probe in both orders"):
        scores = score_heads(model, "builtin:verify#probe", limit=limit, seed=seed)
        scores.save(folder / "scores.json")
    with stage("write", "4/4 writing heads and figures"):
        for by in ("values", "polarity"):
            top = scores.top(10, by)
            top.save(folder / f"heads_{by}.json")
            top.save(folder / f"heads_{by}.csv")
            save_figure(head_heatmap(scores, by, top), folder / f"heatmap_{by}.html")
        save_figure(head_heatmap(scores, "order"), folder / "heatmap_order.html")
    story = Story(folder, report, scores, seconds)
    write_json(folder / "demo.json", story.to_dict())
    return story
