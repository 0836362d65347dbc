"""What activation patching found, as one value that knows where it came from."""

import html
import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
from jaxtyping import Float

from ..bootstrap import DRAWS, cluster_index, cluster_interval, draw_weights
from ..errors import HeadError, ResultError
from ..head_table import HeadTable, ranked
from ..heads import Head, HeadList
from ..prompts import Order
from ..prompts.pairs import PairKind
from ..results import parsing_result, read_result, write_result
from ..run import RunInfo

By = Literal["head", "class", "position", "together"]
# Under this difference of clean and corrupted (in logits, on average) there is nothing to recover a share of.
LEAST_DIFFERENCE = 0.05
CARRY = {
    "question": "twins: heads that carry the truth",
    "neutral": "a candidate renamed in the instruction: heads that carry the bias",
    "order": "candidates in the other order: heads that carry the bias of order",
}


@dataclass(frozen=True, repr=False)
class PatchEffects:
    """The logit difference d = logit(No) - logit(Yes) of corrupted runs with heads' outputs from clean ones.

    Args:
        heads: the heads, in the order of the rows.
        patched: d under the patch: [head, pair], [head, place, pair] by class or position, [pair] for a joint patch.
        clean, corrupted: d of the two runs as they are.
        by: "head", "class", "position", or "together" for a joint patch of all heads.
        places: names of the places that were patched one at a time.
        kind: of the pairs: "question" (the heads that matter carry the truth), "neutral", "order" (the bias).
        ids, pairs: the corrupted prompts' questions and the pairs of twins that they belong to.
        shape: layers of the model, heads in a layer.
        run: where it came from.

    Source: recovery and intervals ours.
    """

    heads: tuple[Head, ...]
    patched: Float[np.ndarray, "*cell pair"]
    clean: Float[np.ndarray, " pair"]
    corrupted: Float[np.ndarray, " pair"]
    by: By
    places: tuple[str, ...]
    kind: PairKind
    ids: tuple[str, ...]
    pairs: tuple[str | None, ...]
    shape: tuple[int, int]
    run: RunInfo

    @property
    def effect(self) -> Float[np.ndarray, "*cell"]:
        """Mean of patched - corrupted; below 0: the clean outputs move the answer toward Yes."""
        return np.asarray((self.patched - self.corrupted).mean(-1))

    @property
    def difference(self) -> float:
        """Mean of clean - corrupted: what there is to recover."""
        return float((self.clean - self.corrupted).mean())

    @property
    def recovered(self) -> Float[np.ndarray, "*cell"]:
        """The effect as a share of the mean difference clean - corrupted; NaN where that is under 0.05.

        0: the patch does nothing; 1: as if the whole prompt were the clean one; below 0: it moves away from it.
        """
        whole = self.difference if abs(self.difference) >= LEAST_DIFFERENCE else math.nan
        return np.asarray(self.effect / whole)

    @cached_property
    def intervals(self) -> dict[str, Float[np.ndarray, "2 *cell"]]:
        """Bootstrap intervals (95%) of "effect" and "recovered" over pairs, twins drawn together."""
        clusters = cluster_index(self.ids, self.pairs)
        weights = draw_weights(clusters, self.run.draws or DRAWS, self.run.seed).astype(np.float64)
        weights /= weights.sum(1, keepdims=True)
        moved = np.moveaxis((self.patched - self.corrupted) @ weights.T, -1, 0)
        whole = ((self.clean - self.corrupted) @ weights.T).reshape(-1, *[1] * (moved.ndim - 1))
        whole = np.where(np.abs(whole) >= LEAST_DIFFERENCE, whole, np.nan)
        share = moved / whole if abs(self.difference) >= LEAST_DIFFERENCE else np.full_like(moved, np.nan)
        return {name: cluster_interval(draws, clusters) for name, draws in (("effect", moved), ("recovered", share))}

    @property
    def grid(self) -> Float[np.ndarray, "layer head"]:
        """The effect by layer and head, NaN where a head was not patched.

        Raises:
            ResultError: unless heads were patched one by one at all positions.
        """
        return self.table.values

    @property
    def table(self) -> HeadTable:
        """The effects as a table of heads: "values" is the effect, "recovered" the share; each prompt's is the effect.

        Raises:
            ResultError: unless heads were patched one by one at all positions.
        """
        self._single("a table of heads")
        ends = self.intervals
        return HeadTable(
            {"values": self._by_head(self.effect), "recovered": self._by_head(self.recovered)},
            {"values": self._by_head(ends["effect"]), "recovered": self._by_head(ends["recovered"])},
            self.run,
            {self.run.orders[0]: self._by_head((self.patched - self.corrupted).T)},
            self.ids,
            self.pairs,
            quantity=f"patching {self.kind}",
            sign=-1,
        )

    def _by_head(self, numbers: Float[np.ndarray, "*rest head"]) -> Float[np.ndarray, "*rest layer index"]:
        """One number a head as a grid of all heads, NaN where a head was not patched."""
        grid = np.full((*numbers.shape[:-1], *self.shape), np.nan)
        layers, indices = ([getattr(head, name) for head in self.heads] for name in ("layer", "index"))
        grid[..., layers, indices] = numbers
        return grid

    def top(self, k: int = 10, by: Literal["recovered", "effect", "size"] = "recovered") -> HeadList:
        """The k heads that matter most.

        Args:
            k: how many.
            by: "recovered": the largest share of the clean answer first; "effect": farthest toward Yes first; "size":
                the largest effect of either sign first. The scores are that quantity (for "size" the effect).

        Raises:
            ResultError: unless heads were patched one by one at all positions, or where nothing is to be recovered.
            HeadError: for another quantity, or k below 1.
        """
        self._single("a ranking of heads")
        if by not in ("recovered", "effect", "size") or k < 1:
            raise HeadError(f"no top {k} by {by!r}; ask for 1 or more by 'recovered', 'effect' or 'size'")
        scores = self.recovered if by == "recovered" else self.effect
        if np.isnan(scores).any():
            raise ResultError(
                f"clean and corrupted answers differ by {self.difference:+.3f} on average, too little to recover a "
                f"share of; rank by 'effect' or 'size', or take data that the model can tell apart"
            )
        name = f"patching {self.kind} {by}"
        if by != "size":
            return replace(self.table.ranking("values" if by == "effect" else by)[:k], by=name, toward="")
        return ranked(self.grid, name, self.run.to_dict(), sign=0, k=k)

    def to_dataframe(self) -> pd.DataFrame:
        """One row a cell: head (or heads), layer, index, place; effect and recovered with the ends of the intervals."""
        frame = pd.DataFrame(self._names(), columns=["head", "layer", "index", "place"])
        for name in ("effect", "recovered"):
            low, high = self.intervals[name]
            frame[name] = getattr(self, name).ravel()
            frame[f"{name}_low"], frame[f"{name}_high"] = low.ravel(), high.ravel()
        return frame

    def largest(self, k: int = 10) -> pd.DataFrame:
        """The rows of the k cells with the largest effects."""
        frame = self.to_dataframe()
        return frame.reindex(frame.effect.abs().sort_values(ascending=False, kind="stable").index).head(k)

    def save(self, path: str | Path) -> Path:
        """Writes JSON: the table for readers, all values for `load`; raises as `write_result` does."""
        names = ("patched", "clean", "corrupted", "by", "places", "ids", "pairs", "shape")
        return write_result(
            path,
            {
                "kind": "patch_effects",
                "pair_kind": self.kind,
                "difference": self.difference,
                "heads": [str(head) for head in self.heads],
                "table": self.to_dataframe().astype(object).to_dict(orient="records"),
                **{name: getattr(self, name) for name in names},
                "run": self.run.to_dict(),
            },
        )

    @classmethod
    def load(cls, path: str | Path) -> "PatchEffects":
        """Reads what `save` wrote.

        Raises:
            ResultError: where it can't.
        """
        found = read_result(path, "patch_effects", "the effects of patches", "write them with `nasa-interp patch`")
        with parsing_result(path, "patch again"):
            numbers = (np.array(found[name], dtype=np.float64) for name in ("patched", "clean", "corrupted"))
            lists = (tuple(found[name]) for name in ("ids", "pairs", "shape"))
            by, places, kind = found["by"], tuple(found["places"]), found["pair_kind"]
            heads, run = tuple(Head.parse(name) for name in found["heads"]), RunInfo.from_dict(found["run"])
            return cls(heads, *numbers, by, places, kind, *lists, run)  # type: ignore[arg-type]

    def _names(self) -> list[tuple[Any, ...]]:
        if self.by == "together":
            return [(" ".join(map(str, self.heads)), None, None, self.places[0])]
        return [(str(head), head.layer, head.index, place) for head in self.heads for place in self.places]

    def _single(self, what: str) -> None:
        if self.by != "head":
            raise ResultError(f"there is {what} where heads were patched by 'head', not by {self.by!r}; patch so")

    def __str__(self) -> str:
        said = f"{len(self.ids)} pairs ({CARRY[self.kind]}); clean - corrupted {self.difference:+.3f}"
        if self.by == "together":
            share = f", {float(self.recovered):.0%} of it" if not np.isnan(self.recovered).any() else ""
            return f"{len(self.heads)} heads together {float(self.effect):+.3f}{share}; {said}"
        return f"{len(self.heads)} heads by {self.by}, {said}"

    def __repr__(self) -> str:
        return f"PatchEffects({self}; {self.run.summary()})"

    def _repr_html_(self) -> str:
        return f"<p>{html.escape(repr(self))}</p>{self.largest().to_html(index=False, float_format='%.3f')}"


