"""Heads and lists of heads: how they are named, ordered, written and read."""

import html
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import pandas as pd

from .errors import HeadError
from .head_formats import read_npy, write_npy, write_pairs
from .reading import read_table, shown
from .results import check_place, write_result, write_table
from .run import read_json, write_json

Side = Literal["no", "yes"]
"""A candidate that a model, or a head, leans to."""
Toward = Literal["no", "yes", "bias"]
"""Where wanted heads look or push: to one candidate, or to either ("bias": by size, whichever way)."""
# In words, for all that a list of heads may look to; "later" is a column's own side.
SIDES = {"no": "No", "yes": "Yes", "bias": "either", "later": "the later candidate", "": ""}

# What to do with a file that is no list of heads.
_WRITE = "write one with `nasa-interp heads`"
_TAKE = "take heads from it with `nasa-interp heads {path} --out heads.json`"
_NAME = re.compile(r"L?(\d{1,9})(?:\.|H)(\d{1,9})")


@dataclass(frozen=True, order=True)
class Head:
    """One attention head: layer and index within the layer, both counted from 0; prints "17.7"."""

    layer: int
    index: int

    def __post_init__(self):
        if self.layer < 0 or self.index < 0:
            raise HeadError(f"layer {self.layer}, head {self.index} is no head; both count from 0")

    def __str__(self) -> str:
        return f"{self.layer}.{self.index}"

    @classmethod
    def parse(cls, value: Any) -> "Head":
        """Reads `Head(17, 7)`, `(17, 7)`, `"17.7"` or `"L17H7"`; raises HeadError on anything else."""
        if isinstance(value, Head):
            return value
        if isinstance(value, str) and (match := _NAME.fullmatch(value.strip())):
            return cls(int(match[1]), int(match[2]))
        if isinstance(value, (tuple, list)) and len(value) == 2 and all(_counts(v) for v in value):
            return cls(*value)
        raise HeadError(f"{shown(value)} does not name a head; write it as '17.7', 'L17H7' or (17, 7)")


