"""What aligning heads gave: the change of the weights, the log of every head, and where it came from."""

import html
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd

from ..decisions import BinaryReport
from ..deltas.delta import HeadDelta
from ..deltas.formats import export
from ..evaluation import with_evaluation
from ..models import Model
from ..results import FILES, check_files, check_place, file_hashes, parsing_result, write_result
from ..run import RunInfo, read_json
from .validation import ValidationMetrics

DELTA, LOG, UNTUNED = "delta.safetensors", "align.json", "untuned.json"
# What is written into a folder, and the kind of each file.
FILES_OF_A_RUN = {DELTA: "head_delta", LOG: "alignment", UNTUNED: "binary_report"}


@dataclass(frozen=True, repr=False)
class Alignment:
    """Tuned heads, head by head.

    Args:
        delta: the change of the weights.
        rows: one row a head (or so many tuned together): what validation saw before and after, and what became of it;
            its "checkpoints" are rows of what validation saw meanwhile.
        base, tuned: the validation questions' answers of the model before and after.
        outside: hash of all weights but the tuned slices, the same before and after.
        run: where it came from.
        folder: where it lies, if it was saved; what was measured there goes into an export's card.
        untuned: the untuned model's decisions on the validation questions, from which `groups_above_chance` tells which
            kinds of questions it knows; None where a version before wrote the folder.
    """

    delta: HeadDelta
    rows: tuple[dict[str, Any], ...]
    base: ValidationMetrics
    tuned: ValidationMetrics
    outside: str
    run: RunInfo = field(repr=False)
    folder: Path | None = field(default=None, repr=False, compare=False)
    untuned: BinaryReport | None = field(default=None, repr=False, compare=False)

    @property
    def log(self) -> pd.DataFrame:
        """One row a head: accepted or why not, steps, imbalance, AUC, answer mass and perplexity before and after."""
        return pd.DataFrame([_without_checkpoints(row) for row in self.rows])

    @property
    def checkpoints(self) -> pd.DataFrame:
        """One row a checkpoint while a head (or so many together) was tuned; `kept` marks what stayed."""
        return pd.DataFrame(self._checkpoint_rows())

    def to_dataframe(self) -> pd.DataFrame:
        """The log."""
        return self.log

    def export(
        self,
        folder: str | Path,
        model: Model,
        format: str = "hf",
        notes: str = "",
        verify: bool = True,
        base: str | Path | None = None,
        stored: str = "float32",
    ) -> Path:
        """Writes the tuned model: see `nasa_interp.deltas.export`; `model` is the base model.

        The card tells what `evaluate_change(...).save(run.folder)` measured, as that of the `export` command does.
        """
        delta = with_evaluation(model, self.delta, self.folder) if self.folder else self.delta
        return export(model, delta, folder, format, notes, verify, base, stored)

    def save(self, folder: str | Path) -> Path:
        """Writes delta.safetensors, untuned.json and align.json, which holds their hashes, into the folder.

        Raises:
            ResultError: where one of these places holds something else.
        """
        folder = Path(folder)
        for name, kind in FILES_OF_A_RUN.items():
            check_place(folder / name, kind)
        object.__setattr__(self, "folder", folder)
        self.delta.save(folder / DELTA)
        parts = [DELTA]
        if self.untuned is not None:
            self.untuned.save(folder / UNTUNED)
            parts.append(UNTUNED)
        return write_result(
            folder / LOG,
            {
                "kind": "alignment",
                **file_hashes(folder, parts),
                "heads": [str(head) for head in self.delta.heads],
                "base": self.base.to_dict(),
                "tuned": self.tuned.to_dict(),
                "table": [_without_checkpoints(row) for row in self.rows],
                "checkpoints": self._checkpoint_rows(),
                "outside_hash": self.outside,
                "setting": {key: value for key, value in self.delta.log.items() if key != "steps"},
                "run": self.run.to_dict(),
            },
        )

    @classmethod
    def load(cls, folder: str | Path) -> "Alignment":
        """Reads what `save` wrote; raises ResultError or DeltaError where it can't, or the two are of two runs."""
        folder = Path(folder)
        content = read_json(folder / LOG)
        check_files(folder / LOG, content)
        with parsing_result(folder / LOG, "align again"):
            base, tuned = (ValidationMetrics.from_dict(content[name]) for name in ("base", "tuned"))
            rows, run = content["table"], RunInfo.from_dict(content["run"])
            # Versions before called them looks.
            checkpoints = content["checkpoints"] if "checkpoints" in content else content["looks"]
            rows = tuple(row | {"checkpoints": _of_head(row["head"], checkpoints)} for row in rows)
            delta, outside = HeadDelta.load(folder / DELTA), content["outside_hash"]
            # A file that this log doesn't name is another run's.
            known = UNTUNED in content.get(FILES, {})
            untuned = BinaryReport.load(folder / UNTUNED) if known else None
            return cls(delta, rows, base, tuned, outside, run, folder, untuned)

    def _checkpoint_rows(self) -> list[dict[str, Any]]:
        return [
            {"head": row["head"], **checkpoint, "kept": row["accepted"] and _is_kept(row, checkpoint)}
            for row in self.rows
            for checkpoint in row["checkpoints"]
        ]

    def _sorting(self) -> str:
        """What became of the sorting: by labels, or without them beside the untuned decisions."""
        if math.isnan(self.base.mean_auc):
            return f"rank correlation with the untuned d {self.tuned.least_rank:.2f}"
        return (
            f"accuracy {self.base.accuracy:.2f} -> {self.tuned.accuracy:.2f}, "
            f"AUC {self.base.mean_auc:.2f} -> {self.tuned.mean_auc:.2f}"
        )

    def __repr__(self) -> str:
        kept = sum(row["accepted"] for row in self.rows)
        return (
            f"Alignment({kept} of {len(self.rows)} steps kept; on validation imbalance "
            f"{self.base.worst_imbalance:+.2f} -> {self.tuned.worst_imbalance:+.2f}, "
            f"{self._sorting()}; {self.delta.n_changed:,} weights changed)"
        )

    def _repr_html_(self) -> str:
        return f"<p>{html.escape(repr(self))}</p>{self.log.to_html(index=False, float_format='%.3f')}"


def _without_checkpoints(row: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in row.items() if key != "checkpoints"}


def _of_head(head: str, checkpoints: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """A head's own checkpoints, as its row holds them."""
    return [
        {key: value for key, value in checkpoint.items() if key not in ("head", "kept")}
        for checkpoint in checkpoints
        if checkpoint["head"] == head
    ]


def _is_kept(row: dict[str, Any], checkpoint: dict[str, Any]) -> bool:
    """Whether this checkpoint is what was kept; logs from before there were retries know no rates."""
    return checkpoint["step"] == row["steps"] and checkpoint.get("rate") == row.get("rate")
