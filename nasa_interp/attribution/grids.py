"""One number a prompt and head: what every such grid can do, whatever the number means."""

import html
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, ClassVar, TypeVar

import numpy as np
import pandas as pd
from jaxtyping import Float, Int
from scipy.stats import spearmanr

from ..bootstrap import DRAWS, cluster_index, cluster_interval, draw_weights
from ..errors import HeadError, ResultError
from ..heads import Head, HeadList
from ..interventions.sweep import HeadSweep
from ..prompts import PromptBatch
from ..questions import BinaryQuestion
from ..results import Arrays, read_tensors, tensors_of, write_with_tensors
from ..run import RunInfo, read_json

# Not typing.Self, which run-time checks of single methods can't resolve.
Grid = TypeVar("Grid", bound="HeadGrid")


@dataclass(frozen=True)
class Rows:
    """Which prompt each row of a grid is: the question's id, its pair, the candidate order."""

    ids: tuple[str, ...]
    pairs: tuple[str | None, ...]
    orders: tuple[str, ...]

    @classmethod
    def of(cls, batches: list[PromptBatch]) -> "Rows":
        """The rows of these batches, one batch after another."""
        rows = [(q.id, q.pair, batch.order) for batch in batches for q in batch.questions]
        ids, pairs, orders = zip(*rows, strict=True)
        return cls(ids, pairs, orders)

    def weights(self, draws: int, seed: int) -> Float[np.ndarray, "draw prompt"]:
        """Bootstrap draws over questions, twins and both orders of a question together."""
        return draw_weights(self.clusters, draws, seed)

    @property
    def clusters(self) -> Int[np.ndarray, " prompt"]:
        """The number of each row's cluster: what is drawn together."""
        return cluster_index([BinaryQuestion("-", True, i, pair=p) for i, p in zip(self.ids, self.pairs, strict=True)])


