"""Fused attention, and the exact attention to candidates that it gives on the way."""

import math
from dataclasses import replace

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from ..errors import ModelError
from .inputs import AttentionInputs, CandidateAttention, Spans, span_columns


def candidate_attention(
    inputs: AttentionInputs, spans: Spans, first_query: int = 0
) -> tuple[Float[Tensor, "batch head query d_value"], CandidateAttention]:
    """Fused attention's output, and what the queries from `first_query` on pay to the candidates (ours).

    Log attention = candidate score - the row's log-sum-exp, the scores taken directly in at least fp32, so neither it
    nor the ratio underflows. Without gradients on the CPU the kernel returns the log-sum-exp. Else it comes,
    differentiable, from the attention mass that fused attention puts on an indicator column beside the values; a mass
    that underflows is floored at exp(-87) (the ratio stays exact), and in bf16 it has that precision, as eager has.
    """
    spans = Spans(*(_checked(span.to(inputs.key.device), inputs.key.shape[2]) for span in (spans.yes, spans.no)))
    yes, no = (_candidate_scores(inputs, span, first_query) for span in (spans.yes, spans.no))
    tensors = (inputs.query, inputs.key, inputs.value)
    needs_gradient = torch.is_grad_enabled() and any(tensor.requires_grad for tensor in tensors)
    if inputs.query.device.type == "cpu" and not needs_gradient:
        output, lse = _with_log_sum_exp(inputs)
        lse = lse[:, :, first_query:]
    else:
        output, mass = _with_candidate_mass(inputs, spans)
        mass = mass[:, :, first_query:].to(yes.dtype)
        lse = torch.logaddexp(yes, no) - mass.clamp_min(torch.finfo(torch.float32).tiny).log()
    visible = inputs.sees(spans.yes, first_query) & inputs.sees(spans.no, first_query)
    log_yes, log_no = (
        torch.where(visible, scores - lse - (span[:, 1] - span[:, 0]).to(lse.dtype).log()[:, None, None], math.nan)
        for scores, span in ((yes, spans.yes), (no, spans.no))
    )
    return output, CandidateAttention(log_yes, log_no, visible)


def _candidate_scores(
    inputs: AttentionInputs, span: Int[Tensor, "batch 2"], first: int
) -> Float[Tensor, "batch head query"]:
    """The log of the summed exponentials of a candidate's scores, straight from its few keys."""
    columns, real = span_columns(span, inputs.key.shape[2])
    wide = torch.promote_types(inputs.query.dtype, torch.float32)
    shape = (-1, inputs.key.shape[1], -1, inputs.key.shape[3])
    keys = inputs.key.gather(2, columns[:, None, :, None].expand(shape)).to(wide)
    queries = inputs.query[:, :, first:].unflatten(1, (inputs.key.shape[1], -1)).to(wide)
    scores = (queries @ keys[:, :, None].mT).flatten(1, 2) * inputs.scaling
    return scores.masked_fill(~real[:, None, None], -math.inf).logsumexp(-1)


def _with_log_sum_exp(inputs: AttentionInputs) -> tuple[Tensor, Tensor]:
    """Output and log-sum-exp of the CPU kernel: it broadcasts grouped keys, but takes no boolean mask, wants head sizes
    alike and silently misreads a last dimension that isn't dense."""
    width = max(inputs.query.shape[-1], inputs.value.shape[-1])
    query, key, value = (_widen(tensor, width) for tensor in (inputs.query, inputs.key, inputs.value))
    mask = inputs.mask
    if mask is not None:
        mask = torch.zeros(mask.shape, dtype=query.dtype).masked_fill_(~mask, -math.inf)
    kernel = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
    output, lse = kernel(query, key, value, 0.0, inputs.causal, attn_mask=mask, scale=inputs.scaling)
    return output[..., : inputs.value.shape[-1]], lse


def _with_candidate_mass(inputs: AttentionInputs, spans: Spans) -> tuple[Tensor, Tensor]:
    """Output and summed attention to both candidates, which fused attention returns in an indicator column."""
    size = inputs.value.shape[-1]
    width = -(-max(inputs.query.shape[-1], size + 1) // 8) * 8
    keys = torch.arange(inputs.key.shape[2], device=inputs.key.device)
    on_yes, on_no = ((span[:, :1] <= keys) & (keys < span[:, 1:]) for span in (spans.yes, spans.no))
    indicator = (on_yes.int() + on_no.int()).to(inputs.value.dtype)[:, None, :, None]
    indicator = indicator.expand(-1, inputs.value.shape[1], -1, 1)
    value = _widen(torch.cat([inputs.value, indicator], -1), width)
    wide = replace(inputs, query=_widen(inputs.query, width), key=_widen(inputs.key, width), value=value)
    output = softmax_times_value(wide)
    return output[..., :size], output[..., size]


def softmax_times_value(inputs: AttentionInputs) -> Float[Tensor, "batch head query d_value"]:
    key, value, groups = inputs.key, inputs.value, inputs.query.shape[1] // inputs.key.shape[1]
    if groups > 1 and inputs.mask is not None and key.device.type != "cpu":
        # elsewhere than on the CPU a mask and grouped keys together leave only the kernel that is not fused
        key, value, groups = key.repeat_interleave(groups, 1), value.repeat_interleave(groups, 1), 1
    return F.scaled_dot_product_attention(
        inputs.query, key, value, inputs.mask, is_causal=inputs.causal, scale=inputs.scaling, enable_gqa=groups > 1
    )


def _widen(tensor: Tensor, width: int) -> Tensor:
    missing = width - tensor.shape[-1]
    return F.pad(tensor, (0, missing)) if missing else tensor if tensor.stride(-1) == 1 else tensor.contiguous()


def _checked(span: Int[Tensor, "batch 2"], keys: int) -> Int[Tensor, "batch 2"]:
    bad = (span[:, 0] < 0) | (span[:, 1] <= span[:, 0]) | (span[:, 1] > keys)
    if bad.any():
        prompt = int(bad.nonzero()[0])
        raise ModelError(f"Prompt {prompt}: candidate span {span[prompt].tolist()} is empty or outside the {keys} "
                         "keys; spans are start and end (exclusive) among all keys, cached ones included")  # fmt: skip
    return span
