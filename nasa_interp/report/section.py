"""The parts of a page: sections with sentences, figures and tables. Values only; `page` writes them as HTML."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pandas as pd
import plotly.graph_objects as go
from markupsafe import Markup

# A page with more rows loads slowly, and nobody reads that many.
MOST_ROWS = 400


@dataclass(frozen=True)
class Cell:
    """A table's cell: what is shown, and what it is sorted by."""

    text: str
    key: float | str
    number: bool

    @classmethod
    def of(cls, value: Any) -> "Cell":
        """Numbers in short form, yes and no for booleans, empty for missing values."""
        if isinstance(value, (list, tuple)):
            value = ", ".join(cls.of(item).text for item in value)
        if hasattr(value, "item") and getattr(value, "ndim", None) == 0:
            value = value.item()
        if value is None or (isinstance(value, float) and math.isnan(value)):
            return cls("", "", True)
        if isinstance(value, bool):
            return cls("yes" if value else "no", "yes" if value else "no", False)
        if isinstance(value, (int, float)):
            return cls(_short(value), float(value), True)
        return cls(str(value), str(value), False)


def readable(name: object) -> str:
    """A field's name as people write it."""
    words = str(name).replace("yes_no", "Yes, No").replace("no_yes", "No, Yes").replace("_", " ").split(" ")
    return " ".join(word.upper() if word in ("auc", "ece", "f1", "kl") else word for word in words)


def _short(value: int | float) -> str:
    """Three decimals; large numbers in four digits; a rounded 0 without a sign."""
    if isinstance(value, int):
        return str(value)
    text = f"{value:.3f}" if abs(value) < 1000 else f"{value:.4g}"
    return "0.000" if text == "-0.000" else text


@dataclass(frozen=True)
class Table:
    """A sortable table.

    Args:
        caption: what it shows.
        columns: names of the columns.
        rows: cells.
        note: what was left out, or how to read it.
    """

    caption: str
    columns: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]
    note: str = ""

    @classmethod
    def of(cls, frame: pd.DataFrame, caption: str, note: str = "") -> "Table":
        """From a DataFrame; rows past the first 400 are left out and counted in the note."""
        if len(frame) > MOST_ROWS:
            note = f"{note} The first {MOST_ROWS} of {len(frame)} rows.".strip()
        records = frame.head(MOST_ROWS).astype(object).itertuples(index=False, name=None)
        columns = tuple(readable(column) for column in frame.columns)
        return cls(caption, columns, tuple(tuple(map(Cell.of, row)) for row in records), note)

    def is_number(self, column: int) -> bool:
        """Whether the column holds only numbers; they are aligned right."""
        return all(row[column].number for row in self.rows)

    def is_long(self, column: int) -> bool:
        """Whether the column holds text that needs room."""
        return any(len(row[column].text) > 24 for row in self.rows)


@dataclass(frozen=True)
class Section:
    """One part of a page.

    Args:
        title: its heading.
        key: its anchor on the page.
        sentences: what was found, in words with numbers.
        warnings: what a reader must know before trusting it.
        figures: plotly figures with title and caption.
        tables: sortable tables.
        markup: trusted HTML made by us; everything in it that comes from data is escaped already.
        runs: name of a file to the details of the run that wrote it.
        commands: how to compute the files again.
        leads: how many of the sentences also go into the page's summary.
        explores: whether its markup needs the explorer's script.
        bias: of decisions: "negative" or "positive" where one is shown; it names the page.
    """

    title: str
    key: str
    sentences: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    figures: tuple[go.Figure, ...] = ()
    tables: tuple[Table, ...] = ()
    markup: Markup = field(default_factory=Markup)
    runs: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    commands: Sequence[str] = ()
    leads: int = 1
    explores: bool = False
    bias: str = ""
