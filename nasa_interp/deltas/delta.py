"""The change of a few heads' weights, as a value that can be applied, undone, merged, scaled and saved."""

import html
import math
import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from ..errors import DeltaError, HeadError
from ..heads import HeadList
from ..models import Model
from ..models.offload import check_in_memory
from ..models.slice_values import Values, overlap, read_slices, write_slices
from ..models.slices import WeightSlice
from ..run import jsonable
from .layouts import carry_slices
from .packing import bits, pack, unpack


@dataclass(frozen=True, repr=False, eq=False)
class HeadDelta:
    """What tuning changed in some heads: the slices before and after, for one base model.

    Two deltas are equal where they make the same change to the same base, bit for bit, whatever their logs say.

    Args:
        base_hash: `Model.weights_hash()` of the model that the delta was made for.
        base_model: that model's name.
        heads: the heads that were tuned.
        slices: rows and columns of the plain model's parameters, without overlap.
        before: the slices' values in the base model, on the CPU, in its dtype.
        after: the tuned values, of the same shapes and dtype.
        log: plain JSON values: how the change was made.

    Raises:
        DeltaError: different lengths, shapes or dtypes, overlapping slices, tuned values that are not finite.

    Caveat:
        key and value rows serve every head of a group (`models.slices.group_of`), including those not in `heads`.

    Source: ours; that only the extracted heads are tuned is the paper's.
    """

    base_hash: str
    base_model: str
    heads: HeadList
    slices: tuple[WeightSlice, ...]
    before: tuple[Values, ...]
    after: tuple[Values, ...]
    log: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self):
        object.__setattr__(self, "log", jsonable(self.log))
        if not len(self.slices) == len(self.before) == len(self.after):
            raise DeltaError(
                f"{len(self.slices)} slices, {len(self.before)} before and {len(self.after)} after; give one "
                f"of each a slice"
            )
        for piece, before, after in self._rows():
            if before.shape != after.shape or before.dtype != after.dtype:
                raise DeltaError(
                    f"{piece.parameter} has {tuple(before.shape)} {before.dtype} before and "
                    f"{tuple(after.shape)} {after.dtype} after; a delta changes values only"
                )
            if not torch.isfinite(after).all():
                raise DeltaError(f"{piece.parameter} holds NaN or infinity after tuning; tune with a lower rate")
        if twice := overlap(self.slices):
            raise DeltaError(f"two slices share entries of {twice.parameter}; name each entry once")

    @classmethod
    def of(
        cls,
        model: Model,
        base_hash: str,
        heads: HeadList | Iterable[Any],
        before: Mapping[WeightSlice, Values],
        log: dict[str, Any] | None = None,
    ) -> "HeadDelta":
        """The change between `before` and the model as it is now.

        Args:
            model: the model, tuned.
            base_hash: its `weights_hash()` before it was tuned.
            heads: the heads that were tuned.
            before: what `read_slices` gave before tuning; its keys are the slices.
            log: plain values: how the change was made.

        Raises:
            DeltaError: as `read_slices` and the class.
        """
        after = read_slices(model, before)
        kept = tuple(value.detach().cpu().clone() for value in before.values())
        return cls(base_hash, model.name, HeadList.of(heads), tuple(before), kept, tuple(after.values()), log or {})

    @classmethod
    def nothing(cls, model: Model) -> "HeadDelta":
        """No change of this model."""
        return cls(model.weights_hash(), model.name, HeadList(()), (), (), ())

    @property
    def n_changed(self) -> int:
        """How many entries differ."""
        return sum(int((before != after).sum()) for _, before, after in self._rows())

    def share(self, model: Model) -> float:
        """The changed entries' share of all weights of the model, tied weights counted once."""
        return self.n_changed / sum(parameter.numel() for parameter in model.module.parameters())

    def is_applied(self, model: Model) -> bool:
        """Whether the model's slices hold the tuned values, bit for bit; False where nothing differs."""
        return self.n_changed > 0 and self._holds(model, self.after)

    def apply(self, model: Model, check: bool = True) -> None:
        """Writes the tuned values into the model, in place; both of its views see them.

        Args:
            model: the base model.
            check: compare the hash of all weights with the base's (about 2 s per billion bytes). Without it only the
                slices are compared, for loops over one model and for several disjoint deltas.

        Raises:
            DeltaError: a model other than the base, a delta that is already applied.
            ModelError: a model whose weights aren't all in memory.
        """
        check_in_memory(model.weights, model.name, "a change of heads")
        digest = model.weights_hash() if check and self.base_hash else ""
        if (digest and digest != self.base_hash) or not self._holds(model, self.before):
            raise self._other_model(model, digest or model.weights_hash())
        write_slices(model, dict(zip(self.slices, self.after, strict=True)))

    def revert(self, model: Model) -> None:
        """Writes the base's values back, so that the model is the base again, bit for bit.

        Raises:
            DeltaError: the delta is not applied to this model.
        """
        if not self._holds(model, self.after):
            raise DeltaError(
                f"the delta is not applied to model {model.name!r}: its slices don't hold the tuned values; "
                f"apply it first, or load the base model again"
            )
        self._restore(model)

    @contextmanager
    def applied(self, model: Model, check: bool = True) -> Iterator[Model]:
        """The model with the delta inside the `with` block, and the base again afterwards, even after an error.

        Raises:
            DeltaError: as `apply`.
        """
        self.apply(model, check)
        try:
            yield model
        finally:
            self._restore(model)

    def carried_to(self, model: Model) -> "HeadDelta":
        """The same change for the plain model whose weights a HookedTransformer holds in its own layout.

        Raises:
            DeltaError: where the model's heads don't hold the values that the change began from, such as where
                TransformerLens processed them.
        """
        slices, values = carry_slices(model, self.slices, self.before, self.after)
        before, after = zip(*values, strict=True)
        return replace(
            self, base_hash=model.weights_hash(), base_model=model.name, slices=slices, before=before, after=after
        )

    def merge(self, other: "HeadDelta") -> "HeadDelta":
        """Both changes as one, in any order.

        Raises:
            DeltaError: deltas of different base models, or of the same rows or columns, naming the heads.
        """
        if self.base_hash != other.base_hash:
            raise DeltaError(
                f"deltas of {_named(self.base_model, self.base_hash)} and {_named(other.base_model, other.base_hash)} "
                f"can't be merged; tune both on one base model"
            )
        slices = (*self.slices, *other.slices)
        if twice := overlap(slices):
            raise DeltaError(
                f"both deltas change {_heads_at(twice, self.heads, other.heads)} in {twice.parameter}; "
                f"tune the second on top of the first, or leave the head out of one"
            )
        heads = HeadList(tuple(dict.fromkeys((*self.heads, *other.heads))), by="merged")
        log = {"merged": [self.log, other.log]}
        before, after = (*self.before, *other.before), (*self.after, *other.after)
        return HeadDelta(self.base_hash, self.base_model, heads, slices, before, after, log)

    def scaled(self, factor: int | float) -> "HeadDelta":
        """The change times a factor: 0 is no change and 1 the delta itself, both exactly; below 0 goes the other way.

        Raises:
            DeltaError: a factor that is not finite.
        """
        if not math.isfinite(factor):
            raise DeltaError(f"a delta can't be scaled by {factor}; give a finite number")
        if factor == 1:
            return self
        after = tuple(_between(before, after, float(factor)) for _, before, after in self._rows())
        return replace(self, after=after, log={**self.log, "scaled": factor * self.log.get("scaled", 1.0)})

    def to_dataframe(self) -> pd.DataFrame:
        """One row per slice: parameter, dimension, first and last index, entries, changed entries, size of the change.

        `relative` is the norm of the change over the norm of the values before.
        """
        rows, names = [], ("parameter", "dim", "first", "last", "entries", "changed", "relative")
        for piece, before, after in self._rows():
            change, size = (after.double() - before.double()).norm(), before.double().norm()
            relative = float(change / size) if size else math.nan
            ends = (min(piece.index), max(piece.index))
            rows.append((piece.parameter, piece.dim, *ends, before.numel(), int((before != after).sum()), relative))
        return pd.DataFrame(rows, columns=pd.Index(names))

    def save(self, path: str | Path) -> Path:
        """Writes one safetensors file: the values, and everything else as JSON text in its metadata."""
        content = {
            "kind": "head_delta",
            "base_hash": self.base_hash,
            "base_model": self.base_model,
            "heads": [str(head) for head in self.heads],
            "scores": self.heads.scores,
            "by": self.heads.by,
            "run": self.heads.run,
            "slices": [[piece.parameter, piece.dim, piece.index] for piece in self.slices],
            "log": self.log,
        }
        tensors = {f"before.{index}": value for index, value in enumerate(self.before)}
        tensors |= {f"after.{index}": value for index, value in enumerate(self.after)}
        return pack(path, content, tensors)

    @classmethod
    def load(cls, path: str | Path) -> "HeadDelta":
        """Reads what `save` wrote, and checks it to the last bit.

        Raises:
            DeltaError: a file that is missing, damaged, or not a delta.
        """
        content, tensors = unpack(path)
        try:
            scores = tuple(math.nan if score is None else float(score) for score in content["scores"])
            slices = tuple(WeightSlice(name, dim, tuple(index)) for name, dim, index in content["slices"])
            return cls(
                base_hash=content["base_hash"],
                base_model=content["base_model"],
                heads=replace(HeadList.of(content["heads"]), scores=scores, by=content["by"], run=content["run"]),
                slices=slices,
                before=tuple(tensors[f"before.{index}"] for index in range(len(slices))),
                after=tuple(tensors[f"after.{index}"] for index in range(len(slices))),
                log=content["log"],
            )
        except (KeyError, TypeError, ValueError, HeadError) as error:
            raise DeltaError(
                f"{path} is not a delta that this version can read ({error!r}); save it again, or tune again"
            ) from error

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, HeadDelta):
            return NotImplemented
        return self.base_hash == other.base_hash and self._bits() == other._bits()

    def __repr__(self) -> str:
        names = ", ".join(str(head) for head in self.heads[:8]) + (", ..." if len(self.heads) > 8 else "")
        base = _named(self.base_model, self.base_hash)
        return f"HeadDelta({len(self.heads)} heads: {names}; {self.n_changed:,} entries changed; base {base})"

    def _repr_html_(self) -> str:
        return f"<p>{html.escape(repr(self))}</p>{self.to_dataframe().to_html(index=False, float_format='%.3g')}"

    def _rows(self) -> Iterator[tuple[WeightSlice, Values, Values]]:
        return zip(self.slices, self.before, self.after, strict=True)

    def _bits(self) -> dict[WeightSlice, tuple[str, bytes, bytes]]:
        return {piece: (str(before.dtype), bits(before), bits(after)) for piece, before, after in self._rows()}

    def _restore(self, model: Model) -> None:
        write_slices(model, dict(zip(self.slices, self.before, strict=True)))

    def _holds(self, model: Model, values: tuple[Values, ...]) -> bool:
        """Whether the model's slices hold these values bit for bit; False for a model without such slices."""
        try:
            current = read_slices(model, self.slices).values()
        except DeltaError:
            return False
        same = ((a.dtype, a.shape) == (b.dtype, b.shape) for a, b in zip(current, values, strict=True))
        return all(same) and all(bits(a) == bits(b) for a, b in zip(current, values, strict=True))

    def _other_model(self, model: Model, digest: str) -> DeltaError:
        if self.is_applied(model):
            return DeltaError(f"the delta is applied to model {model.name!r} already; revert it first")
        hint = "load the model that it was made for, or revert what was changed in it"
        if self.before and self.before[0].dtype != model.dtype:
            hint = f"load it with dtype={str(self.before[0].dtype).removeprefix('torch.')!r}"
        made_for, this = _named(self.base_model, self.base_hash), _named(model.name, digest)
        return DeltaError(f"the delta was made for {made_for}, and this is {this}; {hint}")


def _between(before: Values, after: Values, factor: float) -> Values:
    """Interpolates in fp64, so that rounding happens once; unchanged entries keep their bits."""
    moved = (before.double() + factor * (after.double() - before.double())).to(before.dtype)
    return before.clone() if factor == 0 else torch.where(before == after, before, moved)


def _heads_at(piece: WeightSlice, first: HeadList, second: HeadList) -> str:
    """The heads that a slice in both deltas may belong to: those in both, else those of its layer, which share it."""
    numbers = re.findall(r"\.(\d+)\.", piece.parameter)
    layer = [head for head in (*first, *second) if numbers and head.layer == int(numbers[0])]
    both = [head for head in layer if head in first and head in second]
    if both:
        return f"head {', '.join(map(str, dict.fromkeys(both)))}"
    return f"what heads {', '.join(map(str, layer))} share"


def _named(name: str, digest: str) -> str:
    return f"{name!r} ({digest[:12] or 'hash unknown'})"
