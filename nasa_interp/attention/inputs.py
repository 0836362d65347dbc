"""What attention takes and what is read off it, as plain tensors."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor


@dataclass(frozen=True, eq=False)
class Spans:
    """Where each prompt's two candidates stand: key positions, start and end (exclusive), cached keys counted too."""

    yes: Int[Tensor, "batch 2"]
    no: Int[Tensor, "batch 2"]


@dataclass(frozen=True, eq=False)
class CandidateAttention:
    """What one layer pays to the candidates: the log of the mean attention over each one's tokens, at least fp32.

    `visible` is False where the mask hides a token of either candidate or an edit changed the edges; the logs are NaN
    there. Swapping the spans swaps the two logs bit for bit.
    """

    log_yes: Float[Tensor, "batch head query"]
    log_no: Float[Tensor, "batch head query"]
    visible: Bool[Tensor, "batch #head query"]


@dataclass(frozen=True, eq=False)
class AttentionInputs:
    """One layer's attention before the softmax. `causal` stands for a mask, of as many queries as keys."""

    query: Float[Tensor, "batch head query d_head"]
    key: Float[Tensor, "batch key_head key d_head"]
    value: Float[Tensor, "batch key_head key d_value"]
    mask: Bool[Tensor, "#batch #head query key"] | None
    causal: bool
    scaling: float

    def of_heads(self, heads: Sequence[int]) -> "AttentionInputs":
        """The same attention for these heads alone, each with its own copy of its group's keys and values."""
        groups = self.query.shape[1] // self.key.shape[1]
        shared = [head // groups for head in heads]
        mask = self.mask if self.mask is None or self.mask.shape[1] == 1 else self.mask[:, list(heads)]
        query, key, value = self.query[:, list(heads)], self.key[:, shared], self.value[:, shared]
        return replace(self, query=query, key=key, value=value, mask=mask)

    def row_mask(self, first: int) -> Bool[Tensor, "batch_or_1 head_or_1 rows key"]:
        """Which keys the queries from `first` on see, written out."""
        if self.mask is not None:
            return self.mask[:, :, first:]
        keys = torch.arange(self.key.shape[2], device=self.key.device)
        rows = torch.arange(first, self.query.shape[2], device=self.key.device)
        return (keys <= rows[:, None] if self.causal else keys.ge(0).expand(len(rows), -1))[None, None]

    def sees(self, span: Int[Tensor, "batch 2"], first: int) -> Bool[Tensor, "batch head_or_1 rows"]:
        """Whether a query from `first` on sees every token of its prompt's span."""
        rows = self.query.shape[2] - first
        columns, real = span_columns(span, self.key.shape[2])
        if self.mask is not None:
            mask = self.mask[:, :, first:].expand(len(span), -1, -1, -1)
            seen = mask.gather(3, columns[:, None, None].expand(-1, mask.shape[1], rows, -1))
            return (seen | ~real[:, None, None]).all(-1)
        queries = torch.arange(first, first + rows, device=span.device)
        return (queries >= span[:, 1:] - 1 if self.causal else queries.ge(0).expand(len(span), -1))[:, None]


def span_columns(
    span: Int[Tensor, "batch 2"], keys: int
) -> tuple[Int[Tensor, "batch width"], Bool[Tensor, "batch width"]]:
    """Each span's positions, as many as the longest has, and which of them are real."""
    columns = span[:, :1] + torch.arange(int((span[:, 1] - span[:, 0]).max()), device=span.device)
    return columns.clamp(max=keys - 1), columns < span[:, 1:]