@dataclass(frozen=True, repr=False)
class HeadGrid:
    """One number for each prompt and head; the base of what estimates and attributions are.

    Args:
        heads: the numbers, [prompt, layer, head].
        rows: which prompts they are of.
        run: where they came from.
    """

    heads: Float[np.ndarray, "prompt layer head"]
    rows: Rows
    run: RunInfo

    KIND: ClassVar[str] = "head_grid"
    # -1 where the lowest numbers are the heads that push toward No.
    SIGN: ClassVar[int] = 1

    @property
    def mean(self) -> Float[np.ndarray, "layer head"]:
        """Mean over prompts."""
        return self.heads.mean(0, dtype=np.float64)

    @property
    def name(self) -> str:
        """What heads are ranked by."""
        return self.KIND.replace("_", " ")

    def __getitem__(self, head: Any) -> float:
        """The head's mean over prompts."""
        found = Head.parse(head)
        HeadList((found,)).check(*self.heads.shape[1:])
        return float(self.mean[found.layer, found.index])

    def top(self, k: int = 10) -> HeadList:
        """The k heads that push the answer toward No the most, first first.

        Raises:
            HeadError: for a k below 1.
        """
        return ranked(self.mean, self.name, self.run.to_dict(), self.SIGN, k)

    def agreement(self, sweep: HeadSweep) -> float:
        """Spearman's rank correlation with an exact sweep over its heads: 1 if both rank heads alike, first to last."""
        own = [self.SIGN * self[head] for head in sweep.heads]
        return float(np.asarray(spearmanr(own, -sweep.effect))[0])

    def to_dataframe(self) -> pd.DataFrame:
        """One row a head: head, layer, index, mean, and the ends of its bootstrap interval (95%)."""
        weights = self.rows.weights(self.run.draws or DRAWS, self.run.seed).astype(np.float64)
        shares = weights / weights.sum(1, keepdims=True)
        draws = shares @ self.heads.reshape(len(self.heads), -1).astype(np.float64)
        low, high = cluster_interval(draws, self.rows.clusters)
        layers, indices = (places.ravel() for places in np.indices(self.heads.shape[1:]))
        names = [f"{layer}.{index}" for layer, index in zip(layers, indices, strict=True)]
        columns = {"head": names, "layer": layers, "index": indices, "mean": self.mean.ravel()}
        return pd.DataFrame({**columns, "low": low, "high": high})

    def save(self, path: str | Path) -> Path:
        """Writes means and details as JSON, and the numbers of each prompt as safetensors beside it.

        Raises:
            ResultError: where one of the two places holds something else.
        """
        rows = {field.name: getattr(self.rows, field.name) for field in fields(Rows)}
        content = {"kind": self.KIND, "by": self.name, **self._words(), "mean": self.mean, "rows": rows}
        return write_with_tensors(path, {**content, "run": self.run.to_dict()}, self._arrays())

    @classmethod
    def load(cls: type[Grid], path: str | Path) -> Grid:
        """Reads what `save` wrote.

        Raises:
            ResultError: where the file holds something else, one of the two files is damaged, or they don't belong
                together.
        """
        content = read_json(path)
        if not isinstance(content, dict) or content.get("kind") != cls.KIND:
            raise ResultError(f"{path} does not hold a {cls.KIND}; was it saved by {cls.__name__}?")
        arrays = read_tensors(path, content, lambda arrays: _gives(arrays, content))
        if not arrays:
            raise ResultError(f"{tensors_of(path)} is missing; copy it beside {path}, or compute both again")
        try:
            rows = Rows(**{name: tuple(values) for name, values in content["rows"].items()})
            return cls._from(content, arrays, rows, RunInfo.from_dict(content["run"]))
        except (KeyError, TypeError, ValueError) as error:
            raise ResultError(f"{path} is damaged ({error!r}); compute it again") from error

    def _arrays(self) -> dict[str, np.ndarray]:
        return {"heads": self.heads}

    def _words(self) -> dict[str, Any]:
        return {}

    @classmethod
    def _from(
        cls: type[Grid], content: dict[str, Any], arrays: dict[str, np.ndarray], rows: Rows, run: RunInfo
    ) -> Grid:
        return cls(arrays["heads"], rows, run)

    def __repr__(self) -> str:
        top = self.top(5)
        best = ", ".join(f"{head} {score:+.2f}" for head, score in zip(top.heads, top.scores, strict=True))
        size = "{} x {}".format(*self.heads.shape[1:])
        return f"{type(self).__name__}({self.name} of {size} heads; {self.run.summary()}; top: {best})"

    def _repr_html_(self) -> str:
        frame = self.to_dataframe().sort_values("mean", ascending=self.SIGN < 0).head(10)
        return f"<p>{html.escape(repr(self))}</p>{frame.to_html(index=False, float_format='%.3f')}"


def ranked(
    grid: Float[np.ndarray, "layer head"], by: str, run: dict[str, Any], sign: int = 1, k: int | None = None
) -> HeadList:
    """The k heads (all by default) with the highest numbers, or with sign -1 the lowest; NaN is never among them."""
    if k is not None and k < 1:
        raise HeadError(f"top {k} is empty; ask for 1 or more heads")
    flat = grid.ravel()
    places = [int(place) for place in np.argsort(-sign * flat, kind="stable") if not np.isnan(flat[place])][:k]
    heads = tuple(Head(*divmod(place, grid.shape[1])) for place in places)
    return HeadList(heads, tuple(float(flat[place]) for place in places), by, run)


def _gives(arrays: Arrays, content: dict[str, Any]) -> bool:
    """Whether these numbers of each prompt have the means that were saved."""
    heads, mean = arrays["heads"], np.array(content["mean"], dtype=np.float64)
    rows = (len(content["rows"]["ids"]), *mean.shape)
    return heads.shape == rows and np.allclose(heads.mean(0, dtype=np.float64), mean, 1e-6, 1e-9, equal_nan=True)
