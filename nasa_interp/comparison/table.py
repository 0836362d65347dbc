"""One table of methods against a model's bias: what each gained and cost, and how far NASA is from it."""

import html
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from ..decisions import BinaryReport
from ..errors import ResultError
from ..evaluation import TextChange
from ..evaluation.paired import Paired, Samples, average, estimate
from ..results import check_files, check_place, file_hashes, parsing_result, read_result, write_result
from ..run import RunInfo, read_json
from .verdict import verdict_of

NAME, PARTS = "compare.json", "compare"
BASE, NASA, RANDOM, LORA = "base", "nasa", "random heads", "lora"
CALIBRATION, FREE, UNLABELED = "calibration", "content-free", "without labels"

DIFFERENCES = ("recovered", "accuracy", "auc_within_orders")
_ENDS = ("_low", "_high")


def entry_name(method: str, variant: str) -> str:
    """What the folder of an entry is called."""
    return f"{method} {variant}".strip().replace(" ", "_")


@dataclass(frozen=True, repr=False)
class Entry:
    """One method, fitted once, and what it decided on the test questions.

    Args:
        method: its name; `variant` tells several runs of it apart: "seed 0", "set 3", or empty.
        report: the decisions.
        weights: how many weights it changed or trained; `share` of all.
        text: what it cost on plain text; None where weights stayed as they are.
        seconds: wall time of fitting.
        fitted: plain values: what was fitted.
    """

    method: str
    variant: str
    report: BinaryReport
    weights: int = 0
    share: float = 0.0
    text: TextChange | None = None
    seconds: float = math.nan
    fitted: Mapping[str, Any] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """Method and variant, as a folder may be called."""
        return entry_name(self.method, self.variant)

    def save(self, folder: Path) -> Path:
        """Writes the decisions, then the change on text, and last what says that both are there, by their hashes."""
        check_place(folder / "entry.json", "entry")
        self.report.save(folder / "report.json")
        if self.text is not None:
            self.text.save(folder / "text.json")
        names = ("method", "variant", "weights", "share", "seconds", "fitted")
        content = {name: getattr(self, name) for name in names} | {"has_text": self.text is not None}
        written = ["report.json"] if self.text is None else ["report.json", "text.json"]
        return write_result(folder / "entry.json", {"kind": "entry", **content, **file_hashes(folder, written)})

    @classmethod
    def load(cls, folder: Path) -> "Entry":
        """Reads what `save` wrote; raises ResultError where it can't."""
        content = read_json(folder / "entry.json")
        check_files(folder / "entry.json", content)
        with parsing_result(folder / "entry.json", "delete it and compare again"):
            text = TextChange.load(folder / "text.json") if content["has_text"] else None
            seconds = math.nan if content["seconds"] is None else float(content["seconds"])
            report, share = BinaryReport.load(folder / "report.json"), float(content["share"])
            method, variant, weights = content["method"], content["variant"], content["weights"]
            return cls(method, variant, report, weights, share, text, seconds, content["fitted"])


