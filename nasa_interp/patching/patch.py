"""Activation patching: a head's output from a clean run in a corrupted one, and how far the answer follows."""

import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import psutil
import torch
from jaxtyping import Bool, Float
from torch import Tensor
from tqdm.auto import tqdm

from ..attention import Edit, ReplaceHeads
from ..bootstrap import DRAWS
from ..decisions import compare_answers, decide
from ..errors import ModelError, PromptError
from ..forward import intervenable, run_fused
from ..heads import HeadList, Side
from ..interventions.outputs import (
    KEPT_SHARE,
    POSITION_CLASSES,
    HeadOutputs,
    chosen_heads,
    heads_by_layer,
    output_bytes,
    position_classes,
)
from ..interventions.replace import Patch, record_outputs
from ..interventions.sweeps import sweep
from ..interventions.values import Positions, edits_of
from ..models import Model, as_model
from ..prompts import Order, Orders, PromptBatch, PromptStyle
from ..prompts.pairs import PairKind, PromptPairs, instruction_pairs, question_pairs
from ..run import RunInfo
from ..session import PromptSet, describe_run, orders_of
from ..torch_defaults import under_torch_defaults
from .effects import By, PatchEffects, PatchSummary


@dataclass(frozen=True, eq=False)
class Patched:
    """d = logit(No) - logit(Yes) under patches and of the two runs as they are; fields as in `PatchEffects`."""

    by: By
    places: tuple[str, ...]
    d: Float[np.ndarray, "*cell pair"]
    clean: Float[np.ndarray, " pair"]
    corrupted: Float[np.ndarray, " pair"]


@dataclass(frozen=True, eq=False)
class _PatchRows:
    """The clean run's outputs in place of each row's head, at the marked positions of its pair."""

    source: HeadOutputs
    marked: Bool[Tensor, "pair pos"]

    def __call__(self, layer: int, row_heads: Sequence[int], batch: PromptBatch, positions: range) -> Sequence[Edit]:
        rows, owner = self.source.rows(batch), torch.tensor(row_heads)
        queries = self.marked[rows, positions.start : positions.stop]
        places = torch.arange(positions.start, positions.stop).expand(len(batch), -1)
        edits = []
        for head in sorted(set(row_heads)):
            own = queries & (owner == head)[:, None]
            if own.any():
                edits.append(ReplaceHeads((head,), self.source.at(layer, (head,), rows, places), own))
        return edits

    def shares_up_to(self, prompts: PromptBatch) -> int:
        """See `forward.SharesUpTo`: up to the first mark, and on while all are marked and take the same outputs."""
        marked = self.marked[self.source.rows(prompts)]
        untouched, alike = ~marked.any(0), (marked == marked[:1]).all(0)
        first, together = (int(flags.long().cumprod(0).sum()) for flags in (untouched, alike))
        return max(first, min(together, self.source.shared))


