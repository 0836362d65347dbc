"""One table of numbers by head, whatever they measure: columns with intervals, each prompt's own, and the run."""

import html
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar, Literal, TypeVar

import numpy as np
import pandas as pd
from jaxtyping import Float

from .bootstrap import DRAWS, cluster_index, cluster_interval, draw_weights
from .errors import HeadError, ResultError, warn_user
from .heads import SIDES, Head, HeadList, Toward
from .results import HASH, Arrays, parsing_result, read_result, read_tensors, write_with_tensors
from .run import RunInfo, digest_of

# Not typing.Self, which run-time checks of single methods can't resolve.
Table = TypeVar("Table", bound="HeadTable")


@dataclass(frozen=True, repr=False)
class HeadTable:
    """Numbers for every head, averaged over prompts; NaN means not measured.

    Args:
        columns: by name, [layer, head]; "values" is the first.
        intervals: for each column, low and high ends, [2, layer, head]; bootstrap over questions, 95%.
        run: where it came from.
        per_prompt: for each candidate order, each prompt's numbers, [prompt, layer, head]; empty where not kept.
        ids, pairs: the questions' ids and the pairs they belong to, in the order of `per_prompt`.
        asked: a hash of the questions' texts, as ids may be mere line numbers; "" where it isn't known.
        quantity, unit: what was measured, for labels.
        sign: +1 where the heads with the highest numbers push toward No, -1 where those with the lowest do.

    Source: intervals ours.
    """

    columns: dict[str, Float[np.ndarray, "layer head"]]
    intervals: dict[str, Float[np.ndarray, "2 layer head"]]
    run: RunInfo
    per_prompt: dict[str, Float[np.ndarray, "prompt layer head"]] = field(default_factory=dict)
    ids: tuple[str, ...] = ()
    pairs: tuple[str | None, ...] = ()
    asked: str = ""
    quantity: str = "effect"
    unit: str = "logits"
    sign: Literal[1, -1] = 1

    KIND: ClassVar[str] = "head_table"
    # Kinds of earlier versions' files that are such tables.
    EARLIER_KINDS: ClassVar[tuple[str, ...]] = ("head_estimates", "head_grid")
    # How each column follows from the means in each candidate order; no shares: the mean over the orders asked.
    COLUMNS: ClassVar[Mapping[str, Mapping[str, float]]] = {"values": {}}
    # Columns that don't tell No from Yes, and where heads with high numbers look by them.
    OWN_SIDES: ClassVar[Mapping[str, str]] = {}
    # The columns that a line about the table may name heads by; the first that was measured is taken.
    LEADS: ClassVar[tuple[str, ...]] = ("values",)
    # What writes such a file, for the error about another.
    WRITER: ClassVar[str] = "HeadTable.save"

    @classmethod
    def from_prompts(
        cls: type[Table],
        per_prompt: Mapping[str, Float[np.ndarray, "prompt layer head"]],
        questions: Sequence[Any],
        run: RunInfo,
        draws: int | None = None,
        **fields: Any,
    ) -> Table:
        """Averages over prompts, with intervals.

        Args:
            per_prompt: for each candidate order, the numbers of the same questions.
            questions: with `id`, `pair` and `question`, in the order of the prompts.
            run: where they came from; its seed is that of the bootstrap.
            draws: of the bootstrap; None takes the run's.
            fields: the class's other fields: quantity, unit, sign, ...
        """
        ids, pairs = tuple(q.id for q in questions), tuple(q.pair for q in questions)
        columns, intervals = cls._summarize(per_prompt, ids, pairs, run, draws)
        asked = digest_of(q.asked for q in questions)
        return cls(columns, intervals, run, dict(per_prompt), ids, pairs, asked, **fields)

    @property
    def values(self) -> Float[np.ndarray, "layer head"]:
        """The first column."""
        return self.columns["values"]

    @property
    def shape(self) -> tuple[int, int]:
        """Number of layers, number of heads in a layer."""
        return self.values.shape

    def get(self, by: str) -> Float[np.ndarray, "layer head"]:
        """The column of this name; raises HeadError for an unknown one."""
        if by not in self.columns:
            raise HeadError(f"heads can't be ranked by {by!r}; use one of {', '.join(self.columns)}")
        return self.columns[by]

    def __getitem__(self, head: Any) -> float:
        """The head's number in the first column."""
        parsed = Head.parse(head)
        HeadList((parsed,)).check(*self.shape)
        return float(self.values[parsed.layer, parsed.index])

    def top(self, k: int = 10, by: str = "values", from_layer: int = 0, toward: Toward = "no") -> HeadList:
        """The k heads that push most to the wanted side, strongest first.

        Heads that were not measured are never among them, nor are those that push to the other side or to none; where
        fewer are left than asked for, a warning says so.

        Args:
            k: how many, or as many as there are.
            by: a column.
            from_layer: the lowest layer; tuning pays for every layer above the lowest head.
            toward: "no" or "yes", as `BinaryReport.toward` says of a model; "bias" takes both sides, by size, and
                scores keep their signs. A column with a side of its own (recency: the later candidate) has no "yes".

        Raises:
            HeadError: for an unknown column, a k below 1, no such layer, a column that was not measured at all, or a
                side that it doesn't have.
        """
        if k < 1:
            raise HeadError(f"top {k} is empty; ask for 1 or more heads")
        found = self.looking(by, from_layer, toward)
        if len(found) < k:
            warn_user(self._shortfall(len(found), k, by, from_layer, found.toward))
        return found[:k]

    def looking(self, by: str = "values", from_layer: int = 0, toward: Toward = "no") -> HeadList:
        """Every head that pushes to this side, strongest first; arguments and errors are those of `top`."""
        found, sign = self.ranking(by, from_layer, toward), self._sign(by, toward)
        kept = [place for place, score in enumerate(found.scores) if (sign * score > 0 if sign else score != 0)]
        heads, scores = (tuple(row[place] for place in kept) for row in (found.heads, found.scores))
        return replace(found, heads=heads, scores=scores)

    def ranking(self, by: str = "values", from_layer: int = 0, toward: Toward = "no") -> HeadList:
        """Every measured head, those that push most to this side first and those that push most to the other last.

        Arguments and errors are those of `top`.
        """
        grid, sign = self.get(by), self._sign(by, toward)
        if not 0 <= from_layer < self.shape[0]:
            raise HeadError(f"no layer {from_layer} to begin at; the layers are 0 to {self.shape[0] - 1}")
        if np.isnan(grid).all():
            raise HeadError(f"{by!r} was not measured: it needs {self._needs(by)}; ask with order='both'")
        above = np.where(np.arange(len(grid))[:, None] >= from_layer, grid, np.nan)
        found = ranked(above, self._ranked_by(by), self.run.to_dict(), sign)
        # High numbers of a column with a side of its own are neither No nor Yes.
        side = self.OWN_SIDES.get(by, "") if toward == "no" and not self._tells(by) else toward
        return replace(found, toward=side)

    def rank_correlation(self, other: "HeadTable", by: str = "values") -> float:
        """Spearman's correlation over the heads measured in both: 1 if both rank them alike, signs respected."""
        if self.shape != other.shape:
            raise ResultError(
                f"rankings of {self.shape} and {other.shape} heads are of two models; compare tables of one model"
            )
        grids = {i: table._direction(by) * table.get(by).ravel() for i, table in enumerate((self, other))}
        return float(pd.DataFrame(grids).dropna().corr("spearman").to_numpy()[0, 1])

    def diff(self: Table, other: "HeadTable") -> Table:
        """This minus another; paired question by question (with intervals) where both asked the same questions."""
        if self.shape != other.shape:
            raise ResultError(
                f"tables of {self.shape} and {other.shape} heads are of two models; subtract one model's from each "
                f"other"
            )
        if (self.unit, self.sign) != (other.unit, other.sign):
            raise ResultError(f"numbers in {self.unit!r} and {other.unit!r} can't be subtracted; measure both alike")
        columns = {name: grid - other.get(name) for name, grid in self.columns.items()}
        intervals = {name: np.full((2, *self.shape), np.nan) for name in columns}
        table = replace(self, columns=columns, intervals=intervals, per_prompt={}, ids=(), pairs=(), asked="")
        if self._paired_with(other):
            per_prompt = {order: numbers - other.per_prompt[order] for order, numbers in self.per_prompt.items()}
            paired = self._summarize(per_prompt, self.ids, self.pairs, self.run)
            table = replace(self, columns=columns | paired[0], intervals=intervals | paired[1], per_prompt=per_prompt)
        return replace(table, quantity=f"difference in {self.quantity}")

    def to_dataframe(self) -> pd.DataFrame:
        """One row a head: its name, and each column with the ends of its interval."""
        layers, heads = np.indices(self.shape)
        columns: dict[str, Any] = {"layer": layers.ravel(), "index": heads.ravel()}
        for name, grid in self.columns.items():
            low, high = self.intervals[name]
            columns |= {name: grid.ravel(), f"{name}_low": low.ravel(), f"{name}_high": high.ravel()}
        frame = pd.DataFrame(columns)
        frame.insert(0, "head", [f"{layer}.{head}" for layer, head in zip(frame.layer, frame["index"], strict=True)])
        return frame

    def save(self, path: str | Path) -> Path:
        """Writes the columns as JSON, and the numbers of each prompt as safetensors beside it.

        Raises:
            ResultError: where one of the two files holds something else.
        """
        names = ("quantity", "unit", "sign")
        content = {
            "kind": self.KIND,
            **{name: getattr(self, name) for name in names},
            "columns": list(self.columns),
            **self.columns,
            "intervals": self.intervals,
            "ids": self.ids,
            "pairs": self.pairs,
            "asked": self.asked,
            **self._further_words(),
            "run": self.run.to_dict(),
        }
        return write_with_tensors(path, content, {**self.per_prompt, **self._further_arrays()})

    @classmethod
    def load(cls: type[Table], path: str | Path) -> Table:
        """Reads what `save` wrote; without the file beside it, `per_prompt` is empty, with a warning.

        Raises:
            ResultError: where the file holds something else, one of the two files is damaged, or they don't belong
                together.
        """
        content = read_result(
            path,
            cls.KIND,
            cls.KIND.replace("_", " "),
            f"write such a file with {cls.WRITER}",
            earlier=cls.EARLIER_KINDS,
        )
        with parsing_result(path, "compute it again"):
            content = _of_today(content)
            arrays = read_tensors(path, content, lambda arrays: cls._gives(arrays, content))
            table = cls._from_content(path, content, arrays or {})
        # Files without a hash may have been written without tensors; those had no ids either.
        if arrays is None and (HASH in content or table.ids):
            warn_user(f"{path}: the numbers of each prompt are missing; these are the means alone")
        return table

    @classmethod
    def _from_content(cls: type[Table], path: str | Path, content: dict[str, Any], arrays: Arrays) -> Table:
        run, per_prompt = RunInfo.from_dict(content["run"]), _by_order(content, arrays)
        ids, pairs, names = tuple(content["ids"]), tuple(content["pairs"]), content["columns"]
        if content["intervals"] is not None:
            intervals = {name: _grid(content["intervals"][name]) for name in names}
        elif per_prompt:
            intervals = cls._summarize(per_prompt, ids, pairs, run)[1]
        else:
            intervals = {name: np.full((2, *_grid(content[name]).shape), np.nan) for name in names}
        return cls(
            {name: _grid(content[name]) for name in names},
            intervals,
            run,
            per_prompt,
            ids,
            pairs,
            content["asked"],
            content["quantity"],
            content["unit"],
            content["sign"],
            **cls._further_fields(path, content, arrays),
        )

    def _further_words(self) -> dict[str, Any]:
        """What a subclass adds to the JSON."""
        return {}

    def _further_arrays(self) -> Arrays:
        """What a subclass adds to the tensors, by names that are no candidate order's."""
        return {}

    @classmethod
    def _further_fields(cls, path: str | Path, content: dict[str, Any], arrays: Arrays) -> dict[str, Any]:
        """A subclass's own fields, from what it added."""
        return {}

    def _ranked_by(self, by: str) -> str:
        """What a list of heads is said to be ranked by."""
        return self.quantity if by == "values" else f"{self.quantity} {by}"

    def _tells(self, by: str) -> bool:
        """Whether a column's sign tells No from Yes: it follows from the orders' means and has no side of its own."""
        return by in self.COLUMNS and by not in self.OWN_SIDES

    def _direction(self, by: str) -> int:
        """The sign of a column; one that doesn't follow from the orders' means ranks its highest number first."""
        return self.sign if by in self.COLUMNS else 1

    def _sign(self, by: str, toward: Toward) -> int:
        """1: heads with high numbers push to this side; -1: those with low ones; 0: either way, size counts."""
        if toward not in ("no", "yes", "bias"):
            raise HeadError(f"heads can't be ranked toward {toward!r}; use 'no', 'yes' or 'bias'")
        if toward == "yes" and not self._tells(by):
            raise HeadError(f"{by!r} doesn't tell No from Yes: no head is toward Yes; leave toward out, or use 'bias'")
        return {"no": self._direction(by), "yes": -self._direction(by), "bias": 0}[toward]

    def _shortfall(self, count: int, asked: int, by: str, from_layer: int, side: str) -> str:
        """Why there are fewer heads than asked for, and what to do."""
        numbers = self.get(by)[from_layer:]
        unmeasured = int(np.isnan(numbers).sum())
        one_sided = side in ("no", "yes", "later")
        other = f"not toward {SIDES[side]}" if one_sided else "at 0" if side else "not above 0"
        left = {"not measured": unmeasured, f"{other} by {by}": numbers.size - unmeasured - count}
        words = [f"{n} of which {'is' if n == 1 else 'are'} {what}" for what, n in left.items() if n]
        total = f"the model has {numbers.size} heads" + (f" from layer {from_layer} on" if from_layer else "")
        remedy = "ask for fewer" + (", or for both sides with toward 'bias'" if one_sided else "")
        return f"{count} of {asked} heads asked: {', '.join([total, *words])}; {remedy}"

    def _needs(self, by: str) -> str:
        orders = tuple(self.COLUMNS.get(by, ()))
        return "both candidate orders" if len(orders) != 1 else f"the order {orders[0]}"

    def _paired_with(self, other: "HeadTable") -> bool:
        """Whether both hold numbers of the same prompts."""
        alike = (self.asked, self.ids, self.per_prompt.keys()) == (other.asked, other.ids, other.per_prompt.keys())
        return alike and bool(self.asked) and bool(self.per_prompt)

    @classmethod
    def _summarize(
        cls,
        per_prompt: Mapping[str, Float[np.ndarray, "prompt layer head"]],
        ids: Sequence[str],
        pairs: Sequence[str | None],
        run: RunInfo,
        draws: int | None = None,
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        """The columns, and their intervals."""
        clusters = cluster_index(ids, pairs)
        weights = draw_weights(clusters, draws or run.draws or DRAWS, run.seed)
        samples = cls.combine({order: _weighted_mean(numbers, weights) for order, numbers in per_prompt.items()})
        return cls._means(per_prompt), {name: cluster_interval(drawn, clusters) for name, drawn in samples.items()}

    @classmethod
    def _means(cls, per_prompt: Mapping[str, Float[np.ndarray, "prompt layer head"]]) -> dict[str, Any]:
        means = {o: _weighted_mean(x, np.ones((1, len(x)), dtype=np.float32)) for o, x in per_prompt.items()}
        return {name: grids[0] for name, grids in cls.combine(means).items()}

    @classmethod
    def combine(
        cls, means: dict[str, Float[np.ndarray, "draw layer head"]]
    ) -> dict[str, Float[np.ndarray, "draw layer head"]]:
        """The columns from the means in each order; NaN where an order is missing."""
        columns = {}
        for name, shares in cls.COLUMNS.items():
            weights = shares or dict.fromkeys(means, 1 / len(means))
            grids = [share * means[order] for order, share in weights.items() if order in means]
            complete = len(grids) == len(weights)
            columns[name] = np.sum(grids, axis=0) if complete else np.full_like(next(iter(means.values())), np.nan)
        return columns

    @classmethod
    def _gives(cls, arrays: Arrays, content: dict[str, Any]) -> bool:
        """Whether these numbers of each prompt have the means that were saved."""
        per_prompt, shape = _by_order(content, arrays), (len(content["ids"]), *_grid(content["values"]).shape)
        if not per_prompt or any(numbers.shape != shape for numbers in per_prompt.values()):
            return False
        means = cls._means(per_prompt)
        return all(np.allclose(mean, _grid(content[name]), 1e-6, 1e-9, equal_nan=True) for name, mean in means.items())

    def __repr__(self) -> str:
        words = f"{self.quantity} of {self.shape[0]} x {self.shape[1]} heads; {self.run.summary()}"
        measured = [by for by in self.LEADS if not np.isnan(self.get(by)).all()]
        if not measured:
            return f"{type(self).__name__}({words})"
        top = self.looking(measured[0], toward="bias")[:5]
        best = ", ".join(f"{head} {score:+.2f}" for head, score in zip(top.heads, top.scores, strict=True))
        return f"{type(self).__name__}({words}; top by {measured[0]}, either way: {best})"

    def _repr_html_(self) -> str:
        frame = self.to_dataframe().sort_values("values", key=abs, ascending=False).head(10)
        return f"<p>{html.escape(repr(self))}</p>{frame.to_html(index=False, float_format='%.3f')}"


def ranked(
    grid: Float[np.ndarray, "layer head"], by: str, run: dict[str, Any], sign: int = 1, k: int | None = None
) -> HeadList:
    """The k heads (all by default) with the highest numbers first; NaN is never among them.

    Args:
        sign: -1: the lowest numbers first; 0: the largest of either sign.
    """
    if k is not None and k < 1:
        raise HeadError(f"top {k} is empty; ask for 1 or more heads")
    flat = grid.ravel()
    strength = sign * flat if sign else np.abs(flat)
    cells = [int(cell) for cell in np.argsort(-strength, kind="stable") if not np.isnan(flat[cell])][:k]
    heads = tuple(Head(*divmod(cell, grid.shape[1])) for cell in cells)
    return HeadList(heads, tuple(float(flat[cell]) for cell in cells), by, run)


def _weighted_mean(
    numbers: Float[np.ndarray, "prompt layer head"], weights: Float[np.ndarray, "draw prompt"]
) -> Float[np.ndarray, "draw layer head"]:
    """Weighted means over prompts that leave out what was not measured."""
    flat = numbers.reshape(len(numbers), -1).astype(np.float64)
    measured = ~np.isnan(flat)
    totals = weights @ np.where(measured, flat, 0.0)
    counts = weights @ measured
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(counts > 0, totals / counts, np.nan).reshape(-1, *numbers.shape[1:])


def _grid(rows: list) -> Float[np.ndarray, "*rest"]:
    """Nested lists with null for NaN, as an array of fp64."""
    return np.array(rows, dtype=object).astype(np.float64)


def _of_today(content: dict[str, Any]) -> dict[str, Any]:
    """A file's content under the current names; a file of an earlier version has no list of columns."""
    if "columns" in content:
        return content
    if "rows" not in content:
        names = {"values": "values", "polarity": "polarity", "order": "recency"}
        grids = {new: content[old] for old, new in names.items()}
        intervals = {new: content["intervals"][old] for old, new in names.items()}
        return {"asked": "", "sign": 1, **content, **grids, "columns": list(grids), "intervals": intervals}
    # One row a prompt, the prompts of one order after those of another; no intervals.
    rows, sign = content["rows"], -1 if content["kind"] == "head_estimates" else 1
    first = [row for row, order in enumerate(rows["orders"]) if order == rows["orders"][0]]
    ids, pairs = ([rows[name][row] for row in first] for name in ("ids", "pairs"))
    words = {"quantity": content["by"], "unit": "logits", "sign": sign, "asked": "", "ids": ids, "pairs": pairs}
    return {**content, **words, "columns": ["values"], "values": content["mean"], "intervals": None}


def _by_order(content: dict[str, Any], arrays: Arrays) -> Arrays:
    """The numbers of each prompt by candidate order."""
    if "rows" in content and arrays:
        orders = np.array(content["rows"]["orders"])
        return {str(order): arrays["heads"][orders == order] for order in dict.fromkeys(orders.tolist())}
    # A tensor file keeps its tensors by name; the orders are those of the run, in which other rows follow them.
    orders = [name for name in content["run"]["orders"] if name in arrays]
    return {name: arrays[name] for name in dict.fromkeys([*orders, *arrays]) if arrays[name].ndim == 3}