@dataclass(frozen=True)
class HeadList:
    """Heads in ranking order, with what they were ranked by and the run that ranked them.

    Args:
        heads: the heads, best first.
        scores: one number per head in the same order, or empty where the heads were only named.
        by: what the scores are: "values", "polarity", "recency", ... or "given".
        run: details of the run (model, data, ...), as `RunInfo.to_dict()` gives them.
        toward: where these heads look or push: "no", "yes", "bias" (either way, by size), "later" (the later
            candidate); "" where nobody said.
    """

    heads: tuple[Head, ...]
    scores: tuple[float, ...] = ()
    by: str = "given"
    run: dict[str, Any] = field(default_factory=dict)
    toward: str = ""

    def __post_init__(self):
        if self.toward not in tuple(SIDES):
            sides = ", ".join(filter(None, SIDES))
            raise HeadError(f"heads can't look toward {shown(self.toward)}; use one of {sides}, or leave it out")
        if len(set(self.heads)) != len(self.heads):
            twice = next(h for h in self.heads if self.heads.count(h) > 1)
            raise HeadError(f"head {twice} is listed more than once; list each head once")
        if self.scores and len(self.scores) != len(self.heads):
            raise HeadError(f"{len(self.heads)} heads but {len(self.scores)} scores; give one a head, or none")

    @classmethod
    def of(cls, heads: "HeadList | Iterable[Any]") -> "HeadList":
        """A HeadList from anything that names heads: a HeadList, or a mix of heads, pairs and strings."""
        if isinstance(heads, HeadList):
            return heads
        if isinstance(heads, (str, Head)):
            heads = [heads]
        return cls(tuple(Head.parse(head) for head in heads))

    def __iter__(self) -> Iterator[Head]:
        return iter(self.heads)

    def __len__(self) -> int:
        return len(self.heads)

    def __getitem__(self, item):
        """A head by index, or a shorter list by slice."""
        if isinstance(item, slice):
            return replace(self, heads=self.heads[item], scores=self.scores[item])
        return self.heads[item]

    def __contains__(self, head) -> bool:
        return Head.parse(head) in self.heads

    def check(self, n_layers: int, n_heads: int) -> "HeadList":
        """Returns itself; raises HeadError naming the first head that a model of this size doesn't have."""
        for head in self.heads:
            if head.layer >= n_layers or head.index >= n_heads:
                raise HeadError(
                    f"head {head} is outside the model, which has layers 0 to {n_layers - 1} "
                    f"with heads 0 to {n_heads - 1}; was the list made for another model?"
                )
        return self

    def to_dataframe(self) -> pd.DataFrame:
        """One row per head: rank, head, layer, index and, where known, score."""
        frame = pd.DataFrame(
            {
                "rank": range(1, len(self) + 1),
                "head": [str(h) for h in self.heads],
                "layer": [h.layer for h in self.heads],
                "index": [h.index for h in self.heads],
            }
        )
        return frame.assign(score=self.scores) if self.scores else frame

    def save(self, path: str | Path) -> Path:
        """Writes JSON; in .csv CSV, without the run; in .npy NumPy's array [heads, 2], without scores, too."""
        path = Path(path)
        if path.suffix.lower() == ".npy":
            return write_npy(path, self._pairs)
        if path.suffix.lower() == ".csv":
            return write_table(path, self.to_dataframe().assign(by=self.by, toward=self.toward))
        rows = [{"layer": h.layer, "index": h.index} for h in self.heads]
        if self.scores:
            rows = [{**row, "score": score} for row, score in zip(rows, self.scores, strict=True)]
        content = {"kind": "heads", "by": self.by, "toward": self.toward, "heads": rows, "run": self.run}
        return write_result(path, content)

    def save_pairs(self, path: str | Path) -> Path:
        """Writes JSON `[[layer, head], ...]`, best first."""
        return write_pairs(path, self._pairs)

    @property
    def _pairs(self) -> list[tuple[int, int]]:
        return [(head.layer, head.index) for head in self.heads]

    def save_pasta(self, path: str | Path) -> Path:
        """Writes the head configuration that PASTA-style steering tools read: {"layer": [index, ...]}."""
        layers: dict[str, list[int]] = {}
        for head in sorted(self.heads):
            layers.setdefault(str(head.layer), []).append(head.index)
        check_place(path, "pasta")
        return write_json(path, layers)

    @classmethod
    def load(cls, path: str | Path) -> "HeadList":
        """Reads what `save` writes, PASTA JSON, or a JSON list of names or pairs, such as ["17.7", [22, 8]].

        The suffix says which: .csv, .npy (an integer array [heads, 2]), else JSON. A CSV file needs the columns layer
        and index, may have score, by and toward, and may have ';' between them.

        Raises:
            HeadError: naming the file, and in CSV the line, where the file is none of these or lists a head twice.
        """
        path = Path(path)
        if path.suffix.lower() == ".csv":
            return cls._from_csv(path)
        if path.suffix.lower() == ".npy":
            return cls._from_pairs(path, read_npy(path))
        content = read_json(path, HeadError)
        try:
            if isinstance(content, dict) and content.get("kind") == "heads":
                rows = content["heads"]
                return cls(
                    tuple(Head.parse((row["layer"], row["index"])) for row in rows),
                    tuple(_number(row["score"]) for row in rows if "score" in row),
                    content.get("by", "given"),
                    content.get("run", {}),
                    content.get("toward", ""),
                )
            if isinstance(content, dict) and isinstance(kind := content.get("kind"), str):
                way = _TAKE.format(path=path) if kind == "head_scores" else _WRITE
                raise HeadError(f"it holds a result of kind {kind!r}, no head list; {way}")
            if isinstance(content, dict):
                return cls.of((int(layer), index) for layer, indices in content.items() for index in indices)
            return cls.of(content)
        except HeadError as error:
            raise HeadError(f"{path}: {error}") from error
        except (KeyError, TypeError, ValueError) as error:
            raise HeadError(f"{path} is not a head list ({error}); {_WRITE}") from error

    @classmethod
    def _from_pairs(cls, path: Path, pairs: Iterable[tuple[int, int]]) -> "HeadList":
        try:
            return cls.of(pairs)
        except HeadError as error:
            raise HeadError(f"{path}: {error}") from error

    @classmethod
    def _from_csv(cls, path: Path) -> "HeadList":
        names, rows = read_table(path, HeadError, ",;")
        if missing := [name for name in ("layer", "index") if name not in names]:
            columns = ", ".join(map(shown, names)) or "nothing"
            raise HeadError(f"{path} has no column {missing[0]!r} (found: {columns}); it needs columns layer and index")
        locations: dict[Head, str] = {}
        for location, row in rows:
            head = Head(*(_count(row[name], f"{location}: {name}") for name in ("layer", "index")))
            if head in locations:
                raise HeadError(f"{location} lists head {head} again, after {locations[head]}; list each head once")
            locations[head] = location
        # NaN is written as an empty cell.
        scored = any(row.get("score") for _, row in rows)
        scores = tuple(_score(row["score"], f"{location}: score") for location, row in rows) if scored else ()
        first = rows[0][1] if rows else {}
        try:
            return cls(tuple(locations), scores, first.get("by") or "given", toward=first.get("toward") or "")
        except HeadError as error:
            raise HeadError(f"{path}: {error}") from error

    @property
    def ranked_by(self) -> str:
        """What ranked them and where they look: "polarity, toward No"."""
        return f"{self.by}, toward {SIDES[self.toward]}" if self.toward else self.by

    def __repr__(self) -> str:
        names = ", ".join(str(h) for h in self.heads[:12]) + (", ..." if len(self) > 12 else "")
        return f"HeadList({len(self)} by {self.ranked_by}: {names})"

    def _repr_html_(self) -> str:
        return f"<p>{html.escape(repr(self))}</p>{self.to_dataframe().to_html(index=False)}"


def _counts(value: Any) -> bool:
    """Whether a value is a whole number from 0 on; true and false aren't."""
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _number(value: float | None) -> float:
    return float("nan") if value is None else float(value)


def _count(cell: str, what: str) -> int:
    """A whole number from 0 on, of at most 9 digits."""
    if not re.fullmatch(r"\s*[0-9]{1,9}\s*", cell):
        raise HeadError(f"{what} is {shown(cell)}, not a whole number from 0 on; correct it")
    return int(cell)


def _score(cell: str, what: str) -> float:
    try:
        return float(cell.strip() or "nan")
    except ValueError:
        raise HeadError(f"{what} is {shown(cell)}, not a number with a decimal point; correct it") from None
