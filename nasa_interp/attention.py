"""Fused attention that reads the attention paid to candidate tokens and edits heads on the way; plain tensors only."""

import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field, replace
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel
from transformers.masking_utils import sdpa_mask

from nasa_interp.errors import HeadError, ModelError

NAME = "nasa_interp"
# What a model may pass to its attention besides tensors without changing what the scores are; windows are in the mask.
_HARMLESS = {"sliding_window", "position_ids", "cache_position", "num_items_in_batch", "position_embeddings",
             "cu_seq_lens_q", "cu_seq_lens_k", "max_length_q", "max_length_k"}  # fmt: skip


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
        columns, real = _columns(span, self.key.shape[2])
        if self.mask is not None:
            mask = self.mask[:, :, first:].expand(len(span), -1, -1, -1)
            seen = mask.gather(3, columns[:, None, None].expand(-1, mask.shape[1], rows, -1))
            return (seen | ~real[:, None, None]).all(-1)
        queries = torch.arange(first, first + rows, device=span.device)
        return (queries >= span[:, 1:] - 1 if self.causal else queries.ge(0).expand(len(span), -1))[:, None]


@dataclass(frozen=True, eq=False)
class ScaleHeads:
    """Multiply heads' outputs, each by its factor (0 removes the head), at the marked queries or at all."""

    heads: tuple[int, ...]
    factors: Float[Tensor, " n_heads"]
    queries: Bool[Tensor, "batch query"] | None = None

    def apply(self, output: Float[Tensor, "batch query head d_value"], inputs: AttentionInputs) -> Tensor:
        factors = self.factors.to(output.device)[:, None]
        return _put(output, self.heads, output[:, :, list(self.heads)] * factors, self.queries)


@dataclass(frozen=True, eq=False)
class ReplaceHeads:
    """Put these values in place of heads' outputs, at the marked queries or at all."""

    heads: tuple[int, ...]
    values: Float[Tensor, "batch query n_heads d_value"]
    queries: Bool[Tensor, "batch query"] | None = None

    def apply(self, output: Float[Tensor, "batch query head d_value"], inputs: AttentionInputs) -> Tensor:
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
        return _put(output, self.heads, _softmax_times_value(rows).transpose(1, 2), self.queries, first)

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
        return _put(output, self.heads, _softmax_times_value(rows).transpose(1, 2), touched, first)

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
    _check_edits(edits, inputs.query.shape[1])
    reading = None
    if spans is None:
        output = _softmax_times_value(inputs)
    else:
        output, reading = candidate_attention(inputs, spans, first_query)
    output = output.transpose(1, 2).contiguous()
    for edit in edits:
        output = edit.apply(output, inputs)
        if reading is not None and isinstance(edit, CutEdges | SwapEdges):
            reading = _hide(reading, edit.heads, edit.touched(inputs)[:, first_query:])
    return output, reading


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
    columns, real = _columns(span, inputs.key.shape[2])
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
    output = _softmax_times_value(wide)
    return output[..., :size], output[..., size]


def _softmax_times_value(inputs: AttentionInputs) -> Float[Tensor, "batch head query d_value"]:
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


def _columns(span: Int[Tensor, "batch 2"], keys: int) -> tuple[Int[Tensor, "batch width"], Bool[Tensor, "batch width"]]:
    """Each span's positions, as many as the longest has, and which of them are real."""
    columns = span[:, :1] + torch.arange(int((span[:, 1] - span[:, 0]).max()), device=span.device)
    return columns.clamp(max=keys - 1), columns < span[:, 1:]


def _checked(span: Int[Tensor, "batch 2"], keys: int) -> Int[Tensor, "batch 2"]:
    bad = (span[:, 0] < 0) | (span[:, 1] <= span[:, 0]) | (span[:, 1] > keys)
    if bad.any():
        prompt = int(bad.nonzero()[0])
        raise ModelError(f"Prompt {prompt}: candidate span {span[prompt].tolist()} is empty or outside the {keys} "
                         "keys. Spans are start and end (exclusive) among all keys, cached ones included.")  # fmt: skip
    return span


def _check_edits(edits: Sequence[Edit], heads: int) -> None:
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


def _hide(
    reading: CandidateAttention, heads: Sequence[int], queries: Bool[Tensor, "batch query"]
) -> CandidateAttention:
    visible = reading.visible.expand_as(reading.log_yes).clone()
    visible[:, list(heads)] &= ~queries[:, None]
    log_yes, log_no = (torch.where(visible, log, math.nan) for log in (reading.log_yes, reading.log_no))
    return CandidateAttention(log_yes, log_no, visible)


@dataclass
class Recording:
    """What one instrumented forward pass left: per layer the reading and, if asked for, the heads' edited outputs."""

    readings: dict[int, CandidateAttention] = field(default_factory=dict)
    outputs: dict[int, Float[Tensor, "batch query head d_value"]] = field(default_factory=dict)


@dataclass
class _Pass:
    """The forward pass under way."""

    spans: Spans | None
    first_query: int
    edits: Mapping[int, Sequence[Edit]]
    outputs_of: Collection[int]
    layers: set[int]
    recording: Recording = field(default_factory=Recording)
    fired: set[int] = field(default_factory=set)
    masks: int = 0


_active: ContextVar[_Pass | None] = ContextVar("nasa_interp_pass", default=None)


