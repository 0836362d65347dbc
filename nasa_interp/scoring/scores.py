"""The scores of all heads, as one value that knows where it came from."""

import html
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
from jaxtyping import Float

from ..bootstrap import DRAWS, cluster_index, cluster_interval, draw_weights
from ..errors import HeadError, ResultError
from ..heads import Head, HeadList
from ..questions import BinaryQuestion
from ..results import HASH, Arrays, read_tensors, write_with_tensors
from ..run import RunInfo, digest_of, read_json

Quantity = Literal["values", "polarity", "order"]
QUANTITIES: tuple[Quantity, ...] = ("values", "polarity", "order")


@dataclass(frozen=True, repr=False)
class HeadScores:
    """A score for every head, averaged over prompts; NaN means not measured.

    Args:
        values: mean NAS in the yes_no order, [layer, head].
        polarity: (yes_no + no_yes) / 2: what attends to the negative candidate wherever it stands.
        order: (yes_no - no_yes) / 2: above 0, the head attends to the later candidate.
        intervals: for each of the three, low and high ends, [2, layer, head]; bootstrap over questions, 95%.
        per_prompt: for each order, the score on each prompt, [prompt, layer, head]; empty where it was not kept.
        ids, pairs: the questions' ids and the pairs they belong to, in the order of `per_prompt`.
        asked: a hash of the questions' texts, as ids may be mere line numbers; "" in files of versions before.
        quantity, unit: what was measured, for labels.
        run: where it came from.

    Source: values as in the paper; polarity, order and intervals are ours.
    """

    values: Float[np.ndarray, "layer head"]
    polarity: Float[np.ndarray, "layer head"]
    order: Float[np.ndarray, "layer head"]
    intervals: dict[str, Float[np.ndarray, "2 layer head"]]
    run: RunInfo
    per_prompt: dict[str, Float[np.ndarray, "prompt layer head"]] = field(default_factory=dict)
    ids: tuple[str, ...] = ()
    pairs: tuple[str | None, ...] = ()
    asked: str = ""
    quantity: str = "NAS"
    unit: str = "nats, summed over queries"

    @classmethod
    def from_prompts(
        cls,
        per_prompt: dict[str, Float[np.ndarray, "prompt layer head"]],
        questions: Sequence[BinaryQuestion],
        run: RunInfo,
        unit: str = "nats, summed over queries",
        draws: int = DRAWS,
    ) -> "HeadScores":
        """Averages over prompts, with intervals."""
        clusters = cluster_index(questions)
        weights = draw_weights(clusters, draws, run.seed)
        whole = np.ones((1, len(questions)), dtype=np.float32)
        means = {order: _weighted_mean(scores, whole) for order, scores in per_prompt.items()}
        samples = {order: _weighted_mean(scores, weights) for order, scores in per_prompt.items()}
        point, spread = _quantities(means), _quantities(samples)
        return cls(
            **{name: point[name][0] for name in QUANTITIES},
            intervals={name: cluster_interval(spread[name], clusters) for name in QUANTITIES},
            run=run,
            per_prompt=dict(per_prompt),
            ids=tuple(q.id for q in questions),
            pairs=tuple(q.pair for q in questions),
            asked=digest_of(q.question for q in questions),
            unit=unit,
        )

    @property
    def shape(self) -> tuple[int, int]:
        """Number of layers, number of heads in a layer."""
        return self.values.shape

    def get(self, by: str) -> Float[np.ndarray, "layer head"]:
        """The quantity of this name; raises HeadError for an unknown one."""
        if by not in QUANTITIES:
            raise HeadError(f"heads can't be ranked by {by!r}; use one of {', '.join(QUANTITIES)}")
        return getattr(self, by)

    def __getitem__(self, head: Any) -> float:
        """The head's mean NAS in the yes_no order."""
        found = Head.parse(head)
        HeadList((found,)).check(*self.shape)
        return float(self.values[found.layer, found.index])

    def top(self, k: int = 10, by: str = "values", from_layer: int = 0) -> HeadList:
        """The k heads with the highest scores, best first; heads that were not measured are never among them.

        Args:
            k: how many, or as many as there are.
            by: "values", "polarity" or "order".
            from_layer: the lowest layer; tuning pays for every layer above the lowest head.

        Raises:
            HeadError: for an unknown quantity, a k below 1, no such layer, or a quantity that was not measured at all.
        """
        grid = self.get(by)
        if not 0 <= from_layer < self.shape[0]:
            raise HeadError(f"no layer {from_layer} to begin at; the scores have layers 0 to {self.shape[0] - 1}")
        if k < 1:
            raise HeadError(f"top {k} is empty; ask for 1 or more heads")
        if np.isnan(grid).all():
            needs = "the order yes_no" if by == "values" else "both candidate orders"
            raise HeadError(f"{by!r} was not measured: it needs {needs}; score with order='both'")
        flat = grid.ravel()
        measured = ~np.isnan(flat) & (np.arange(flat.size) >= from_layer * self.shape[1])
        ranked = [place for place in np.argsort(-flat, kind="stable") if measured[place]][:k]
        heads = tuple(Head(*divmod(int(place), self.shape[1])) for place in ranked)
        return HeadList(heads, tuple(float(flat[place]) for place in ranked), by, self.run.to_dict())

    def diff(self, other: "HeadScores") -> "HeadScores":
        """This minus another; paired question by question (with intervals) where both scored the same questions."""
        if self.shape != other.shape:
            raise ResultError(
                f"scores of {self.shape} and {other.shape} heads are of two models; subtract one model's from "
                f"each other"
            )
        if self.unit != other.unit:
            raise ResultError(f"scores in {self.unit!r} and {other.unit!r} can't be subtracted; score both alike")
        same = bool(self.asked) and (self.asked, self.ids) == (other.asked, other.ids)
        if same and self.per_prompt.keys() == other.per_prompt.keys():
            paired = {o: scores - other.per_prompt[o] for o, scores in self.per_prompt.items()}
            questions = [BinaryQuestion("-", True, i, pair=p) for i, p in zip(self.ids, self.pairs, strict=True)]
            result = HeadScores.from_prompts(paired, questions, self.run, self.unit, self.run.draws or DRAWS)
            result = replace(result, asked=self.asked)
        else:
            grids = {name: getattr(self, name) - getattr(other, name) for name in QUANTITIES}
            unknown = {name: np.full((2, *self.shape), np.nan) for name in QUANTITIES}
            result = HeadScores(**grids, intervals=unknown, run=self.run, unit=self.unit)
        return replace(result, quantity=f"difference in {self.quantity}")

    def to_dataframe(self) -> pd.DataFrame:
        """One row a head: its name, and each quantity with the ends of its interval."""
        layers, heads = np.indices(self.shape)
        columns: dict[str, Any] = {"layer": layers.ravel(), "index": heads.ravel()}
        for name in QUANTITIES:
            low, high = self.intervals[name]
            columns |= {name: getattr(self, name).ravel(), f"{name}_low": low.ravel(), f"{name}_high": high.ravel()}
        frame = pd.DataFrame(columns)
        frame.insert(0, "head", [f"{layer}.{head}" for layer, head in zip(frame.layer, frame["index"], strict=True)])
        return frame

    def save(self, path: str | Path) -> Path:
        """Writes the means as JSON, and the scores of each prompt as safetensors beside it.

        Raises:
            ResultError: where one of the two places holds something else.
        """
        content = {
            "kind": "head_scores",
            "quantity": self.quantity,
            "unit": self.unit,
            **{name: getattr(self, name) for name in QUANTITIES},
            "intervals": self.intervals,
            "ids": self.ids,
            "pairs": self.pairs,
            "asked": self.asked,
            "run": self.run.to_dict(),
        }
        return write_with_tensors(path, content, self.per_prompt)

    @classmethod
    def load(cls, path: str | Path) -> "HeadScores":
        """Reads what `save` wrote; without the file beside it, `per_prompt` is empty, with a warning.

        Raises:
            ResultError: where the file holds something else, one of the two files is damaged, or they don't belong
                together.
        """
        content = read_json(path)
        if not isinstance(content, dict) or content.get("kind") != "head_scores":
            raise ResultError(f"{path} does not hold head scores; write them with `nasa-interp score`")
        per_prompt = read_tensors(path, content, lambda arrays: _gives(arrays, content))
        # Files without a hash may have been written without tensors; those had no ids either.
        if per_prompt is None and (HASH in content or content.get("ids")):
            warnings.warn(f"{path}: the scores of each prompt are missing; these are the means alone", stacklevel=2)
        try:
            return cls(
                **{name: _grid(content[name]) for name in QUANTITIES},
                intervals={name: _grid(content["intervals"][name]) for name in QUANTITIES},
                run=RunInfo.from_dict(content["run"]),
                per_prompt=per_prompt or {},
                ids=tuple(content["ids"]),
                pairs=tuple(content["pairs"]),
                asked=content.get("asked", ""),
                quantity=content["quantity"],
                unit=content["unit"],
            )
        except (KeyError, TypeError, ValueError) as error:
            raise ResultError(f"{path} is damaged ({error!r}); score again") from error

    def __repr__(self) -> str:
        measured = [by for by in ("polarity", "values") if not np.isnan(self.get(by)).all()]
        said = f"{self.quantity} of {self.shape[0]} x {self.shape[1]} heads; {self.run.summary()}"
        if not measured:
            return f"HeadScores({said})"
        top = self.top(5, measured[0])
        best = ", ".join(f"{head} {score:+.2f}" for head, score in zip(top.heads, top.scores, strict=True))
        return f"HeadScores({said}; top by {measured[0]}: {best})"

    def _repr_html_(self) -> str:
        frame = self.to_dataframe().sort_values("values", ascending=False).head(10)
        return f"<p>{html.escape(repr(self))}</p>{frame.to_html(index=False, float_format='%.3f')}"


