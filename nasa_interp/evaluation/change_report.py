"""The result of measuring a change: every measure before and after, as a table, in files, and in one line."""

import html
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from ..decisions import BinaryReport
from ..deltas.delta import HeadDelta
from ..models import Model
from ..prompts import Order
from ..questions import BinaryQuestion
from ..results import check_place, file_hashes, parsing_result, read_result, write_result
from ..run import RunInfo
from .generation import GenerationReport
from .options import OptionReport
from .paired import Paired, Samples, estimate, question_weights
from .text_change import TextChange

NAME, PARTS = "change.json", "change"
# In earlier versions, which called it the price of a change: file, folder and kind.
EARLIER_NAME, EARLIER = "price.json", "price"


@dataclass(frozen=True, repr=False)
class ChangeReport:
    """Decisions, plain text, four-option questions and free answers before and after a change.

    Args:
        before, after: the decisions.
        groups: the groups over which recovered accuracy is pooled; all where empty.
        text: what the change cost on plain text.
        options: the four-option questions before and after.
        said: what free generation says before and after; None where nothing was generated.
        carried: decisions before and after in prompts of other styles, by a name for each style.
    """

    before: BinaryReport
    after: BinaryReport
    groups: tuple[str, ...]
    text: TextChange
    options: tuple[OptionReport, OptionReport]
    said: tuple[GenerationReport, GenerationReport] | None
    carried: Mapping[str, tuple[BinaryReport, BinaryReport]] = field(default_factory=dict)

    @property
    def run(self) -> RunInfo:
        """Where the decisions after the change came from."""
        return self.after.run

    @cached_property
    def table(self) -> pd.DataFrame:
        """See `to_dataframe`."""
        rows = [*self._decided(), *self._read(), *self._generated(), *self._carried()]
        return pd.DataFrame(rows, columns=pd.Index(_Row._fields))

    def to_dataframe(self) -> pd.DataFrame:
        """One row per measure: before, after, change, and the ends of the change's paired bootstrap interval (95%).

        A measure's part is in brackets: an order, a group of questions, or the style of other prompts.
        """
        return self.table.copy()

    def to_dict(self) -> dict[str, dict[str, float]]:
        """Before, after, change, low, high of each measure, as a model card reads them from `delta.log["measured"]`."""
        return {
            row["measure"]: {k: v for k, v in row.items() if k != "measure"} for row in self.table.to_dict("records")
        }

    def save(self, folder: str | Path) -> Path:
        """Writes change.json, the table, into the folder; the decisions and answers for `load` into change/ in it.

        Raises:
            ResultError: where one of these paths holds something else.
        """
        folder = Path(folder)
        check_place(folder / NAME, "change_report")
        parts: dict[str, BinaryReport | TextChange | OptionReport] = {"text.json": self.text}
        sides = [("", (self.before, self.after)), ("options_", self.options)]
        sides += [(f"carried_{index}_", reports) for index, reports in enumerate(self.carried.values())]
        for name, (before, after) in sides:
            parts |= {f"{name}before.json": before, f"{name}after.json": after}
        for name, part in parts.items():
            part.save(folder / PARTS / name)
        content = {
            "kind": "change_report",
            "groups": self.groups,
            "table": self.table.to_dict(orient="records"),
            **file_hashes(folder, [f"{PARTS}/{name}" for name in parts]),
        }
        generated = None if self.said is None else [_answers(report) for report in self.said]
        return write_result(
            folder / NAME, {**content, "carried": list(self.carried), "said": generated, "run": self.run.to_dict()}
        )

    @classmethod
    def load(cls, folder: str | Path) -> "ChangeReport":
        """Reads what `save` wrote; raises ResultError where it can't."""
        folder = Path(folder)
        path = report_path(folder)
        parts = folder / (EARLIER if path.name == EARLIER_NAME else PARTS)
        content = read_result(
            path, "change_report", "what a change did", "measure one with evaluate_change", earlier=(EARLIER,)
        )
        with parsing_result(path, "measure again"):
            before, after = _both(BinaryReport, parts)
            names = enumerate(content["carried"])
            return cls(
                before,
                after,
                tuple(content["groups"]),
                TextChange.load(parts / "text.json"),
                _both(OptionReport, parts, "options_"),
                None if content["said"] is None else (_report_of(content["said"][0]), _report_of(content["said"][1])),
                {name: _both(BinaryReport, parts, f"carried_{index}_") for index, name in names},
            )

    def __repr__(self) -> str:
        rows = self.table.set_index("measure")
        shown = [f"{name} {rows.before[name]:.2f} -> {rows.after[name]:.2f}" for name in ("accuracy", "recovered")]
        imbalance = ", ".join(f"{self.after.orders[order].imbalance:+.2f}" for order in self.after.orders)
        return (
            f"ChangeReport({self.run.summary()}; {', '.join(shown)}; imbalance after, by order {imbalance}; "
            f"perplexity x {self.text.ratio:.4f}; "
            f"four options {self.options[0].accuracy:.2f} -> {self.options[1].accuracy:.2f})"
        )

    def _repr_html_(self) -> str:
        return f"<p>{html.escape(repr(self))}</p>{self.table.to_html(index=False, float_format='%.3f')}"

    def _decided(self) -> Iterator["_Row"]:
        paired = Paired(self.before, self.groups)
        before, after = paired.measures(self.before), paired.measures(self.after)
        yield from (_Row.of(_named(name), before[name], after[name]) for name in before)
        before, after = paired.group_aucs(self.before), paired.group_aucs(self.after)
        yield from (_Row.of(f"auc ({group})", before[group], after[group]) for group in before)

    def _read(self) -> Iterator["_Row"]:
        text, (before, after) = self.text, self.options
        yield _Row("perplexity ratio", 1.0, text.ratio, text.ratio - 1, text.low - 1, text.high - 1)
        yield _Row("KL on text (nats)", 0.0, text.kl, text.kl, np.nan, np.nan)
        yield _Row("four-option accuracy", before.accuracy, after.accuracy, *after.change_from(before))

    def _generated(self) -> Iterator["_Row"]:
        if self.said is None:
            return
        run = self.run
        weights = question_weights(self.said[0].questions, run.draws, run.seed)
        before, after = (_indicators(report) for report in self.said)
        for name in before:
            rates = [weights @ side[name] / weights.sum(1) for side in (before, after)]
            yield _Row.of(f"generated: {name}", *rates)

    def _carried(self) -> Iterator["_Row"]:
        for style, (one, other) in self.carried.items():
            paired = Paired(one, self.groups)
            before, after = paired.measures(one), paired.measures(other)
            shown = [name for name in before if name.startswith("imbalance")]
            for name in ("accuracy", "recovered", *shown, "auc_within_orders", "answer_mass"):
                yield _Row.of(_named(name, style), before[name], after[name])