@contextmanager
def instrumented(
    hf_model: PreTrainedModel,
    *,
    spans: Spans | None = None,
    first_query: int = 0,
    edits: Mapping[int, Sequence[Edit]] | None = None,
    outputs_of: Collection[int] = (),
) -> Iterator[Recording]:
    """Read and edit every attention layer during the one forward pass in the body; then the model is as it was before.

    Args:
        hf_model: a transformers model whose attention goes through `AttentionInterface`, in eval mode.
        spans: the candidates to read; None reads nothing.
        first_query: the first query to read, counted in this pass (cached keys are no queries).
        edits: per layer, the edits in their order.
        outputs_of: layers whose heads' outputs (after edits, in the graph) to keep in `recording.outputs`.
    Returns:
        The recording, filled as the layers run.
    Raises:
        ModelError: scores that fused attention doesn't compute (soft caps, sinks, biases, dropout), no mask function,
            shifted keys in a sliding cache, a layer that fired another number of times than once.
        HeadError: an edit of a head that isn't there.
    Caveat: gradient checkpointing runs layers twice and is refused.
    """
    if _active.get() is not None:
        raise ModelError("A model is being instrumented already; leave that block first.")
    if not getattr(hf_model, "_supports_sdpa", True):
        raise ModelError(f"{type(hf_model).__name__} doesn't support fused (SDPA) attention. Use the hooked engine.")
    config = hf_model.config.get_text_config()
    layers, edits = _attention_layers(config), edits or {}
    if unknown := sorted((set(edits) | set(outputs_of)) - layers):
        raise ModelError(f"Layers {unknown} have no attention; those with attention are {sorted(layers)}.")
    AttentionInterface.register(NAME, _attention)
    AttentionMaskInterface.register(NAME, _mask)
    this = _Pass(spans, first_query, edits, outputs_of, layers)
    before, token = config._attn_implementation, _active.set(this)
    # the public setter would also rewrite nested configs, and couldn't restore them
    config._attn_implementation_internal = NAME
    try:
        yield this.recording
    finally:
        config._attn_implementation_internal = before
        _active.reset(token)
    if missed := sorted(layers - this.fired):
        reason = "" if this.fired else " No forward pass ran, or the attention doesn't go through AttentionInterface."
        raise ModelError(f"Layers {missed} of {type(hf_model).__name__} fired 0 times, expected 1.{reason}")


def _attention_layers(config: Any) -> set[int]:
    kinds = getattr(config, "layer_types", None) or ["full_attention"] * config.num_hidden_layers
    return {layer for layer, kind in enumerate(kinds) if "attention" in kind and kind != "linear_attention"}


def _mask(*args: Any, **kwargs: Any) -> Tensor | None:
    """Transformers' own mask for fused attention; None from it means causal, or one query that sees all keys."""
    this = _running()
    this.masks += 1
    if int(kwargs.get("kv_offset", 0)):
        raise ModelError("A sliding cache dropped keys, so candidate positions shifted. Give the prefix a full-length "
                         "cache: DynamicCache() without a config.")  # fmt: skip
    return sdpa_mask(*args, **kwargs)


def _attention(
    module: torch.nn.Module,
    query: Float[Tensor, "batch head query d_head"],
    key: Float[Tensor, "batch key_head key d_head"],
    value: Float[Tensor, "batch key_head key d_value"],
    attention_mask: Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    is_causal: bool | None = None,
    **kwargs: Any,
) -> tuple[Float[Tensor, "batch query head d_value"], None]:
    this, layer = _running(), getattr(module, "layer_idx", None)
    if layer is None or layer not in this.layers or layer in this.fired:
        times = 1 + (layer in this.fired)
        raise ModelError(f"Layer {layer} ({type(module).__name__}) fired {times} times, expected {times - 1}: "
                         "instrument one forward pass a block, without checkpointing or cross-attention.")  # fmt: skip
    this.fired.add(layer)
    _refuse(layer, attention_mask, dropout, kwargs, this.masks)
    queries = query.shape[2]
    is_causal = bool(getattr(module, "is_causal", True)) if is_causal is None else is_causal
    causal = is_causal and attention_mask is None and queries > 1
    # as transformers does: without a mask and with more keys than queries, the rest of a static cache is still empty
    keys = queries if causal else key.shape[2]
    mask = None if attention_mask is None else attention_mask[..., :keys]
    scaling = 1 / math.sqrt(query.shape[-1]) if scaling is None else scaling
    inputs = AttentionInputs(query, key[:, :, :keys], value[:, :, :keys], mask, causal, scaling)
    output, reading = attend(inputs, this.spans, this.first_query, this.edits.get(layer, ()))
    if reading is not None:
        this.recording.readings[layer] = reading
    if layer in this.outputs_of:
        this.recording.outputs[layer] = output
    return output, None


def _refuse(layer: int, mask: Tensor | None, dropout: float, kwargs: Mapping[str, Any], masks: int) -> None:
    """Raise where fused attention would compute something else than the model, silently."""
    if dropout:
        raise ModelError(f"Layer {layer} drops attention at random (p={dropout}); call model.eval() first.")
    if mask is None and not masks:
        raise ModelError(f"Layer {layer} got no mask and no mask function ran: its model makes masks in another way.")
    if mask is not None and (mask.dtype != torch.bool or mask.ndim != 4):
        raise ModelError(f"Layer {layer} got a {mask.dtype} mask of shape {tuple(mask.shape)}; only boolean "
                         "[batch, head, query, key] is read exactly. Use the hooked engine.")  # fmt: skip
    strange = [
        name for name, value in kwargs.items()
        if value is not None and not isinstance(value, bool | str) and name not in _HARMLESS
    ]  # fmt: skip
    if strange:
        raise ModelError(f"Layer {layer} passes {strange} to its attention (a soft cap, sinks or a bias?), which fused "
                         "attention doesn't compute. Use the hooked engine.")  # fmt: skip


def _running() -> _Pass:
    if (this := _active.get()) is None:
        raise ModelError(f"The attention {NAME!r} runs only inside instrumented(); give the model its own back.")
    return this
