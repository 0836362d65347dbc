"""Edits of heads' outputs and of attention edges, and the attention that applies them."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from ..errors import HeadError
from .inputs import AttentionInputs, CandidateAttention, Spans
from .kernel import candidate_attention, softmax_times_value


@dataclass(frozen=True, eq=False)
class ScaleHeads:
    """Multiply heads' outputs, each by its factor (0 removes the head), at the marked queries or at all.

    Factors of two dimensions give each row of the batch its own, so that the rows are variants of one model.
    """

    heads: tuple[int, ...]
    factors: Float[Tensor, " n_heads"] | Float[Tensor, "batch n_heads"]
    queries: Bool[Tensor, "batch query"] | None = None

    def apply(self, output: Float[Tensor, "batch query head d_value"], inputs: AttentionInputs | None = None) -> Tensor:
        factors = self.factors.to(output)[..., None]
        factors = factors if factors.ndim == 2 else factors[:, None]
        return _put(output, self.heads, output[:, :, list(self.heads)] * factors, self.queries)


@dataclass(frozen=True, eq=False)
class ReplaceHeads:
    """Put these values in place of heads' outputs, at the marked queries or at all."""

    heads: tuple[int, ...]
    values: Float[Tensor, "batch query n_heads d_value"]
    queries: Bool[Tensor, "batch query"] | None = None

    def apply(self, output: Float[Tensor, "batch query head d_value"], inputs: AttentionInputs | None = None) -> Tensor:
        return _put(output, self.heads, self.values.to(output.device), self.queries)


@dataclass(frozen=True, eq=False)
class CutEdges:
    """Cut the edges from queries (the marked ones or all) to the marked key columns, in these heads.

    With `renormalize` as if masked before the softmax: the other edges take the attention over, and a query left with
    no key at all puts out zero. Without, the cut attention is lost: output - sum of A_c * v_c over the columns.
    """

    heads: tuple[int, ...]
    columns: Bool[Tensor, "batch key"]
    queries: Bool[Tensor, "batch query"] | None = None
    renormalize: bool = True

    def apply(self, output: Float[Tensor, "batch query head d_value"], inputs: AttentionInputs) -> Tensor:
        first, some = _first(self.queries), inputs.of_heads(self.heads)
        columns = self.columns.to(output.device)
        if self.renormalize:
            rows = _from(some, first, some.row_mask(first) & ~columns[:, None, None])
        else:
            rows = replace(some, value=some.value.masked_fill(columns[:, None, :, None], 0))
            rows = rows if first == 0 else _from(rows, first, rows.row_mask(first))
        return _put(output, self.heads, softmax_times_value(rows).transpose(1, 2), self.queries, first)

    def on_pattern(self, pattern: Float[Tensor, "batch head query key"], visible: Tensor | None = None) -> Tensor:
        """The same edit, where the attention after the softmax is at hand."""
        rows = pattern[:, list(self.heads)].masked_fill(self.columns.to(pattern.device)[:, None, None], 0)
        if self.renormalize:
            rest = rows.sum(-1, keepdim=True)
            rows = torch.where(rest > 0, rows / torch.where(rest > 0, rest, 1), 0)
        return _put_rows(pattern, self.heads, rows, self.queries)

    def touched_queries(self, visible: Bool[Tensor, "batch query"]) -> Bool[Tensor, "batch query"]:
        """Which queries lose an edge; `visible` tells how many there are."""
        cut = self.columns.to(visible.device).any(-1)[:, None].expand_as(visible)
        return cut if self.queries is None else cut & self.queries.to(visible.device)

    def touched(self, inputs: AttentionInputs) -> Bool[Tensor, "batch query"]:
        cut = self.columns.to(inputs.query.device).any(-1)[:, None].expand(-1, inputs.query.shape[2])
        return cut if self.queries is None else cut & self.queries.to(cut.device)


@dataclass(frozen=True, eq=False)
class SwapEdges:
    """Exchange the attention to the two candidates in these heads, at the marked queries (or all) that see both.

    Token by token where the candidates have as many tokens; else each token of one takes the mean attention over the
    other's tokens, so that the two means trade places, though then the row no longer sums to 1.
    """

    heads: tuple[int, ...]
    spans: Spans
    queries: Bool[Tensor, "batch query"] | None = None

    def apply(self, output: Float[Tensor, "batch query head d_value"], inputs: AttentionInputs) -> Tensor:
        some, touched = inputs.of_heads(self.heads), self.touched(inputs)
        first = _first(touched)
        value = some.value.clone()  # exchanging the values under the attention is exchanging the attention
        for prompt, (yes, no) in enumerate(zip(self.spans.yes.tolist(), self.spans.no.tolist(), strict=True)):
            old_yes, old_no = some.value[prompt, :, slice(*yes)], some.value[prompt, :, slice(*no)]
            if old_yes.shape != old_no.shape:
                old_yes, old_no = (old_yes.sum(1, keepdim=True) / old_no.shape[1],
                                   old_no.sum(1, keepdim=True) / old_yes.shape[1])  # fmt: skip
            value[prompt, :, slice(*yes)], value[prompt, :, slice(*no)] = old_no, old_yes
        rows = replace(some, value=value)
        rows = rows if first == 0 else _from(rows, first, rows.row_mask(first))
        return _put(output, self.heads, softmax_times_value(rows).transpose(1, 2), touched, first)

    def on_pattern(self, pattern: Float[Tensor, "batch head query key"], visible: Tensor | None) -> Tensor:
        """The same edit, where the attention after the softmax is at hand; `visible`: queries that see both."""
        assert visible is not None
        rows = pattern[:, list(self.heads)]
        new = rows.clone()
        for prompt, (yes, no) in enumerate(zip(self.spans.yes.tolist(), self.spans.no.tolist(), strict=True)):
            to_yes, to_no = rows[prompt, ..., slice(*yes)], rows[prompt, ..., slice(*no)]
            if to_yes.shape != to_no.shape:
                to_yes, to_no = to_yes.mean(-1, keepdim=True), to_no.mean(-1, keepdim=True)
            new[prompt, ..., slice(*yes)], new[prompt, ..., slice(*no)] = to_no, to_yes
        return _put_rows(pattern, self.heads, new, self.touched_queries(visible))

    def touched_queries(self, visible: Bool[Tensor, "batch query"]) -> Bool[Tensor, "batch query"]:
        """Which queries' edges are exchanged: marked ones that see both candidates."""
        return visible if self.queries is None else visible & self.queries.to(visible.device)

    def touched(self, inputs: AttentionInputs) -> Bool[Tensor, "batch query"]:
        device = inputs.query.device
        both = inputs.sees(self.spans.yes.to(device), 0) & inputs.sees(self.spans.no.to(device), 0)
        return both.all(1) if self.queries is None else both.all(1) & self.queries.to(device)


