"""The matrix as a table: one row a cell, and a cell's part by what the model knows."""

import html
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from ..decisions import MeasuredDecisions
from ..knowledge import Shortcut
from ..knowledge.shortcuts import FEWEST
from ..results import parsing_result, read_result, write_result
from ..run import RunInfo, jsonable
from ..scoring.overlap import chance_overlap
from .claims import Claim, claims_of

KEYS = ("data", "form", "known")


def row_of(
    data: str, form: str, known: str, report: MeasuredDecisions | None, facts: Mapping[str, Any]
) -> dict[str, Any]:
    """One cell in numbers; NaN where it could not be asked."""
    row: dict[str, Any] = dict(zip(KEYS, (data, form, known), strict=True))
    row |= {"heads": " ".join(facts["heads"]), "note": facts["note"], "seconds": facts["seconds"]}
    if report is None:
        return row | {"n": 0}
    e, within = report.overall, report.orders
    return row | {
        "n": report.n_questions,
        "base_rate": e.base_rate,
        "yes_rate": e.yes_rate,
        "gap": e.gap,
        "imbalance": e.imbalance,
        "imbalance_low": e.low.imbalance,
        "imbalance_high": e.high.imbalance,
        **{f"imbalance_{order}": each.imbalance for order, each in within.items()},
        "meaning_imbalance": report.meaning_imbalance,
        "auc": float(np.mean([each.auc for each in within.values()])),
        "auc_low": float(np.mean([each.low.auc for each in within.values()])),
        "auc_high": float(np.mean([each.high.auc for each in within.values()])),
        "answer_mass": e.answer_mass,
        "unsure": report.unsure_rate,
    }


