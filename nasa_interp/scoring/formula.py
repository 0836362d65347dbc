"""The negative attention score (NAS) as a pure function of the attention that queries pay to the two candidates."""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor


def nas_terms(
    log_yes: Float[Tensor, "*batch query"], log_no: Float[Tensor, "*batch query"]
) -> Float[Tensor, "*batch query"]:
    """Each query's term of the score: (A_yes + A_no) * (ln A_no - ln A_yes), in nats.

    Taken as a difference of logarithms, so that swapping the candidates flips the sign exactly and an attention that
    underflows to 0 still has its term.

    Args:
        log_yes, log_no: logarithm of the attention paid to the candidate; for a candidate of several tokens, of the
            mean over its tokens.

    Source: the paper, section on NAS; the mean over tokens is ours.
    """
    return (log_yes.exp() + log_no.exp()) * (log_no - log_yes)


def negative_attention_score(
    log_yes: Float[Tensor, "*batch query"],
    log_no: Float[Tensor, "*batch query"],
    counted: Bool[Tensor, "*#batch query"],
) -> Float[Tensor, "*batch"]:
    """NAS: the sum of the terms over the queries that count; NaN where none does.

    Args:
        log_yes, log_no: as in `nas_terms`; entries of queries that don't count may hold anything.
        counted: True at queries after the instruction, up to the last prompt token, that may attend to all tokens of
            both candidates. Left to the caller, who knows the mask: a masked candidate can't be told by its value.

    Source: the paper, section on NAS; leaving out queries that can't see a candidate is ours.
    """
    counted = counted.expand_as(log_yes)
    zero = log_yes.new_zeros(())
    terms = nas_terms(torch.where(counted, log_yes, zero), torch.where(counted, log_no, zero))
    total = torch.where(counted, terms, zero).sum(-1)
    return torch.where(counted.any(-1), total, total.new_full((), torch.nan))


def log_mean_attention(
    scores: Float[Tensor, "batch head query token"],
    log_sum: Float[Tensor, "batch head query"],
    real: Bool[Tensor, "batch token"],
) -> Float[Tensor, "batch head query"]:
    """Logarithm of the mean attention over a candidate's tokens, from pre-softmax scores.

    Args:
        scores: scores at the candidate's tokens.
        log_sum: log-sum-exp of the row's scores over all keys.
        real: False at tokens that only fill up candidates of unequal length.
    """
    scores = scores.masked_fill(~real[:, None, None, :], -torch.inf)
    return scores.logsumexp(-1) - log_sum - real.sum(-1).log()[:, None, None]


def span_index(spans: Int[Tensor, "batch 2"]) -> tuple[Int[Tensor, "batch token"], Bool[Tensor, "batch token"]]:
    """Key positions of each prompt's candidate, and which of them are real where lengths differ."""
    width = int((spans[:, 1] - spans[:, 0]).max())
    index = spans[:, :1] + torch.arange(width, device=spans.device)
    real = index < spans[:, 1:]
    return torch.where(real, index, spans[:, :1]), real


def counted_queries(
    first_query: Int[Tensor, " batch"],
    last_pos: Int[Tensor, " batch"],
    yes_span: Int[Tensor, "batch 2"],
    no_span: Int[Tensor, "batch 2"],
    queries: Int[Tensor, " query"],
    window: int | None = None,
) -> Bool[Tensor, "batch query"]:
    """Which queries count: after the instruction, not past the prompt, and able to see all of both candidates.

    Args:
        queries: positions of the queries.
        window: a sliding window's length in keys, the query's own included; None for full causal attention.
    """
    position = queries[None, :]
    inside = (position >= first_query[:, None]) & (position <= last_pos[:, None])
    if window is None:
        return inside
    earliest = torch.minimum(yes_span[:, 0], no_span[:, 0])
    return inside & (position - earliest[:, None] < window)