@under_torch_defaults
@torch.no_grad()
def patch_heads(
    model: Any,
    pairs: PromptPairs,
    heads: HeadList | Iterable[Any] | None = None,
    by: Literal["head", "class", "position"] = "head",
    *,
    batch_size: int | None = None,
    seed: int = 0,
    draws: int = DRAWS,
    progress: bool = True,
) -> PatchEffects:
    """Puts one head's clean outputs after another into the corrupted run: which heads carry what the two differ in?

    Args:
        model: a Model, or what `load_model` accepts besides names.
        pairs: from `question_pairs` (heads that carry the truth) or `instruction_pairs` (the bias).
        heads: heads, pairs or names; None takes all.
        by: "head" patches at all positions; "class" at those of one position class at a time; "position" at one
            position at a time, where all pairs are of equal length.
        batch_size: as for `sweep`.
        seed, draws: of the bootstrap over pairs.
        progress: a bar over heads.

    Returns:
        d under each patch, with d of the clean and the corrupted run.

    Raises:
        HeadError: a head outside the model.
        PromptError: by position, where the pairs' lengths differ.
        ModelError: where fused attention isn't exact for the model.

    Caveat: one head at a time; heads that stand in for each other show little alone. See `patch_together`.

    Source: common practice, agrees with `transformer_lens.patching`; not the paper's.
    """
    model, start = _checked(model, pairs), time.perf_counter()
    chosen = chosen_heads(model, heads)
    labels, masks = _places(model, pairs, by)
    corrupted = _differences(model, pairs.corrupted, batch_size)
    patched = np.broadcast_to(corrupted, (len(chosen), len(labels), len(pairs))).copy()
    runs = [place for place, mask in enumerate(masks) if bool(mask.any())] if len(chosen) else []
    with tqdm(total=len(runs) * len(pairs), desc="patching", unit="pair", disable=not progress) as bar:
        for some in torch.arange(len(pairs)).split(_pairs_at_once(model, pairs, chosen)):
            part = pairs.select(some)
            source = record_outputs(model, part.clean, chosen, into=part.corrupted, batch_size=batch_size)
            for place in runs:
                marked = masks[place][some, : part.corrupted.tokens.shape[1]]
                if bool(marked.any()):
                    edits = _PatchRows(source, marked)
                    found = sweep(model, part.corrupted, chosen, edits, batch_size=batch_size)
                    patched[:, place, some.numpy()] = found.d
                bar.update(len(some))
    shape = (len(chosen), len(pairs)) if by == "head" else patched.shape
    clean = _differences(model, pairs.clean, batch_size)
    run = _describe(model, pairs, seed, draws, start)
    return _effects(model, pairs, chosen, Patched(by, labels, patched.reshape(shape), clean, corrupted), run)


@under_torch_defaults
@torch.no_grad()
def patch_together(
    model: Any,
    pairs: PromptPairs,
    heads: HeadList | Iterable[Any],
    positions: Positions = "all",
    *,
    batch_size: int | None = None,
    seed: int = 0,
    draws: int = DRAWS,
    progress: bool = False,
) -> PatchEffects:
    """Puts the clean outputs of all these heads at once into the corrupted run; arguments as for `patch_heads`.

    Returns:
        d under the one joint patch: `.effect` and `.recovered` are single numbers. All heads of the model at the last
        position alone recover everything, since that position's token is the same in both runs.

    Source: ours.
    """
    model, start = _checked(model, pairs), time.perf_counter()
    chosen, patched = chosen_heads(model, heads), np.empty(len(pairs))
    for some in torch.arange(len(pairs)).split(_pairs_at_once(model, pairs, chosen)):
        part = pairs.select(some)
        patch = Patch.of(model, part, chosen, positions, batch_size=batch_size, progress=progress)
        patched[some.numpy()] = _differences(model, part.corrupted, batch_size, edits_of(chosen, patch))
    clean, corrupted = (_differences(model, side, batch_size) for side in (pairs.clean, pairs.corrupted))
    label = {"all": "all positions", "after": "after the instruction", "last": "last"}[positions]
    run = _describe(model, pairs, seed, draws, start)
    return _effects(model, pairs, chosen, Patched("together", (label,), patched, clean, corrupted), run)


def patch_data(
    model: Any,
    data: Any,
    heads: HeadList | Iterable[Any] | None = None,
    kind: PairKind = "question",
    order: Orders = "both",
    style: PromptStyle | None = None,
    *,
    by: Literal["head", "class", "position"] = "head",
    neutral: str | None = None,
    toward: Side | None = None,
    limit: int | None = None,
    seed: int = 0,
    draws: int = DRAWS,
    progress: bool = True,
) -> PatchSummary:
    """Pairs the questions and patches them: what the `patch` command does.

    Args:
        model, data, order, style, limit, seed, draws, progress: as for `decide`.
        heads: those to patch, each alone and all together; None patches every head of the model alone.
        kind: "question" (twins: who carries the truth), "neutral" or "order" (who carries the bias).
        by: as for `patch_heads`; neutral, toward: as for `instruction_pairs`, but that None asks the questions first
            and renames what the model says too often.

    Returns:
        For each order the effects of single heads, and of all named heads together; `.text()` is what to print.

    Raises:
        QuestionError: no twins. PromptError, HeadError, ModelError: as for the functions that it calls.
    """
    model, heads = as_model(model), None if heads is None else HeadList.of(heads)
    singles: dict[Order, PatchEffects] = {}
    joint: dict[Order, PatchEffects] = {}
    options: dict[str, Any] = {"seed": seed, "draws": draws, "progress": progress}
    if kind == "neutral" and toward is None:
        toward = decide(model, data, order, style, limit=limit, seed=seed, draws=1, progress=False).toward
    named: dict[str, Any] = {"neutral": neutral, "toward": toward or "no", "limit": limit, "seed": seed}
    for each in orders_of(order):
        if kind == "question":
            pairs = question_pairs(model, data, each, style, limit=limit, seed=seed)
        else:
            pairs = instruction_pairs(model, data, each, style, kind, **named)
        singles[each] = patch_heads(model, pairs, heads, by, **options)
        if heads is not None:
            joint[each] = patch_together(model, pairs, heads, **options)
    return PatchSummary(singles, joint)


