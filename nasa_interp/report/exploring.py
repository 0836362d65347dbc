"""The section whose heads can be clicked: an explorer's page inside the report's, without a model."""

from dataclasses import replace
from pathlib import Path
from typing import Any

from markupsafe import Markup

from ..head_table import HeadTable
from ..heads import HeadList
from ..results import parsing_result
from ..run import read_json
from ..scoring import HeadScores
from ..view import HeadView, ShownPrompt, Snapshot
from ..view.page import static_markup
from ..view.snapshot import grids_of
from .section import Section

FILES = ("explorer.json", "sweep*.json")
NAME = "explorer"


def exploring_section(folder: Path) -> Section | None:
    """What an explorer saved, else what scores, prompts under the lens and effects of a run folder say of each head."""
    saved = folder / "explorer.json"
    if not saved.exists() and not (folder / "scores.json").exists():
        return None
    snapshot = _completed(Snapshot.load(saved), folder) if saved.exists() else _gathered(folder)
    told = "Click a head here, or a cell of any heat map on this page, for its numbers and the prompts kept under it."
    runs = {"explorer.json": snapshot.run.to_dict()} if saved.exists() else {}
    return Section(
        "Head by head", "head-by-head", (told,), markup=Markup(static_markup(snapshot, NAME)), runs=runs, leads=0,
        explores=True,
    )  # fmt: skip


def _completed(snapshot: Snapshot, folder: Path) -> Snapshot:
    """With what the folder says of effects, where none were saved with it."""
    effects = snapshot.effects or _effects(folder / "effect.json")
    known = {grid["name"] for grid in snapshot.grids}
    more = [grid for table in _sweeps(folder).values() for grid in grids_of(table) if grid["name"] not in known]
    return replace(snapshot, effects=effects, grids=[*snapshot.grids, *more])


def _sweeps(folder: Path) -> dict[str, HeadTable]:
    return {path.stem: HeadTable.load(path) for path in sorted(folder.glob("sweep*.json"))}


def _gathered(folder: Path) -> Snapshot:
    scores = HeadScores.load(folder / "scores.json")
    tables: dict[str, HeadTable] = {"scores": scores, **_sweeps(folder)}
    views = [HeadView.load(path) for path in sorted(folder.glob("tokens*.json"))]
    effects = _effects(folder / "effect.json")
    chosen = HeadList.of(effects[0]["heads"]) if effects else None
    return Snapshot.of(tables, [[ShownPrompt.of(view)] for view in views], scores.run, chosen, effects)


def _effects(path: Path) -> list[dict[str, Any]]:
    """What was done to heads together, as an explorer's table."""
    if not path.exists():
        return []
    content = read_json(path)
    with parsing_result(path, "run the ablation again"):
        row = content["changes"]["mean_logit_difference"]
        rows = [{"what": "mean over both orders", **{name: row[name] for name in ("before", "after", "change")}}]
        return [{"heads": content["heads"], "how": f"under {content['intervention']}", "rows": rows, "whole": True}]
