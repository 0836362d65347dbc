"""A calibration: what to take off d, in each candidate order, so that yes is said as often as it is expected."""

import html
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from ..decisions import BinaryReport
from ..errors import CalibrationError
from ..prompts import ORDERS, Order
from ..results import parsing_result, read_result, write_result
from ..run import RunInfo


@dataclass(frozen=True, repr=False)
class Calibration:
    """Offsets of d = logit(No) - logit(Yes) for one model, wording and pair of candidates, one a candidate order.

    Calibrated decisions are d less the offset; below 0 the answer is Yes. What sorts right from wrong within an order
    stays as it was, to the last bit; over both orders pooled it may change, as each order is shifted by its own offset.

    Args:
        offsets: in each order, in logits; above 0 where the model leans to No.
        low, high: ends of their intervals; bootstrap over questions, 95%, NaN without any.
        prior: the expected rate of yes that they were fitted for.
        by: how they were fitted: "mean" or "quantile".
        yes_tokens, no_tokens: ids of the tokens that answers begin with, all spellings.
        shared: tokens that both answers begin with, which prompts then end with.
        run: of the decisions that they were fitted on.

    Caveat: one offset for all kinds of questions takes the lean of their mixture away, not that of each kind.

    Source: ours; on the embedded model it does what content-free calibration (Zhao et al. 2021) doesn't.
    """

    offsets: Mapping[Order, float]
    low: Mapping[Order, float]
    high: Mapping[Order, float]
    prior: float
    by: str
    yes_tokens: tuple[int, ...]
    no_tokens: tuple[int, ...]
    shared: tuple[int, ...] = ()
    run: RunInfo = field(kw_only=True)

    def check(self, theirs: RunInfo, orders: Iterable[Order]) -> None:
        """Makes sure that it belongs to the decisions of this run, in these orders.

        Raises:
            CalibrationError: decisions of another model, wording, pair of candidates or order, or calibrated ones.
        """
        own = self.run
        if not own.model_hash and own.model != theirs.model:
            raise CalibrationError(
                f"the calibration is of {own.model}, whose weights aren't known, and the decisions are of "
                f"{theirs.model}; calibrate that model"
            )
        if own.model_hash != theirs.model_hash:
            raise CalibrationError(
                f"the calibration is of {own.model} with weights {own.model_hash[:8]}, and the decisions are of "
                f"{theirs.model} with weights {theirs.model_hash[:8]}; calibrate that model"
            )
        pairs = [f"{run.template.get('yes')}/{run.template.get('no')}" for run in (own, theirs)]
        if pairs[0] != pairs[1]:
            raise CalibrationError(
                f"the calibration is for the candidates {pairs[0]}, and the decisions are between {pairs[1]}; "
                f"calibrate with those candidates"
            )
        if own.template != theirs.template:
            raise CalibrationError(
                f"the calibration is for the wording {own.template}, and the questions were asked as "
                f"{theirs.template}; calibrate in that wording"
            )
        if missing := [order for order in dict.fromkeys(orders) if order not in self.offsets]:
            raise CalibrationError(
                f"there is no offset for order {missing[0]!r}; calibrate with order='both', or decide in one order"
            )
        if earlier := [note for note in theirs.notes if note.startswith(("calibrated:", "mean over both orders"))]:
            raise CalibrationError(f"the decisions are not the model's own any more ({earlier[0]}); decide again")

    def apply(self, report: BinaryReport) -> BinaryReport:
        """The decisions less the offsets; the answer mass stays the model's own.

        Raises:
            CalibrationError: as `check`.
        """
        self.check(report.run, report.order)
        shift = np.array([self.offsets[order] for order in report.order])
        note = f"calibrated: d less {self._told()}; over both orders the AUC may move, within an order it can't"
        run = replace(report.run, notes=(*report.run.notes, note))
        return replace(report, logit_differences=report.logit_differences - shift, run=run)

    def logit_bias(self, order: Order) -> dict[int, float]:
        """Token id -> what to add to its logit at the answer's first token, as OpenAI-compatible servers take it.

        All spellings of the candidate that the model leans away from are raised, so that the answer mass never falls.

        Raises:
            CalibrationError: no offset for the order, or candidates that begin alike: their first token can't be told.
        """
        if order not in self.offsets:
            raise CalibrationError(f"there is no offset for order {order!r}; it has {', '.join(self.offsets)}")
        if self.shared:
            raise CalibrationError(
                "the candidates begin with the same tokens, where no bias on a first token tells them apart; take "
                "candidates of one token"
            )
        if self.offsets[order] and not self.raised(order):
            raise CalibrationError(
                f"{self.run.model} gave no ids of the tokens that answers begin with, so no bias can be put on them; "
                f"take the offset off the decisions: decide(...).calibrated(c)"
            )
        return self.raised(order)

    def raised(self, order: Order) -> dict[int, float]:
        """`logit_bias` at the token that tells the candidates apart."""
        offset = self.offsets[order]
        tokens = self.yes_tokens if offset > 0 else self.no_tokens
        return dict.fromkeys(tokens, abs(offset)) if offset else {}

    def processor(self, order: Order, prompt_length: int) -> Any:
        """What takes the offset off while a model generates: a transformers LogitsProcessor, see `AnswerOffset`."""
        # Imported here, as it needs transformers, and a calibration that is only read doesn't.
        from .processor import AnswerOffset

        return AnswerOffset(self, order, prompt_length)

    def to_dataframe(self) -> pd.DataFrame:
        """One row an order: offset and the ends of its interval, in logits."""
        rows = [{"order": o, "offset": c, "low": self.low[o], "high": self.high[o]} for o, c in self.offsets.items()]
        return pd.DataFrame(rows)

    def save(self, path: str | Path) -> Path:
        """Writes JSON; raises as `write_result` does."""
        names = ("offsets", "low", "high", "prior", "by", "yes_tokens", "no_tokens", "shared")
        content = {"kind": "calibration", **{name: getattr(self, name) for name in names}}
        return write_result(path, {**content, "run": self.run.to_dict()})

    @classmethod
    def load(cls, path: str | Path) -> "Calibration":
        """Reads what `save` wrote."""
        content = read_result(path, "calibration", "a calibration", "write one with `nasa-interp calibrate`")
        with parsing_result(path, "calibrate again"):
            numbers = {
                name: {o: float("nan") if v is None else float(v) for o, v in content[name].items()}
                for name in ("offsets", "low", "high")
            }
            offsets = numbers["offsets"].items()
            if not offsets or any(o not in ORDERS or not np.isfinite(v) for o, v in offsets):
                raise ValueError("no offset for one order or both")
            low, high = numbers["low"], numbers["high"]
            yes, no, shared = (tuple(map(int, content[name])) for name in ("yes_tokens", "no_tokens", "shared"))
            prior, by, run = float(content["prior"]), str(content["by"]), RunInfo.from_dict(content["run"])
            return cls(numbers["offsets"], low, high, prior, by, yes, no, shared, run=run)

    def _told(self) -> str:
        return ", ".join(f"{value:+.2f} ({order})" for order, value in self.offsets.items())

    def __repr__(self) -> str:
        ends = ", ".join(f"{o} {c:+.2f} [{self.low[o]:+.2f}, {self.high[o]:+.2f}]" for o, c in self.offsets.items())
        return f"Calibration({ends}; by {self.by} for {self.prior:.0%} yes; {self.run.summary()})"

    def _repr_html_(self) -> str:
        return f"<p>{html.escape(repr(self))}</p>{self.to_dataframe().to_html(index=False, float_format='%.3f')}"
