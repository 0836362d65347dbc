"""The parts that a page can have, in order. To add one, add a line: its name, its files, and the function for it."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from ..errors import NasaInterpError
from .change import FILES as CHANGE_FILES
from .change import change_section, demo_section
from .exploring import FILES as EXPLORER_FILES
from .exploring import exploring_section
from .results import decisions_section, effect_section, scores_section, tokens_section
from .rows import rows_section
from .section import Section


@dataclass(frozen=True)
class Part:
    """One part that a page can have.

    Args:
        name: what is measured; the page lists the names of missing parts.
        files: patterns of the files that it reads.
        make: from a run folder to the section, None where the files are missing.
    """

    name: str
    files: tuple[str, ...]
    make: Callable[[Path], Section | None]


def _rows(name: str, file: str, title: str, *others: str) -> Part:
    """A part that shows one file's table; the others belong to it."""
    return Part(name, (file, *others), lambda folder: rows_section(folder / file, title))


PARTS = (
    Part("decisions before and after a change", ("decisions.json", "decisions_after.json"), decisions_section),
    Part("scores of heads", ("scores.json", "heads*.json"), scores_section),
    Part("a prompt under the lens", ("tokens*.json",), tokens_section),
    Part("heads to click on", EXPLORER_FILES, exploring_section),
    Part("the effect of ablating heads", ("effect.json",), effect_section),
    _rows("rankings of heads against one another", "contest.json", "Which ranking finds the heads"),
    _rows("the winning heads on data that had no part in choosing them", "confirmation.json", "On data kept apart"),
    _rows("activation patching", "patch.json", "Activation patching"),
    _rows("alignment of heads", "align.json", "Alignment of heads", "untuned.json"),
    _rows("the alignment beside its baselines", "compare.json", "Alignment beside its baselines"),
    _rows("what a cure is worth where it was not fitted", "transfer.json", "Where a cure holds"),
    _rows("data sets in several forms", "matrix.json", "Data and forms"),
    Part("what a change cost in general abilities", CHANGE_FILES, change_section),
)
# Only the demo's folder has it, so it is never listed as missing.
STORY = Part("the demo's stages", ("demo.json",), demo_section)


def sections_of(folder: Path) -> tuple[list[Section], list[str], list[str]]:
    """The sections of a run folder, the missing parts, and the unreadable ones with the reason."""
    sections, missing, broken = [], [], []
    claimed = {path for part in (*PARTS, STORY) for pattern in part.files for path in folder.glob(pattern)}
    others = sorted(path for path in folder.glob("*.json") if path not in claimed)
    more = [Part(path.name, (path.name,), partial(_any, path=path)) for path in others]
    for part in (*PARTS, *more, STORY):
        try:
            section = part.make(folder)
        except NasaInterpError as error:
            broken.append(f"{part.name}: {error}")
            continue
        if section is not None:
            sections.append(section)
        elif part in PARTS:
            missing.append(f"{part.name} ({', '.join(part.files)})")
    return sections, missing, broken


def _any(folder: Path, path: Path) -> Section | None:
    return rows_section(path)
