"""Sections about a change: what it did, what was generated before and after, and the demo's stages."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd

from ..results import parsing_result
from ..run import read_json
from .rows import rows_section
from .section import Section, Table

# The current name, and that of earlier versions.
FILES = ("change.json", "price.json")


def change_section(folder: Path) -> Section | None:
    """What a change cost, with the texts before and after it side by side."""
    path = next((folder / name for name in FILES if (folder / name).exists()), folder / FILES[0])
    section = rows_section(path, "What it cost")
    if section is None:
        return None
    measures, *_ = section.tables
    tables = [replace(measures, caption="Each measure before and after the change")]
    return replace(section, tables=(*tables, *_texts(read_json(path).get("said"))), leads=2)


def _texts(generated: Any) -> list[Table]:
    """One row per question and order; no table where nothing was generated."""
    try:
        before, after = (pd.DataFrame(rows) for rows in generated)
        frame = before.filter(["question", "order", "label"])
        frame = frame.assign(before=before["text"], after=after["text"]).dropna(subset=["before", "after"])
    except (KeyError, TypeError, ValueError):
        return []
    note = "Greedy, cut off after a few tokens; label: whether yes is right."
    return [Table.of(frame, "What it says in words of its own", note)] if len(frame) else []


def demo_section(folder: Path) -> Section | None:
    """How long each stage of the demo took, and the command that tells the whole story again."""
    if not (folder / "demo.json").exists():
        return None
    content = read_json(folder / "demo.json")
    with parsing_result(folder / "demo.json", "run the demo again"):
        seconds = {str(stage): float(duration) for stage, duration in content["seconds"].items()}
        command = str(content["command"])
    sentence = f"The stages before this page took {sum(seconds.values()):.0f} s."
    table = Table.of(pd.DataFrame(seconds.items(), columns=["stage", "seconds"]), "Wall time of each stage")
    return Section("How long it took", "times", (sentence,), tables=(table,), commands=(command,), leads=0)
