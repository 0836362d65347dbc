"""The package's whole story on the embedded model, in one run folder: bias, heads, cause, cure, effect."""

import shlex
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from .alignment import Alignment, Limits, Recipe, align_heads
from .alignment.progress import NAME as PROGRESS
from .decisions import BinaryReport, decide
from .errors import NothingKeptError
from .evaluation import ChangeReport, evaluate_change, four_options, groups_above_chance, plain_text
from .figures import decision_histogram, head_heatmap, save_figure
from .heads import SIDES, HeadList, Side
from .interventions import AblationEffect, Ablator, random_controls
from .models import Model, load_model
from .prompts import ORDERS
from .report import write_report
from .results import check_place, write_result
from .scoring import HeadScores, score_heads
from .view import ShownPrompt, Snapshot, view_heads

PROBE, VAL, TEST = (f"builtin:verify#{split}" for split in ("probe", "val", "test"))
# How many heads are ablated and tuned.
TOP = 10


@dataclass(frozen=True)
class Size:
    """How much each stage asks: questions, each in both candidate orders, and passages of text.

    `pooled` takes recovered accuracy over the groups that the model knows; with few questions a group may count as
    known by luck, and then it is over all of them. `carried` are the questions that are asked in other styles; none
    where it is 0.
    """

    decide: int = 256
    score: int = 256
    ablate: int = 64
    controls: int = 5
    pooled: bool = True
    carried: int = 64
    passages: int | None = None
    options: int | None = None
    generation: int = 12
    recipe: Recipe = field(default_factory=Recipe)

    @classmethod
    def quick(cls) -> "Size":
        """A quick look: wider intervals, and tuning may stop early."""
        recipe = Recipe(steps=12, check_every=4, probe_questions=64, val_questions=48, questions=16)
        few = {"decide": 48, "score": 48, "ablate": 16, "controls": 1, "carried": 0, "passages": 4, "options": 16}
        return cls(**few, pooled=False, generation=0, recipe=recipe)

    @classmethod
    def of(cls, limit: int) -> "Size":
        """At most `limit` questions in every stage."""
        recipe = Recipe(steps=4, check_every=2, probe_questions=limit, val_questions=limit, questions=limit)
        few = dict.fromkeys(("decide", "score", "ablate", "passages", "options"), limit)
        return cls(**few, controls=1, carried=0, pooled=False, generation=0, recipe=recipe)


@dataclass
class Story:
    """What the demo found, and how long each stage took in seconds."""

    folder: Path
    report: BinaryReport
    toward: Side
    scores: HeadScores
    effect: AblationEffect
    alignment: Alignment | None
    change: ChangeReport | None
    page: Path
    command: str
    seconds: dict[str, float] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """Plain values: the measures before and after, the top heads, the times."""
        return {
            "kind": "demo",
            "folder": str(self.folder),
            "verdict": self.report.verdict,
            "overall": self.report.overall.to_dict(),
            "toward": self.toward,
            "top_by_values": [str(h) for h in self.scores.looking(toward=self.toward)[:TOP]],
            "top_by_polarity": [str(h) for h in self.scores.looking("polarity", toward=self.toward)[:TOP]],
            "ablation": self.effect.changes.to_dict(orient="index"),
            "alignment": None if self.alignment is None else repr(self.alignment),
            "after": None if self.change is None else self.change.after.overall.to_dict(),
            "change": None if self.change is None else self.change.to_dict(),
            "page": str(self.page),
            "command": self.command,
            "seconds": self.seconds,
        }

    def text(self) -> str:
        """Closing lines: times and where to look."""
        times = ", ".join(f"{stage} {seconds:.0f} s" for stage, seconds in self.seconds.items())
        return f"{times}; all {sum(self.seconds.values()):.0f} s\nwritten to {self.folder}; open {self.page}"