def _checked(model: Any, pairs: PromptPairs) -> Model:
    return intervenable(as_model(model).exact(), pairs.corrupted)


def _differences(
    model: Model, prompts: PromptBatch, batch_size: int | None, edits: Any = None
) -> Float[np.ndarray, " prompt"]:
    d = torch.full((len(prompts),), torch.nan)
    for batch in run_fused(model, prompts, edits=edits, batch_size=batch_size, reference=edits is None):
        d[batch.places] = compare_answers(batch.logits, prompts)[0]
    if not bool(d.isfinite().all()):
        raise ModelError(f"the logits are no numbers in {model.dtype}; load the model in float32")
    return d.double().numpy()


def _places(model: Model, pairs: PromptPairs, by: str) -> tuple[tuple[str, ...], list[Bool[Tensor, "pair pos"]]]:
    """Names of the places that are patched one at a time, and the positions of each.

    Up to the first token that differs both runs are the same, and a patch there would change nothing.
    """
    prompts = pairs.corrupted
    differ = (prompts.tokens != pairs.clean.tokens).long().cumsum(1) > 0
    marked = differ & prompts.mask
    if by == "head":
        return ("all positions",), [marked]
    if by == "class":
        classes = position_classes(prompts)
        return POSITION_CLASSES, [marked & (classes == place) for place in range(len(POSITION_CLASSES))]
    if by != "position":
        raise PromptError(f"patches by {by!r} are unknown; use 'head', 'class' or 'position'")
    if not pairs.equal_length:
        raise PromptError("the pairs' prompts differ in length, so positions don't match; patch by 'class'")
    place, names = prompts.position_ids, []
    for position in range(prompts.tokens.shape[1]):
        tokens = torch.cat([prompts.tokens[:, position], pairs.clean.tokens[:, position]]).unique()
        same = repr(model.tokenizer.decode(tokens.tolist())) if len(tokens) == 1 else "(differs)"
        names.append(f"{position} {same}")
    return tuple(names), [marked & (place == position) for position in range(len(names))]


def _pairs_at_once(model: Model, pairs: PromptPairs, heads: HeadList) -> int:
    """How many pairs' clean outputs may be kept at a time, with room for what a sweep keeps."""
    each = output_bytes(model, pairs.clean, heads_by_layer(model, heads)) / len(pairs)
    free = KEPT_SHARE / 2 * psutil.virtual_memory().available
    return max(1, min(len(pairs), int(free // max(each, 1))))


def _describe(model: Model, pairs: PromptPairs, seed: int, draws: int, start: float) -> RunInfo:
    asked = PromptSet(pairs.questions, (pairs.corrupted,), seed, draws)
    return describe_run(model, asked, start, model.engine, pairs.notes)


def _effects(model: Model, pairs: PromptPairs, heads: HeadList, patched: Patched, run: RunInfo) -> PatchEffects:
    """The value that knows where it came from."""
    questions, shape = pairs.corrupted.questions, (model.n_layers, model.n_heads)
    ids, names = tuple(q.id for q in questions), tuple(q.pair for q in questions)
    answers = (patched.d, patched.clean, patched.corrupted)
    return PatchEffects(heads.heads, *answers, patched.by, patched.places, pairs.kind, ids, names, shape, run)