class _Row(NamedTuple):
    """One measure of the table."""

    measure: str
    before: float
    after: float
    change: float
    low: float
    high: float

    @classmethod
    def of(cls, name: str, before: Samples, after: Samples) -> "_Row":
        return cls(name, float(before[0]), float(after[0]), *estimate(after - before))


def _both(kind: Any, parts: Path, name: str = "") -> tuple[Any, Any]:
    return kind.load(parts / f"{name}before.json"), kind.load(parts / f"{name}after.json")


def _indicators(report: GenerationReport) -> dict[str, np.ndarray]:
    """For each answer and each property, 1 where the answer has it and else 0."""
    labels = [q.label for q in report.questions]
    right = np.equal(np.array(report.answers, dtype=object), np.array(labels, dtype=object))
    return {
        "yes": np.array([answer is True for answer in report.answers], dtype=np.float64),
        "neither": np.array([answer is None for answer in report.answers], dtype=np.float64),
        "accuracy": np.full(len(labels), np.nan) if None in labels else right.astype(np.float64),
    }


def _named(name: str, style: str = "") -> str:
    """ "imbalance yes_no" as "imbalance (yes_no)", with the prompts' style where it differs."""
    measure, _, order = name.partition(" ")
    inside = ", ".join(part for part in (style, order) if part)
    return f"{measure} ({inside})" if inside else measure


def _answers(report: GenerationReport) -> list[dict[str, Any]]:
    rows = zip(report.questions, report.order, report.texts, report.answers, strict=True)
    names, optional = ("question", "label", "id", "group", "pair"), ("context", "made")
    return [
        {
            **{name: getattr(q, name) for name in names},
            **{name: getattr(q, name) for name in optional if getattr(q, name) is not None},
            "order": order,
            "text": text,
            "answer": answer,
        }
        for q, order, text, answer in rows
    ]


def _report_of(rows: list[dict[str, Any]]) -> GenerationReport:
    order: tuple[Order, ...] = tuple(row["order"] for row in rows)
    questions = tuple(
        BinaryQuestion(r["question"], r["label"], r["id"], r["group"], r["pair"], r.get("context"), r.get("made"))
        for r in rows
    )
    return GenerationReport(questions, order, tuple(r["text"] for r in rows), tuple(r["answer"] for r in rows))


def report_path(folder: Path) -> Path:
    """The path of a folder's change report, under the current name or that of earlier versions."""
    earlier = folder / EARLIER_NAME
    return earlier if earlier.exists() and not (folder / NAME).exists() else folder / NAME


def with_evaluation(model: Model, delta: HeadDelta, folder: str | Path) -> HeadDelta:
    """The delta with its measured change in the log, for the model card; unchanged where the folder holds no report.

    Args:
        model: the delta's base model; it is left as it was.
        delta: the change.
        folder: where `ChangeReport.save` wrote. A report on another change is ignored.

    Raises:
        DeltaError: a change of another model.
    """
    if not report_path(Path(folder)).exists():
        return delta
    report = ChangeReport.load(folder)
    with delta.applied(model):
        if model.weights_hash() != report.run.model_hash:
            return delta
    keys, table = ("before", "after", "low", "high"), report.table.to_dict(orient="records")
    measured = {row["measure"]: {key: row[key] for key in keys} for row in table}
    return replace(delta, log={**delta.log, "measured": measured, "measured_on": report.run.summary()})