def run_demo(
    folder: Path,
    quick: bool = False,
    seed: int = 0,
    device: str | None = None,
    dtype: str | None = None,
    limit: int | None = None,
    say: Callable[[str], None] = lambda text: None,
) -> Story:
    """Asks the embedded model, finds its biased heads, ablates them, tunes them, and measures the cost.

    Args:
        folder: where to write; files of an earlier run are replaced one by one.
        quick: ask fewer questions.
        seed: of sampling, tuning and bootstrap.
        limit: questions per stage; overrides `quick`.
        say: called with a line at the start of each stage.

    Returns:
        All results; each is written as soon as it is ready.
    """
    check_place(folder / "demo.json", "demo")
    size = Size.of(limit) if limit else Size.quick() if quick else Size()
    stage = _Stages(say)
    with stage("load", "loading the embedded model (converted once, the first time)"):
        model = load_model("demo", device=device, dtype=dtype)
    with stage("bias", f"is there a bias? asking {size.decide} questions of {TEST} in both candidate orders"):
        report = decide(model, TEST, limit=size.decide, seed=seed)
        report.save(folder / "decisions.json")
        # Whatever is chosen is chosen on other questions than those of the results.
        ablator = Ablator(model, VAL, limit=size.ablate, seed=seed, progress=False)
        toward = ablator.base.toward
    count, side = model.n_layers * model.n_heads, SIDES[toward]
    with stage("heads", f"which heads look at {side}? scoring {count} heads on {PROBE}"):
        scores = score_heads(model, PROBE, limit=size.score, seed=seed)
        heads = _write_scores(scores, toward, folder)
        view_heads(model, report.questions[0], heads[:3]).save(folder / "tokens.json")
        _write_explorer(model, report, scores, heads, folder)
    with stage("cause", f"do they make it say {side}? zeroing {TOP} heads, and {size.controls} random sets, on {VAL}"):
        effect = _ablate(ablator, heads, size, seed, folder)
    with stage("cure", f"tuning {TOP} heads on {PROBE}, keeping what {VAL} allows"):
        # Tuning pays for every layer above the lowest head, and one of the ten is in the first layer.
        tuned = scores.top(TOP, "polarity", model.n_layers // 3, toward)
        alignment = _align(model, tuned, size, seed, folder, say)
    change = None
    if alignment is not None:
        with stage("evaluation", f"asking {TEST} again, and what it cost"):
            change = _evaluate(model, alignment, report, size, seed, folder)
    page, command = folder / "report.html", _command(folder, quick, seed, device, dtype, limit)
    story = Story(folder, report, toward, scores, effect, alignment, change, page, command, stage.seconds)
    # Written once for the report to read, and again with the report's own time.
    write_result(folder / "demo.json", story.to_dict())
    with stage("report", "writing figures and the report"):
        save_figure(decision_histogram(report, None if change is None else change.after), folder / "decisions.html")
        write_report(folder)
    write_result(folder / "demo.json", story.to_dict())
    return story


def _command(folder: Path, quick: bool, seed: int, device: str | None, dtype: str | None, limit: int | None) -> str:
    """The command that tells this story again."""
    given = {"--out": str(folder), "--seed": str(seed), "--device": device, "--dtype": dtype, "--limit": limit}
    options = [word for name, value in given.items() if value is not None for word in (name, str(value))]
    return shlex.join(["nasa-interp", "demo", *(["--quick"] if quick else []), *options])


class _Stages:
    """Announces each stage and keeps how long it took."""

    def __init__(self, say: Callable[[str], None]):
        self.say, self.seconds = say, dict[str, float]()

    @contextmanager
    def __call__(self, name: str, title: str) -> Iterator[None]:
        self.say(f"{len(self.seconds) + 1}/7 {title}")
        start = time.perf_counter()
        yield
        self.seconds[name] = round(time.perf_counter() - start, 2)
        self.say(f"    {self.seconds[name]:.0f} s")


def _write_explorer(model: Model, report: BinaryReport, scores: HeadScores, heads: HeadList, folder: Path) -> None:
    """One question under every head, so that each head on the page can be clicked."""
    every = [(layer, index) for layer in range(model.n_layers) for index in range(model.n_heads)]
    shown = [ShownPrompt.of(view_heads(model, report.questions[0], every, order)) for order in ORDERS]
    Snapshot.of({"scores": scores}, [shown], scores.run, heads).save(folder / "explorer.json")


def _write_scores(scores: HeadScores, toward: Side, folder: Path) -> HeadList:
    scores.save(folder / "scores.json")
    for by in ("values", "polarity"):
        top = scores.top(TOP, by, toward=toward)
        top.save(folder / f"heads_{by}.json")
        top.save(folder / f"heads_{by}.csv")
        save_figure(head_heatmap(scores, by, heads=top), folder / f"heatmap_{by}.html")
    return top


def _ablate(ablator: Ablator, heads: HeadList, size: Size, seed: int, folder: Path) -> AblationEffect:
    effect = ablator.effect(heads)
    control = random_controls(ablator, heads, n=size.controls, seed=seed).of()
    write_result(folder / "effect.json", {**effect.to_dict(), "control": asdict(control)})
    return effect


def _align(
    model: Model, heads: HeadList, size: Size, seed: int, folder: Path, say: Callable[[str], None]
) -> Alignment | None:
    """The tuned heads; None where nothing was kept, as may happen with a small `--limit`."""
    # Always a fresh run: the demo shows how long it takes, and no results of an earlier run remain.
    earlier = (PROGRESS, "align.json", "untuned.json", "delta.safetensors", "decisions_after.json")
    for name in (*earlier, "change.json", "price.json"):
        (folder / name).unlink(missing_ok=True)
    try:
        return align_heads(model, heads, PROBE, VAL, recipe=size.recipe, limits=Limits(), folder=folder, seed=seed)
    except NothingKeptError as error:
        say(f"    {error}")
        return None


def _evaluate(
    model: Model, alignment: Alignment, report: BinaryReport, size: Size, seed: int, folder: Path
) -> ChangeReport:
    change = evaluate_change(
        model,
        alignment.delta,
        report,
        groups=groups_above_chance(alignment.untuned) if size.pooled and alignment.untuned else (),
        texts=plain_text("test")[: size.passages],
        items=four_options(size.options, seed),
        styles=None if size.carried else {},
        carried=size.carried or None,
        generation=size.generation,
        seed=seed,
        progress=False,
    )
    change.after.save(folder / "decisions_after.json")
    change.save(folder)
    return change