@dataclass(frozen=True, repr=False)
class PatchSummary:
    """Patches in each candidate order: heads one by one, and, where heads were named, all of them together."""

    singles: Mapping[Order, PatchEffects]
    joint: Mapping[Order, PatchEffects]

    def to_dict(self) -> dict[str, Any]:
        """Plain values: for each order a table of single heads, and the joint patch's row."""
        return {
            "kind": "patch_summary",
            "pair_kind": next(iter(self.singles.values())).kind,
            "orders": {
                order: {
                    "pairs": len(effects.ids),
                    "difference": effects.difference,
                    "table": effects.to_dataframe().astype(object).to_dict(orient="records"),
                    "together": self.joint[order].to_dataframe().iloc[0].to_dict() if order in self.joint else None,
                    "run": effects.run.to_dict(),
                }
                for order, effects in self.singles.items()
            },
        }

    def save(self, path: str | Path) -> Path:
        """Writes `to_dict` as JSON; raises as `write_result` does."""
        return write_result(path, self.to_dict())

    def text(self, k: int = 10) -> str:
        """The largest effects in each order, as lines to print."""
        parts = []
        for order, effects in self.singles.items():
            lines = [f"order {order}: {effects}", *(f"  note: {note}" for note in effects.run.notes)]
            shown = effects.largest(k).drop(columns=["layer", "index"])
            lines.append(shown.to_string(index=False, float_format=lambda x: f"{x:+.3f}", na_rep="undefined"))
            lines += [str(self.joint[order])] if order in self.joint else []
            parts.append("\n".join(lines))
        return "\n\n".join(parts)

    def __repr__(self) -> str:
        return f"PatchSummary({'; '.join(f'{order}: {effects}' for order, effects in self.singles.items())})"
