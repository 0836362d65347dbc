"""The measures of decisions that lie in parts on disk: a few dozen bytes a question are all that is held."""

import os
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float, Int, Int8, UInt64

from ..bootstrap import DRAWS, cluster_keys, poisson_weights
from ..decisions import MeasuredDecisions
from ..decisions.measured import Measuring, Rows
from ..prompts import ORDERS, Order
from ..results import parsing_result, read_result, write_result
from ..run import RunInfo
from .parts import Parts

# Weights of the bootstrap that are held at once.
BLOCK = 2**20


@dataclass(frozen=True, repr=False, eq=False)
class StreamedReport(MeasuredDecisions):
    """Decisions of any number of questions, and from them the measures overall, per group and per candidate order.

    It measures what a `BinaryReport` does; the questions and decisions themselves lie in the parts. Its intervals are
    of a Poisson bootstrap, in which a question's weight depends on its pair's (or its own) id alone.

    Args:
        logit_differences, answer_masses, order, run, unsure: as in a `BinaryReport`, one order after the other.
        keys: of the questions' clusters.
        labels: of the questions: 1 yes, 0 no, -1 nobody knows.
        groups_of_questions, rules_of_questions: their group, and the rule that made the wrong candidate of their pair.
        folder: where the parts lie.
    """

    logit_differences: Float[np.ndarray, " decision"]
    answer_masses: Float[np.ndarray, " decision"]
    order: tuple[Order, ...]
    run: RunInfo
    keys: UInt64[np.ndarray, " question"]
    labels: Int8[np.ndarray, " question"]
    groups_of_questions: pd.Categorical
    rules_of_questions: pd.Categorical
    folder: Path
    unsure: Bool[np.ndarray, " decision"] | None = field(default=None)

    @cached_property
    def label(self) -> Bool[np.ndarray, " decision"] | None:
        """True where the yes candidate is the right word; None where nobody knows."""
        if (self.labels < 0).any():
            return None
        return np.tile((self.labels == 1) != self.reversed, self._n_orders)

    @property
    def clusters(self) -> Int[np.ndarray, " decision"]:
        """The number of each decision's cluster."""
        return np.tile(np.unique(self.keys, return_inverse=True)[1], self._n_orders)

    @cached_property
    def group_of(self) -> pd.Categorical:
        """The group of each decision's question."""
        return _tiled(self.groups_of_questions, self._n_orders)

    @cached_property
    def rule_of(self) -> pd.Categorical:
        """By which rule each decision's wrong candidate was made."""
        return _tiled(self.rules_of_questions, self._n_orders)

    @property
    def n_questions(self) -> int:
        """How many questions were asked."""
        return len(self.keys)

    @property
    def _n_orders(self) -> int:
        return len(self.order) // len(self.keys)

    def drawn(self, rows: Rows, found: Measuring) -> dict[str, Float[np.ndarray, " draw"]]:
        """What `found` makes of these decisions' weights in every draw, some draws at a time."""
        keys, draws = np.tile(self.keys, self._n_orders)[rows], self.run.draws or DRAWS
        step = max(1, BLOCK // len(keys))
        blocks = [
            found(poisson_weights(keys, range(first, min(first + step, draws)), self.run.seed))
            for first in range(0, draws, step)
        ]
        return {name: np.concatenate([block[name] for block in blocks]) for name in blocks[0]}

    @classmethod
    def of(cls, parts: Parts, run: RunInfo, name: str = "") -> "StreamedReport":
        """The decisions in these parts; `name` says whose, where several were asked."""
        columns = ["id", "pair", "group", "label", "made", *(f"{name}{what}_{o}" for o in run.orders for what in WHAT)]
        found = _Columns(tuple(o for o in ORDERS if o in run.orders), name)
        for number in range(parts.n):
            found.add(parts.read(number, columns).table)
        return found.report(run, parts.folder)

    def save(self, path: str | Path) -> Path:
        """Writes the measures as JSON, and where the parts lie; raises as `write_result` does."""
        beside = os.path.relpath(self.folder, Path(path).parent)
        content = {"kind": "streamed_report", **self.measures(), "parts": beside, "run": self.run.to_dict()}
        return write_result(path, content)

    @classmethod
    def load(cls, path: str | Path) -> "StreamedReport":
        """Reads the decisions again from the parts that a saved report names."""
        content = read_result(path, "streamed_report", "a report of decisions in parts", "decide with --parts")
        with parsing_result(path, "decide again"):
            run = RunInfo.from_dict(content["run"])
            return cls.of(Parts.opened(Path(path).parent / content["parts"]), run)


WHAT = ("d", "mass", "unsure")


class _Columns:
    """The columns of a report, which grow part by part."""

    def __init__(self, orders: tuple[Order, ...], name: str):
        self.orders, self.name = orders, name
        self.keys: list[np.ndarray] = []
        self.labels: list[np.ndarray] = []
        self.codes: dict[str, list[np.ndarray]] = {"group": [], "made": []}
        self.names: dict[str, dict[str, int]] = {"group": {}, "made": {}}
        self.decided = {f"{what}_{order}": [] for order in orders for what in WHAT}

    def add(self, table) -> None:
        """Counts a part in."""
        rows = table.select(["id", "pair", "group", "label", "made"]).to_pydict()
        self.keys.append(cluster_keys(rows["id"], rows["pair"]))
        self.labels.append(np.array([-1 if label is None else int(label) for label in rows["label"]], dtype=np.int8))
        for kind, names in self.names.items():
            of = [-1 if value is None else names.setdefault(value, len(names)) for value in rows[kind]]
            self.codes[kind].append(np.array(of, dtype=np.int16))
        for column, values in self.decided.items():
            values.append(table[f"{self.name}{column}"].to_numpy())

    def report(self, run: RunInfo, folder: Path) -> StreamedReport:
        """All of them."""
        keys, labels = np.concatenate(self.keys), np.concatenate(self.labels)
        codes = {kind: np.concatenate(parts) for kind, parts in self.codes.items()}
        codes["made"] = _rule_of_pair(keys, codes["made"], labels == 0)
        groups, rules = (pd.Categorical.from_codes(codes[kind], list(names)) for kind, names in self.names.items())
        d, mass, unsure = (
            np.concatenate([part for order in self.orders for part in self.decided[f"{what}_{order}"]]) for what in WHAT
        )
        asked: tuple[Order, ...] = tuple(order for order in self.orders for _ in range(len(keys)))
        rules = rules.remove_unused_categories()
        apart = None if unsure.dtype == object or np.isnan(unsure.astype(float)).any() else unsure.astype(bool)
        return StreamedReport(d, mass, asked, run, keys, labels, groups, rules, folder, apart)


def _rule_of_pair(keys: np.ndarray, rules: np.ndarray, wrong: np.ndarray) -> np.ndarray:
    """Each question's rule, and a right candidate's that of its twin, which holds the wrong one."""
    order = np.argsort(keys[wrong], kind="stable")
    known, own = keys[wrong][order], rules[wrong][order]
    if not len(known):
        return rules
    place = np.searchsorted(known, keys).clip(max=len(known) - 1)
    return np.where(known[place] == keys, own[place], rules)


def _tiled(values: pd.Categorical, times: int) -> pd.Categorical:
    return pd.Categorical.from_codes(np.tile(values.codes, times), values.categories)