Edit = ScaleHeads | ReplaceHeads | CutEdges | SwapEdges


def attend(
    inputs: AttentionInputs, spans: Spans | None = None, first_query: int = 0, edits: Sequence[Edit] = ()
) -> tuple[Float[Tensor, "batch query head d_value"], CandidateAttention | None]:
    """Fused attention: the edited output, and with `spans` the attention paid to them from `first_query` on.

    Edits apply in their order, each to the output that the former left; edge edits start from the unedited attention,
    so a head takes only one. What is read is the unedited attention; edges that an edit changed are not visible.
    """
    check_edits(edits, inputs.query.shape[1])
    reading = None
    if spans is None:
        output = softmax_times_value(inputs)
    else:
        output, reading = candidate_attention(inputs, spans, first_query)
    output = output.transpose(1, 2).contiguous()
    for edit in edits:
        output = edit.apply(output, inputs)
        if reading is not None and isinstance(edit, CutEdges | SwapEdges):
            reading = hide_edges(reading, edit.heads, edit.touched(inputs)[:, first_query:])
    return output, reading


def check_edits(edits: Sequence[Edit], heads: int) -> None:
    """Raises HeadError for heads that a layer of so many doesn't have, and for two edge edits of one head."""
    edged: list[int] = []
    for edit in edits:
        if bad := [head for head in edit.heads if not 0 <= head < heads]:
            raise HeadError(f"{type(edit).__name__} names heads {bad}; this layer has heads 0 to {heads - 1}.")
        edged += edit.heads if isinstance(edit, CutEdges | SwapEdges) else ()
    if len(edged) > len(set(edged)):
        raise HeadError(f"Heads {edged} take more than one edge edit in one layer; join the cut columns into one edit.")


def _first(queries: Bool[Tensor, "batch query"] | None) -> int:
    """The first query that any prompt marks, so that rows before it need no second computation."""
    return 0 if queries is None else int((~queries.any(0)).long().cumprod(0).sum())


def _from(inputs: AttentionInputs, first: int, mask: Tensor) -> AttentionInputs:
    return replace(inputs, query=inputs.query[:, :, first:], mask=mask, causal=False)


def _put(
    output: Float[Tensor, "batch query head d_value"],
    heads: Sequence[int],
    new: Float[Tensor, "batch rows n_heads d_value"],
    queries: Bool[Tensor, "batch query"] | None,
    first: int = 0,
) -> Float[Tensor, "batch query head d_value"]:
    """The output with these heads' rows from `first` on exchanged, at the marked queries."""
    index, old = torch.tensor(heads, device=output.device), output[:, first:]
    new = new.to(output.dtype)
    if queries is not None:
        new = torch.where(queries[:, first:, None, None].to(output.device), new, old[:, :, index])
    return torch.cat([output[:, :first], old.index_copy(2, index, new)], 1)


def _put_rows(
    pattern: Float[Tensor, "batch head query key"],
    heads: Sequence[int],
    new: Float[Tensor, "batch n_heads query key"],
    queries: Bool[Tensor, "batch query"] | None,
) -> Float[Tensor, "batch head query key"]:
    """The pattern with these heads' rows exchanged, at the marked queries."""
    index = torch.tensor(heads, device=pattern.device)
    if queries is not None:
        new = torch.where(queries[:, None, :, None].to(pattern.device), new, pattern[:, index])
    return pattern.index_copy(1, index, new)


def hide_edges(
    reading: CandidateAttention, heads: Sequence[int], queries: Bool[Tensor, "batch query"]
) -> CandidateAttention:
    """The reading without what an edit changed: those edges are not visible, and their logs NaN."""
    visible = reading.visible.expand_as(reading.log_yes).clone()
    visible[:, list(heads)] &= ~queries[:, None]
    log_yes, log_no = (torch.where(visible, log, math.nan) for log in (reading.log_yes, reading.log_no))
    return CandidateAttention(log_yes, log_no, visible)
