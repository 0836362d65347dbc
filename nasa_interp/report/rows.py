"""Sections for any JSON file with tables in it: sortable tables, and figures chosen by their columns."""

import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from ..errors import NasaInterpError, ResultError
from ..figures import (
    ablation_curve,
    alignment_log,
    contest_curves,
    form_matrix_heatmap,
    head_heatmap,
    method_comparison,
    patch_heatmap,
    transfer_heatmap,
    validation_curves,
)
from ..figures.theme import column
from ..run import read_json
from .section import Section, Table, readable
from .sentences import sentences_of

DEPTH = 4
Figure = Callable[[pd.DataFrame, Any, str], go.Figure]


def rows_section(path: Path, title: str | None = None) -> Section | None:
    """What a JSON file of ours holds: a sortable table for each list of rows, figures where the columns are known.

    Args:
        path: the file.
        title: replaces the one made from the file's kind and name.

    Returns:
        None where the file is missing, or holds no rows and is of no kind that we can describe.

    Raises:
        ResultError: where the file is not JSON.
    """
    if not path.exists():
        return None
    content = read_json(path)
    if not isinstance(content, dict):
        content = {"table": content}
    runs = {f"{path.name}{' ' + location if location else ''}": run for location, run in _runs(content)}
    sentences, tables, figures = sentences_of(content), [], []
    for location, rows in _row_lists(content):
        frame = pd.DataFrame(rows)
        shown = frame.assign(measure=frame["measure"].map(readable)) if "measure" in frame else frame
        caption = _words(location) or title or path.name
        tables.append(Table.of(shown, caption[0].upper() + caption[1:], f"From {path.name}."))
        run = _nearest(location, runs, path.name)
        figures += _figures(frame, run, location)
    if not tables and not sentences:
        return None
    title = title or str(content.get("kind") or path.stem).replace("_", " ").capitalize()
    key = re.sub(r"[^a-z0-9]+", "-", path.stem.lower())
    return Section(title, f"file-{key}", sentences, (), tuple(figures), tuple(tables), runs=runs)


def _row_lists(content: Any, location: str = "", depth: int = DEPTH) -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """Each list of flat rows in a JSON value, with the names that lead to it."""
    if isinstance(content, list) and content and all(isinstance(row, dict) for row in content):
        flat = [{k: v for k, v in row.items() if not _is_long(v)} for row in content]
        yield location, [row for row in flat if row]
    elif isinstance(content, list) and depth and all(isinstance(item, list) for item in content):
        for number, item in enumerate(content, start=1):
            yield from _row_lists(item, f"{location} {number}".strip(), depth - 1)
    elif isinstance(content, dict) and depth:
        for name, value in content.items():
            if name != "run":
                yield from _row_lists(value, f"{location} {name}".strip(), depth - 1)


def _is_long(value: Any) -> bool:
    """Whether a table's cell can't hold the value."""
    return isinstance(value, dict) or (
        isinstance(value, list) and any(isinstance(item, (list, dict)) for item in value)
    )


def _words(location: str) -> str:
    """The names that lead to a table, worded for a caption."""
    return readable(" ".join(word for word in location.split() if word != "table").replace("orders ", "order "))


def _runs(content: Any, location: str = "", depth: int = DEPTH) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """The details of each run in a JSON value, with the names that lead to it."""
    if isinstance(content, dict) and depth:
        if isinstance(content.get("run"), dict):
            yield location, content["run"]
        for name, value in content.items():
            if name != "run":
                yield from _runs(value, f"{location} {name}".strip(), depth - 1)


def _nearest(location: str, runs: Mapping[str, Mapping[str, Any]], name: str) -> Mapping[str, Any] | str:
    """The run whose location is the longest prefix of the table's."""
    fitting = [key for key in runs if f"{name} {location}".startswith(key)]
    return runs[max(fitting, key=len)] if fitting else f"{name}; its run's details were not saved"


def _figures(frame: pd.DataFrame, run: Any, location: str) -> list[go.Figure]:
    """The figure for these columns; a table that can't be drawn stays a table."""
    for columns, draw in DRAWN:
        if columns <= set(frame.columns):
            try:
                return [draw(frame, run, location)]
            except (NasaInterpError, KeyError, TypeError, ValueError):
                return []
    return []


def _contest(frame: pd.DataFrame, run: Any, location: str) -> go.Figure:
    return contest_curves(_numbers(frame), run=run)


def _log(frame: pd.DataFrame, run: Any, location: str) -> go.Figure:
    if len(frame) == 1:
        raise ResultError("one step for all heads; its checkpoints say more")
    return alignment_log(frame, run=run)


def _checkpoints(frame: pd.DataFrame, run: Any, location: str) -> go.Figure:
    return validation_curves(frame, run=run)


def _transfer(frame: pd.DataFrame, run: Any, location: str) -> go.Figure:
    texts = frame[["fitted_on", "asked", "method"]].fillna("")
    return transfer_heatmap(_numbers(frame).assign(**texts), run=run)


def _forms(frame: pd.DataFrame, run: Any, location: str) -> go.Figure:
    texts = frame[["data", "form", "known"]].fillna("")
    return form_matrix_heatmap(_numbers(frame).assign(**texts), run=run)


def _curve(frame: pd.DataFrame, run: Any, location: str) -> go.Figure:
    return ablation_curve(_numbers(frame), run=run)


def _methods(frame: pd.DataFrame, run: Any, location: str) -> go.Figure:
    return method_comparison(_numbers(frame), run=run)


def _patch(rows: pd.DataFrame, run: Any, location: str) -> go.Figure:
    """By layer and head where each head has one row, by head and position where it has several."""
    frame: Any = _numbers(rows)
    title = f"Patching: effect on logit(No) - logit(Yes){', ' + _words(location) if _words(location) else ''}"
    common = {"title": title, "unit": "logits", "run": run}
    if frame["place"].nunique() > 1:
        grid = frame.pivot_table(index="head", columns="place", values="effect", sort=False)
        return patch_heatmap(grid.to_numpy(), list(grid.index), list(grid.columns), **common)
    layers, heads = frame["layer"].astype(int), frame["index"].astype(int)
    grids = np.full((3, layers.max() + 1, heads.max() + 1), np.nan)
    for index, name in enumerate(("effect", "effect_low", "effect_high")):
        grids[index, layers, heads] = column(frame, name)
    return head_heatmap(grids[0], intervals=grids[1:], **common)


def _numbers(frame: pd.DataFrame) -> pd.DataFrame:
    """The table with null as NaN in its numeric columns."""
    numbers = {name: column(frame, str(name)) for name in frame if not any(map(_is_text, frame[name]))}
    return frame.assign(**numbers)


def _is_text(value: Any) -> bool:
    return isinstance(value, (str, list, dict))


# The first line whose columns are all present says what to draw. To add a figure, add a line.
DRAWN: list[tuple[set[str], Figure]] = [
    ({"fitted_on", "asked", "method", "runs", "accuracy"}, _transfer),
    ({"data", "form", "known", "imbalance", "auc_low"}, _forms),
    ({"ranking", "k", "data", "order", "mean_logit_difference_change", "auc_change"}, _contest),
    ({"head", "accepted"}, _log),
    ({"head", "step", "kept", "auc", "answer_mass"}, _checkpoints),
    ({"method", "variant", "accuracy", "auc_within_orders"}, _methods),
    ({"head", "layer", "index", "place", "effect"}, _patch),
    ({"k", "mean_logit_difference_change", "mean_logit_difference_low", "auc_change", "auc_low"}, _curve),
]