@dataclass(frozen=True, repr=False)
class Comparison:
    """NASA beside its baselines, on questions that none of them was fitted on.

    Args:
        entries: the base model first, then every run of every method.
        groups: the groups over which recovered accuracy is pooled, chosen on validation; all where empty.
        run: where it came from.
        details: plain values: heads, recipe, limits, data.
    """

    entries: tuple[Entry, ...]
    groups: tuple[str, ...]
    run: RunInfo = field(repr=False)
    details: dict[str, Any] = field(default_factory=dict, repr=False)

    @property
    def base(self) -> Entry:
        """The model as it is."""
        return self.entries[0]

    @property
    def methods(self) -> tuple[str, ...]:
        """The methods, in the order of the table."""
        return tuple(dict.fromkeys(entry.method for entry in self.entries))

    def of(self, method: str) -> tuple[Entry, ...]:
        """All runs of a method; raises ResultError where it wasn't compared."""
        if entries := tuple(entry for entry in self.entries if entry.method == method):
            return entries
        raise ResultError(f"{method!r} was not compared; there are {', '.join(self.methods)}")

    def to_dataframe(self) -> pd.DataFrame:
        """One row an entry: method, variant, weights, share, each measure with low and high, perplexity ratio, seconds.

        Measures: imbalance in each order, accuracy, recovered, and AUC within an order (the mean of the orders).
        Intervals (95%) are over questions; those of the perplexity ratio over passages.
        """
        rows = [_row(entry, samples) for entry, samples in zip(self.entries, self._samples, strict=True)]
        return pd.DataFrame(rows)

    def summary(self) -> pd.DataFrame:
        """One row a method: runs, and for each measure the mean over its runs, its interval, the least and the most.

        Intervals (95%) are over questions and runs, both drawn anew.
        """
        table = self.to_dataframe()
        numbers = [name for name in table.select_dtypes("number") if not name.endswith(_ENDS)]
        rows = []
        for method in self.methods:
            runs = table[table.method == method]
            spread = {
                f"{name}_{end}": getattr(runs[name], end)() for name in _shown(table.columns) for end in ("min", "max")
            }
            ends = {}
            for name, samples in self._mean(method).items():
                _, ends[f"{name}_low"], ends[f"{name}_high"] = estimate(samples)
            rows.append({"method": method, "runs": len(runs), **runs[numbers].mean().to_dict(), **ends, **spread})
        return pd.DataFrame(rows)

    def differences(self, of: str = NASA) -> pd.DataFrame:
        """How far a method is above each other one: method, measure, both values, difference, low, high.

        Several runs of a method count as their mean. The interval (95%) is paired over questions, and over runs (seeds,
        sets) of either side, drawn anew. `better` is how many of the other method's runs reach the mean of this one or
        more.

        Raises:
            ResultError: where the method wasn't compared.
        """
        own, rows = self._mean(of), []
        for method in self.methods:
            if method == of:
                continue
            other = self._mean(method)
            for name in DIFFERENCES:
                mine, others = float(own[name][0]), [float(run[name][0]) for run in self._runs(method)]
                change, better = estimate(own[name] - other[name]), sum(value >= mine for value in others)
                rows.append((method, name, mine, float(other[name][0]), *change, better, len(others)))
        columns = ["method", "measure", of, "other", "difference", "low", "high", "better", "runs"]
        return pd.DataFrame(rows, columns=pd.Index(columns))

    def text(self) -> str:
        """The summary as lines for a terminal: each measure with its interval, share of weights, perplexity ratio."""
        table, summary = {}, self.summary()
        measures = [name for name in _shown(summary.columns) if f"{name}_low" in summary]
        for row in summary.to_dict(orient="records"):
            name = f"{row['method']} ({row['runs']} runs)" if row["runs"] > 1 else row["method"]
            cells = {title.replace("_", " "): _cell(*(row[title + end] for end in ("", *_ENDS))) for title in measures}
            ratio = "" if math.isnan(row["perplexity_ratio"]) else f"{row['perplexity_ratio']:.4f}"
            table[name] = cells | {"perplexity x": ratio, "weights": f"{row['share']:.3%}"}
        return pd.DataFrame.from_dict(table, orient="index").to_string()

    @cached_property
    def verdict(self) -> tuple[str, ...]:
        """Sentences that say what the numbers say, and when to prefer which method."""
        if NASA not in self.methods:
            return ("NASA was not among the methods that were compared.",)
        return verdict_of(self.summary(), self.differences())

    def save(self, folder: str | Path) -> Path:
        """Writes compare.json (tables and verdict) into the folder, and every entry's decisions into compare/ in it.

        Raises:
            ResultError: where one of these places holds something else.
        """
        folder = Path(folder)
        check_place(folder / NAME, "comparison")
        for entry in self.entries:
            entry.save(folder / PARTS / entry.name)
        tables = {"table": self.to_dataframe(), "summary": self.summary()}
        if NASA in self.methods:
            tables["differences"] = self.differences()
        return write_result(
            folder / NAME,
            {
                "kind": "comparison",
                "verdict": self.verdict,
                **{name: table.to_dict(orient="records") for name, table in tables.items()},
                "groups": self.groups,
                "entries": [entry.name for entry in self.entries],
                **file_hashes(folder, [f"{PARTS}/{entry.name}/entry.json" for entry in self.entries]),
                "details": self.details,
                "run": self.run.to_dict(),
            },
        )

    @classmethod
    def load(cls, folder: str | Path) -> "Comparison":
        """Reads what `save` wrote; raises ResultError where it can't."""
        folder = Path(folder)
        content = read_result(folder / NAME, "comparison", "a comparison", "write one with `nasa-interp compare`")
        with parsing_result(folder / NAME, "compare again"):
            entries = tuple(Entry.load(folder / PARTS / name) for name in content["entries"])
            return cls(entries, tuple(content["groups"]), RunInfo.from_dict(content["run"]), content["details"])

    def __repr__(self) -> str:
        rows = self.summary().to_dict(orient="records")
        shown = ", ".join(f"{row['method']} {row['accuracy']:.2f}" for row in rows)
        return f"Comparison({self.run.summary()}; accuracy: {shown})"

    def _repr_html_(self) -> str:
        lines = "".join(f"<p>{html.escape(line)}</p>" for line in self.verdict)
        return f"<p>{html.escape(repr(self))}</p>{lines}{self.to_dataframe().to_html(index=False, float_format='%.3f')}"

    @cached_property
    def _samples(self) -> list[dict[str, Samples]]:
        paired = Paired(self.base.report, self.groups)
        return [paired.measures(entry.report) for entry in self.entries]

    def _runs(self, method: str) -> list[dict[str, Samples]]:
        self.of(method)
        return [samples for entry, samples in zip(self.entries, self._samples, strict=True) if entry.method == method]

    def _mean(self, method: str) -> dict[str, Samples]:
        """Each measure's mean over the runs of a method, under the name of its column."""
        runs, rng = self._runs(method), np.random.default_rng((self.run.seed, self.methods.index(method)))
        return {name.replace(" ", "_"): average([run[name] for run in runs], rng) for name in _shown(runs[0])}


def _shown(names: Iterable[str]) -> list[str]:
    """The measures of the table: the two imbalances, accuracy, recovered, AUC within orders."""
    return [
        name for name in names if name in DIFFERENCES or (name.startswith("imbalance") and not name.endswith(_ENDS))
    ]


def _cell(value: float, low: float, high: float) -> str:
    return "" if math.isnan(value) else f"{value:+.2f} [{low:+.2f}, {high:+.2f}]"


def _row(entry: Entry, samples: Mapping[str, Samples]) -> dict[str, Any]:
    row = {"method": entry.method, "variant": entry.variant, "weights": entry.weights, "share": entry.share}
    for name in _shown(samples):
        value, low, high = estimate(samples[name])
        column = name.replace(" ", "_")
        row |= {column: value, f"{column}_low": low, f"{column}_high": high}
    text = entry.text
    ratio = (math.nan,) * 3 if text is None else (text.ratio, text.low, text.high)
    row |= dict(zip(("perplexity_ratio", "perplexity_ratio_low", "perplexity_ratio_high"), ratio, strict=True))
    fitted = ", ".join(f"{key} {value}" for key, value in entry.fitted.items() if isinstance(value, (int, float, str)))
    return {**row, "seconds": entry.seconds, "fitted": fitted}