@dataclass(frozen=True, repr=False, eq=False)
class FormMatrix:
    """Data sets asked in forms.

    Args:
        table: one row a cell (`known` is "all") and a state of knowledge: data, form, known, n; yes_rate, gap,
            imbalance with its interval and in each order, meaning_imbalance, auc (mean over orders, as are its ends),
            answer_mass, unsure; the ten heads of highest polarity, how many of them are among the first cell's
            (`shared`), how many would be by chance (`expected`), and p, that chance shares as many; `note` says why
            something is missing.
        reports: the decisions of each cell, by data and form; empty where the matrix was loaded.
        claims: what the follow-up's claims come to in it.
        run: of the first cell.
        details: the base model's hash and what else makes it.
        shortcuts: what was found of the claim that No is a shortcut where knowledge is missing.
    """

    table: pd.DataFrame
    reports: Mapping[tuple[str, str], MeasuredDecisions]
    claims: tuple[Claim, ...]
    run: RunInfo
    details: dict[str, Any] = field(default_factory=dict)
    shortcuts: tuple[str, ...] = ()

    @classmethod
    def of(
        cls,
        rows: Sequence[dict[str, Any]],
        reports: Mapping[tuple[str, str], MeasuredDecisions],
        run: RunInfo,
        details: dict[str, Any],
        shortcuts: Sequence[Shortcut] = (),
    ) -> "FormMatrix":
        """From the cells' rows and reports, and what was found of No as a shortcut."""
        table = pd.DataFrame(list(rows))
        reference = table.iloc[0]["heads"].split()
        shared = [_shared(reference, heads.split(), details["n_heads"]) for heads in table["heads"]]
        for place, name in enumerate(("shared", "expected", "p")):
            table[name] = [each[place] for each in shared]
        return cls(table, reports, claims_of(reports), run, jsonable(details), tuple(_told(shortcuts)))

    @property
    def cells(self) -> pd.DataFrame:
        """The rows of whole cells."""
        return self.table.query("known == 'all'")

    @property
    def verdict(self) -> list[str]:
        """What the table says, in words."""
        asked = self.cells.query("n > 0")
        no, yes = len(asked.query("imbalance_low > 0")), len(asked.query("imbalance_high < 0"))
        blind, scored = len(asked.query("not auc_low > 0.5")), asked.query("heads != ''")[1:]
        told = [
            f"In {no} of {len(asked)} cells No is said too often, in {yes} Yes; in {len(asked) - no - yes} neither is "
            f"shown."
        ]
        if blind:
            told.append(
                f"In {blind} cells the model does not sort right from wrong better than chance (the AUC's interval "
                f"holds .5): there its answers are preferences between words, and no cure can make them right."
            )
        if len(scored):
            shared = np.array(scored["shared"], dtype=float)
            told.append(
                f"Of the first cell's ten leading heads {shared.min():.0f} to {shared.max():.0f} are among those of "
                f"the others (median {np.median(shared):.0f}; by chance {scored['expected'].mean():.1f})."
            )
        return [*told, *(claim.told for claim in self.claims), *self.shortcuts]

    def to_dataframe(self) -> pd.DataFrame:
        """The table."""
        return self.table

    def grid(self, value: str = "imbalance") -> pd.DataFrame:
        """One value, data down and forms across."""
        cells = self.cells
        grid = cells.pivot(index="data", columns="form", values=value)
        return grid.loc[list(dict.fromkeys(cells["data"])), list(dict.fromkeys(cells["form"]))]

    def save(self, path: str | Path) -> Path:
        """Writes JSON; raises as `write_result` does."""
        content = {
            "kind": "form_matrix",
            "verdict": self.verdict,
            "table": self.table.astype(object).where(self.table.notna(), None).to_dict(orient="records"),
            "claims": [vars(claim) for claim in self.claims],
            "shortcuts": list(self.shortcuts),
            "details": self.details,
            "run": self.run.to_dict(),
        }
        return write_result(path, content)

    @classmethod
    def load(cls, path: str | Path) -> "FormMatrix":
        """Reads what `save` wrote; the reports lie in the run folder's cells."""
        content = read_result(path, "form_matrix", "a matrix of forms", "write one with `nasa-interp matrix`")
        with parsing_result(path, "run it again"):
            table = pd.DataFrame(content["table"])
            numbers = [name for name in table if name not in (*KEYS, "heads", "note")]
            table[numbers] = table[numbers].apply(pd.to_numeric)
            return cls(
                table,
                {},
                tuple(map(_claim, content["claims"])),
                RunInfo.from_dict(content["run"]),
                content["details"],
                tuple(content["shortcuts"]),
            )

    def __repr__(self) -> str:
        return f"FormMatrix({len(self.cells)} cells; {self.verdict[0]})"

    def _repr_html_(self) -> str:
        said = "".join(f"<p>{html.escape(line)}</p>" for line in self.verdict)
        return said + self.grid().to_html(float_format="%.2f")


def _shared(reference: Sequence[str], heads: Sequence[str], n: int) -> tuple[float, float, float]:
    """How many heads two lists share, how many they would by chance, and how likely as many are."""
    if not reference or not heads:
        return math.nan, math.nan, math.nan
    count = len(set(reference) & set(heads))
    return float(count), *chance_overlap(n, len(reference), len(heads), count)


def _told(shortcuts: Sequence[Shortcut]) -> list[str]:
    """The claims that enough questions were asked for, and in how many cells there were too few."""
    told = [each.told for each in shortcuts if not each.few]
    if few := [each for each in shortcuts if each.few]:
        told.append(
            f"Whether No is a shortcut where knowledge is missing can't be told in {len(few)} of {len(shortcuts)} "
            f"cells: {min(each.n_known for each in few)} to {max(each.n_known for each in few)} of the short questions "
            f"there are known, and either side needs {FEWEST}."
        )
    return told


def _claim(row: Mapping[str, Any]) -> Claim:
    numbers = (math.nan if row[name] is None else row[name] for name in ("value", "low", "high"))
    return Claim(row["claim"], row["data"], row["compared"], *numbers, n=row["n"])
