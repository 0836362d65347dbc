"""Interventions that put other outputs in a head's place: a mean, another prompt's, or those of a clean run."""

import json
import random
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from einops import einsum
from jaxtyping import Float, Int
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from ..attention import Edit, ReplaceHeads
from ..errors import HeadError, ModelError, PromptError, ResultError
from ..forward import intervenable
from ..heads import HeadList
from ..models import as_model
from ..prompts import Orders, PromptBatch, PromptStyle
from ..prompts.pairs import PromptPairs
from ..questions import BinaryQuestion
from ..results import check_place
from ..run import RunInfo, write_bytes
from ..session import describe_run, resolve_prompts
from ..torch_defaults import under_torch_defaults
from .outputs import PAD, POSITION_CLASSES, HeadOutputs, heads_by_layer, position_classes, record_outputs, run_outputs
from .values import Positions, marked_queries


@dataclass(frozen=True, eq=False, repr=False)
class Mean:
    """Mean ablation: puts the head's mean output over a reference set in its place, one mean a position class.

    So a head is left with what it says everywhere, and loses what it says of this prompt.

    Args:
        means: for each layer the means of all its heads; NaN where the reference set has no such position.
        positions: where.
        run: over which prompts, of which model.

    Source: ours in the position classes (see `position_classes`).
    """

    means: Mapping[int, Float[Tensor, "class n_heads d_value"]]
    positions: Positions = "all"
    run: RunInfo = field(default_factory=lambda: RunInfo("unknown", "unknown", 0, ()))

    @classmethod
    @under_torch_defaults
    def over(
        cls,
        model: Any,
        data: Any,
        heads: HeadList | Iterable[Any] | None = None,
        positions: Positions = "all",
        *,
        order: Orders = "both",
        style: PromptStyle | None = None,
        limit: int | None = None,
        seed: int = 0,
        batch_size: int | None = None,
        progress: bool = False,
    ) -> "Mean":
        """The means over a reference set, every token of a class weighing the same.

        Args:
            model: a Model, or what `load_model` accepts besides names.
            data: a PromptBatch or several, or questions or a data specification, asked in `order` with `style`.
            heads: their layers are measured; None takes all.
            positions: where the value that is returned acts.
            limit, seed, batch_size, progress: as for `decide`.
        """
        model, start = as_model(model), time.perf_counter()
        layers = heads_by_layer(model, heads)
        asked = resolve_prompts(model, data, order, style, limit, seed, draws=0)
        model = intervenable(model, asked.batches[0])
        sums: dict[int, Tensor] = {}
        axes = "kind batch query, batch query head d_value -> kind head d_value"
        count = torch.zeros(len(POSITION_CLASSES), dtype=torch.float64)
        for prompts in asked:
            for rows, outputs in run_outputs(model, prompts, layers, batch_size, progress):
                classes = position_classes(prompts.select(rows))
                member = torch.stack([classes == kind for kind in range(PAD)]).double()
                count += member.sum((1, 2))
                for layer, found in outputs.items():
                    new = einsum(member, found.double().cpu(), axes)
                    sums[layer] = sums.get(layer, 0) + new
        means = {layer: (total / count[:, None, None]).float() for layer, total in sums.items()}
        return cls(means, positions, describe_run(model, asked, start, model.engine))

    def edit(self, layer: int, heads: tuple[int, ...], batch: PromptBatch, positions: range) -> Edit | None:
        """See `Intervention`."""
        here = slice(positions.start, positions.stop)
        queries = marked_queries(batch, positions, self.positions) & batch.mask[:, here]
        if not queries.any():
            return None
        if layer not in self.means:
            raise HeadError(f"no means were measured in layer {layer}; name its heads in Mean.over")
        classes = position_classes(batch)[:, here]
        missing = self.means[layer].isnan().flatten(1).any(1)
        if unknown := [kind for kind in classes[queries].unique().tolist() if missing[kind]]:
            raise HeadError(
                f"the reference set has no position of class {POSITION_CLASSES[unknown[0]]!r} to average; "
                f"measure other prompts"
            )
        values = self.means[layer][:, list(heads)][classes.clamp(max=PAD - 1)]
        return ReplaceHeads(heads, values, queries)

    def shares_up_to(self, prompts: PromptBatch) -> int:
        """See `forward.SharesUpTo`."""
        classes = position_classes(prompts)
        return int((classes == classes[:1]).all(0).long().cumprod(0).sum())

    def save(self, path: str | Path) -> Path:
        """Writes one safetensors file, positions and run in its metadata.

        Raises:
            ResultError: the file is there and holds something else.
        """
        check_place(path, "mean")
        about = {"kind": "mean", "positions": self.positions, "run": json.dumps(self.run.to_dict())}
        tensors = {str(layer): mean.contiguous() for layer, mean in self.means.items()}
        return write_bytes(path, save(tensors, about))

    @classmethod
    def load(cls, path: str | Path) -> "Mean":
        """Reads what `save` wrote; raises ResultError where it can't."""
        try:
            with safe_open(path, "pt") as file:
                about = file.metadata() or {}
                means = {int(name): file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - no mapping
            return cls(dict(sorted(means.items())), about["positions"], RunInfo.from_dict(json.loads(about["run"])))  # type: ignore[arg-type]
        except (OSError, SafetensorError, KeyError, ValueError) as error:
            raise ResultError(f"{path} does not hold means ({error}); measure them with Mean.over") from error

    def __repr__(self) -> str:
        return f"Mean(over {self.run.n_questions} questions of {self.run.data}, positions={self.positions!r})"


@dataclass(frozen=True, eq=False, repr=False)
class Resample:
    """Resample ablation: puts in place what the head puts out in another prompt, position by position from the end.

    Each prompt's donor is drawn from the seed and the question's id: never the question itself, its twin as likely as
    any other. Positions that the donor's part is too short for stay as they are: its part after the instruction
    for "after", its whole prompt for "all".

    Args:
        sources: recorded outputs, one a candidate order.
        seed: of the draws, which are the same in both orders.
        positions: where.

    Source: ours in the alignment.
    """

    sources: tuple[HeadOutputs, ...]
    seed: int = 0
    positions: Positions = "after"

    @classmethod
    @under_torch_defaults
    def over(
        cls,
        model: Any,
        data: Any,
        heads: HeadList | Iterable[Any] | None = None,
        positions: Positions = "after",
        *,
        order: Orders = "both",
        style: PromptStyle | None = None,
        limit: int | None = None,
        seed: int = 0,
        progress: bool = False,
    ) -> "Resample":
        """Records the prompts that outputs are drawn from; arguments as for `Mean.over`.

        Caveat: keeps every position's outputs in memory; name the heads where there are many prompts.
        """
        model = as_model(model)
        asked = resolve_prompts(model, data, order, style, limit, seed)
        model = intervenable(model, asked.batches[0])
        return cls(tuple(record_outputs(model, b, heads, progress=progress) for b in asked), seed, positions)

    def edit(self, layer: int, heads: tuple[int, ...], batch: PromptBatch, positions: range) -> Edit | None:
        """See `Intervention`."""
        here = slice(positions.start, positions.stop)
        queries = marked_queries(batch, positions, self.positions) & batch.mask[:, here]
        if not queries.any():
            return None
        if _is_prefix(batch, positions):
            raise ModelError("every prompt has another donor, so no prefix is shared; run with share_prefix=False")
        source = next((source for source in self.sources if source.order == batch.order), None)
        if source is None:
            raise PromptError(f"no outputs were recorded in the order {batch.order!r}; record both orders")
        rows = self.donors(source, batch.questions)
        donors = source.prompts
        begin = {"all": torch.zeros_like(rows), "after": donors.first_query[rows], "last": donors.last_pos[rows]}
        places = torch.arange(positions.start, positions.stop) + (donors.last_pos[rows] - batch.last_pos)[:, None]
        queries &= places >= begin[self.positions][:, None]
        return ReplaceHeads(heads, source.at(layer, heads, rows, places), queries)

    def donors(self, source: HeadOutputs, questions: Sequence[BinaryQuestion]) -> Int[Tensor, " batch"]:
        """The row of the recorded prompts that each question takes its outputs from."""
        rows = []
        for question in questions:
            others = [row for row, name in enumerate(source.ids) if name != question.id]
            if not others:
                raise PromptError(f"question {question.id!r} is alone; record other questions to draw from")
            # A stream of its own for each question: the draw doesn't hang on what else is in the batch.
            draw = random.Random(f"{self.seed}/{question.id}").random()
            rows.append(others[int(draw * len(others))])
        return torch.tensor(rows)

    def shares_up_to(self, prompts: PromptBatch) -> int:
        """See `forward.SharesUpTo`."""
        return first_marked(prompts, self.positions)

    def __repr__(self) -> str:
        count = len(self.sources[0].ids) if self.sources else 0
        return f"Resample(from {count} prompts, seed={self.seed}, positions={self.positions!r})"


@dataclass(frozen=True, eq=False, repr=False)
class Patch:
    """Activation patching: puts in place what the head puts out at the same position of the clean run.

    Args:
        source: the clean run's outputs, recorded with `into=` the corrupted prompts.
        positions: where.

    Source: common practice; not the paper's.
    """

    source: HeadOutputs
    positions: Positions = "all"

    @classmethod
    def of(
        cls,
        model: Any,
        pairs: PromptPairs,
        heads: HeadList | Iterable[Any] | None = None,
        positions: Positions = "all",
        **options: Any,
    ) -> "Patch":
        """Runs the clean prompts of the pairs and keeps these heads' outputs; `options` as for `record_outputs`."""
        return cls(record_outputs(model, pairs.clean, heads, into=pairs.corrupted, **options), positions)

    def edit(self, layer: int, heads: tuple[int, ...], batch: PromptBatch, positions: range) -> Edit | None:
        """See `Intervention`."""
        here = slice(positions.start, positions.stop)
        queries = marked_queries(batch, positions, self.positions) & batch.mask[:, here]
        if not queries.any():
            return None
        if _is_prefix(batch, positions) and positions.stop > self.source.shared:
            raise ModelError(
                f"the clean prompts share {self.source.shared} leading tokens, fewer than the {positions.stop} that "
                f"are run once for all prompts; run with share_prefix=False"
            )
        rows = self.source.rows(batch)
        if bool((unequal := self.source.prompts.last_pos[rows] != batch.last_pos).any()):
            name = batch.questions[int(unequal.nonzero()[0])].id
            raise PromptError(
                f"question {name!r}: clean and corrupted prompt have another number of tokens; pair them by "
                f"question_pairs"
            )
        places = torch.arange(positions.start, positions.stop).expand(len(batch), -1)
        return ReplaceHeads(heads, self.source.at(layer, heads, rows, places), queries)

    def shares_up_to(self, prompts: PromptBatch) -> int:
        """See `forward.SharesUpTo`."""
        return max(self.source.shared, first_marked(prompts, self.positions))

    def __repr__(self) -> str:
        return f"Patch(from {len(self.source.ids)} clean prompts, positions={self.positions!r})"


def first_marked(prompts: PromptBatch, where: Positions) -> int:
    """The first position that an intervention acts on in any of the prompts."""
    marked = marked_queries(prompts, range(prompts.tokens.shape[1]), where).any(0)
    return int((~marked).long().cumprod(0).sum())


def _is_prefix(batch: PromptBatch, positions: range) -> bool:
    """Whether this pass stands for the leading tokens of all prompts: a pass over prompts themselves reaches an end."""
    return positions.stop <= int(batch.last_pos.max())