def _gives(arrays: Arrays, content: dict[str, Any]) -> bool:
    """Whether these scores of each prompt have the means that were saved."""
    saved = {name: _grid(content[name]) for name in QUANTITIES}
    rows = (len(content["ids"]), *saved["values"].shape)
    if not arrays or any(each.shape != rows for each in arrays.values()):
        return False
    whole = np.ones((1, len(content["ids"])), dtype=np.float32)
    means = _quantities({order: _weighted_mean(scores, whole) for order, scores in arrays.items()})
    return all(np.allclose(means[name][0], saved[name], 1e-6, 1e-9, equal_nan=True) for name in QUANTITIES)


def _grid(rows: list) -> Float[np.ndarray, "*rest"]:
    """Nested lists with null for NaN, as an array of fp64."""
    return np.array(rows, dtype=object).astype(np.float64)


def _weighted_mean(
    scores: Float[np.ndarray, "prompt layer head"], weights: Float[np.ndarray, "draw prompt"]
) -> Float[np.ndarray, "draw layer head"]:
    """Weighted means over prompts that leave out what was not measured."""
    flat = scores.reshape(len(scores), -1).astype(np.float64)
    measured = ~np.isnan(flat)
    totals = weights @ np.where(measured, flat, 0.0)
    counts = weights @ measured
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(counts > 0, totals / counts, np.nan).reshape(-1, *scores.shape[1:])


def _quantities(means: dict[str, Float[np.ndarray, "draw layer head"]]) -> dict[str, Any]:
    """The three quantities from the means in each order; NaN where an order is missing."""
    missing = np.full_like(next(iter(means.values())), np.nan)
    yes_no, no_yes = means.get("yes_no", missing), means.get("no_yes", missing)
    return {"values": yes_no, "polarity": (yes_no + no_yes) / 2, "order": (yes_no - no_yes) / 2}
