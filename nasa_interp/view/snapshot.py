"""What an explorer shows, without a model: heat maps, prompts under every head, effects; as a file and a page."""

import html
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import HeadError
from ..head_table import HeadTable
from ..heads import Head, HeadList
from ..results import check_place, parsing_result, read_result, write_result
from ..run import RunInfo, write_text
from .shown import ShownPrompt, rounded

# What pages may spend on prompts; the heads that matter most come first.
MOST_NUMBERS = 400_000
TITLES = {
    "values": "raw NAS: attention to No, in the order Yes, No",
    "polarity": "polarity: attention to No (below 0: to Yes) wherever it stands",
    "recency": "recency: attention to the later candidate",
}


@dataclass(frozen=True, repr=False, eq=False)
class Snapshot:
    """An explorer's state as plain values, as its page reads them.

    Args:
        size: number of layers, number of heads in a layer.
        grids: heat maps: name, title, unit, sign, numbers by layer and head with the ends of their intervals.
        prompts: for each question its text, what its prompts hold in each candidate order, and each head's share.
        chosen: the names of the chosen heads.
        effects: what was done to heads, and d before and after.
        run: where it came from.

    Source: ours.
    """

    size: tuple[int, int]
    grids: list[dict[str, Any]]
    prompts: list[dict[str, Any]]
    chosen: tuple[str, ...]
    effects: list[dict[str, Any]]
    run: RunInfo = field(repr=False)

    @classmethod
    def of(
        cls,
        tables: dict[str, HeadTable],
        shown: Sequence[Sequence[ShownPrompt]],
        run: RunInfo,
        chosen: HeadList | None = None,
        effects: Sequence[dict[str, Any]] = (),
    ) -> "Snapshot":
        """From results: tables by name, and for each question its prompts in each order.

        Args:
            tables: by name, scores or what was measured by head; all of one model.
            shown: for each question the same heads' `ShownPrompt` in each candidate order.
            run: where it came from.
            chosen: heads to list.
            effects: what was done to heads, as an explorer shows it.

        Raises:
            HeadError: without a table.
        """
        if not tables:
            raise HeadError("a snapshot without numbers shows nothing; give scores, or a table of effects")
        grids = [grid for table in tables.values() for grid in grids_of(table)]
        size = next(iter(tables.values())).shape
        prompts = [_prompt(orders, _leading(next(iter(tables.values())), orders)) for orders in shown if orders]
        return cls(size, grids, prompts, tuple(str(head) for head in chosen or ()), list(effects), run)

    def content(self) -> dict[str, Any]:
        """Plain values, as the page and the file hold them."""
        names = ("size", "grids", "prompts", "chosen", "effects")
        return {"kind": "explorer_snapshot", **{name: getattr(self, name) for name in names}, "run": self.run.to_dict()}

    def save(self, path: str | Path) -> Path:
        """Writes JSON; in a run folder as `explorer.json` it is part of the report; raises as `write_result` does."""
        return write_result(path, self.content())

    def save_page(self, path: str | Path) -> Path:
        """Writes one page that opens offline, without a kernel; raises as `write_text` does."""
        from .page import explorer_page

        check_place(path, "page")
        return write_text(path, explorer_page(self))

    @classmethod
    def load(cls, path: str | Path) -> "Snapshot":
        """Reads what `save` wrote; raises ResultError where it can't."""
        content = read_result(path, "explorer_snapshot", "an explorer's snapshot", "save one with Explorer.save")
        with parsing_result(path, "save the explorer again", HeadError):
            size = (int(content["size"][0]), int(content["size"][1]))
            chosen = tuple(str(Head.parse(name)) for name in content["chosen"])
            lists = {name: list(content[name]) for name in ("grids", "prompts", "effects")}
            return cls(size=size, chosen=chosen, run=RunInfo.from_dict(content["run"]), **lists)

    def __repr__(self) -> str:
        return (
            f"Snapshot({self.size[0]} layers of {self.size[1]} heads, {len(self.grids)} heat maps, "
            f"{len(self.prompts)} questions; save_page(path) writes a page)"
        )

    def _repr_html_(self) -> str:
        return f"<p>{html.escape(repr(self))}</p>"


def grids_of(table: HeadTable) -> list[dict[str, Any]]:
    """The measured columns of a table, as a page's heat maps."""
    return [grid_content(table, by) for by in table.columns if not np.isnan(table.get(by)).all()]


def grid_content(table: HeadTable, by: str) -> dict[str, Any]:
    """One column as plain values; NaN, not measured, as None."""
    numbers, (low, high) = table.get(by), table.intervals[by]
    scores = "polarity" in table.columns
    reach = float(np.nanmax(np.abs(numbers))) if not np.isnan(numbers).all() else 1.0
    return {
        "name": by if scores else table.quantity,
        "title": TITLES.get(by, by) if scores else f"{table.quantity}: change of logit(No) - logit(Yes)",
        "unit": table.unit,
        "low_means": "below 0: toward Yes" if by != "recency" else "below 0: to the earlier candidate",
        "reach": reach or 1.0,
        "numbers": rounded(numbers, 4),
        "low": rounded(low, 4),
        "high": rounded(high, 4),
    }


def _leading(table: HeadTable, orders: Sequence[ShownPrompt]) -> list[Head]:
    """The heads that a page can hold of these prompts, those with the largest numbers first."""
    by = "polarity" if "polarity" in table.columns and not np.isnan(table.get("polarity")).all() else "values"
    size = np.nan_to_num(np.abs(table.get(by)))
    known = set(orders[0].heads).intersection(*(shown.heads for shown in orders[1:]))
    heads = sorted(known, key=lambda head: (-size[head.layer, head.index], head))
    each = sum(2 * (len(shown.tokens) + len(shown.tokens) - shown.first_query) for shown in orders)
    return heads[: max(1, MOST_NUMBERS // max(each, 1))]


def _prompt(orders: Sequence[ShownPrompt], heads: Sequence[Head]) -> dict[str, Any]:
    return {
        "question": orders[0].question,
        "orders": [shown.prompt_content() for shown in orders],
        "heads": {str(head): [shown.head_content(head) for shown in orders] for head in heads},
    }
