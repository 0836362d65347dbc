"""A transformers model whose attention is read and edited on the way, inside a context manager."""

import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel
from transformers.masking_utils import sdpa_mask

from ..errors import FusedRefusedError, ModelError
from ..models.hooked import HookedNetwork
from ..models.ready import check_ready
from .edits import Edit, attend
from .hooked import instrumented_hooks
from .inputs import AttentionInputs, Spans
from .recording import Recording

NAME = "nasa_interp"
# What a model may pass to its attention besides tensors without changing what the scores are; windows are in the mask.
_HARMLESS = {"sliding_window", "position_ids", "cache_position", "num_items_in_batch", "position_embeddings",
             "cu_seq_lens_q", "cu_seq_lens_k", "max_length_q", "max_length_k"}  # fmt: skip


@dataclass
class _Pass:
    """The forward pass under way."""

    spans: Spans | None
    first_query: int
    edits: Mapping[int, Sequence[Edit]]
    outputs_of: Collection[int]
    layers: set[int]
    only_read: bool = False
    recording: Recording = field(default_factory=Recording)
    fired: set[int] = field(default_factory=set)
    masks: int = 0


class _AllRead(Exception):  # noqa: N818 - not an error
    """The last layer is read."""


_active: ContextVar[_Pass | None] = ContextVar("nasa_interp_pass", default=None)


@contextmanager
def instrumented(
    hf_model: PreTrainedModel | HookedNetwork,
    *,
    spans: Spans | None = None,
    first_query: int = 0,
    edits: Mapping[int, Sequence[Edit]] | None = None,
    outputs_of: Collection[int] = (),
    layers: Collection[int] | None = None,
    only_read: bool = False,
) -> Iterator[Recording]:
    """Read and edit every attention layer during the one forward pass in the body; then the model is as it was before.

    Args:
        hf_model: a transformers model whose attention goes through `AttentionInterface`, in eval mode; or a hooked
            model, which is read and edited through its hooks (`instrumented_hooks`).
        spans: the candidates to read; None reads nothing.
        first_query: the first query to read, counted in this pass (cached keys are no queries).
        edits: per layer, the edits in their order.
        outputs_of: layers whose heads' outputs (after edits, in the graph) to keep in `recording.outputs`.
        layers: those that will run, where not all do (a pass that restarts at a layer).
        only_read: end the block as soon as the last layer is read, without the rest of the pass and its logits.
    Returns:
        The recording, filled as the layers run.
    Raises:
        ModelError: scores that fused attention doesn't compute (soft caps, sinks, biases, dropout), no mask function,
            shifted keys in a sliding cache, a layer that fired another number of times than once.
        HeadError: an edit of a head that isn't there.
    Caveat: gradient checkpointing runs layers twice and is refused.
    """
    if isinstance(hf_model, HookedNetwork):
        reading = {"spans": spans, "first_query": first_query, "outputs_of": outputs_of}
        with instrumented_hooks(hf_model, edits=edits, layers=layers, **reading) as recording:
            yield recording
        return
    if _active.get() is not None:
        raise ModelError("a model is being instrumented already; leave that block first")
    check_ready(hf_model)
    if not getattr(hf_model, "_supports_sdpa", True):
        raise FusedRefusedError(
            f"{type(hf_model).__name__} doesn't support fused (SDPA) attention; use the hooked engine"
        )
    config = hf_model.config.get_text_config()
    expected, edits = _attention_layers(config), edits or {}
    expected &= expected if layers is None else set(layers)
    if unknown := sorted((set(edits) | set(outputs_of)) - expected):
        raise ModelError(f"Layers {unknown} have no attention that runs; those that have are {sorted(expected)}.")
    AttentionInterface.register(NAME, _attention)
    AttentionMaskInterface.register(NAME, _mask)
    this = _Pass(spans, first_query, edits, outputs_of, expected, only_read)
    before, token = config._attn_implementation, _active.set(this)
    # the public setter would also rewrite nested configs, and couldn't restore them
    config._attn_implementation_internal = NAME
    try:
        yield this.recording
    except _AllRead:
        pass
    finally:
        config._attn_implementation_internal = before
        _active.reset(token)
    if missed := sorted(expected - this.fired):
        reason = "" if this.fired else " (no forward pass ran, or the attention doesn't go through AttentionInterface)"
        raise FusedRefusedError(
            f"layers {missed} of {type(hf_model).__name__} fired 0 times, expected 1{reason}; use the hooked engine"
        )


def _attention_layers(config: Any) -> set[int]:
    kinds = getattr(config, "layer_types", None) or ["full_attention"] * config.num_hidden_layers
    return {layer for layer, kind in enumerate(kinds) if "attention" in kind and kind != "linear_attention"}


def _mask(*args: Any, **kwargs: Any) -> Tensor | None:
    """Transformers' own mask for fused attention; None from it means causal, or one query that sees all keys."""
    this = _running()
    this.masks += 1
    if int(kwargs.get("kv_offset", 0)):
        raise FusedRefusedError(
            "a sliding cache dropped keys, so candidate positions shifted; give the prefix a full-length cache: "
            "DynamicCache() without a config"
        )
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
        raise FusedRefusedError(
            f"layer {layer} ({type(module).__name__}) fired {times} times, expected {times - 1}; instrument one "
            "forward pass a block, without checkpointing or cross-attention"
        )
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
    if this.only_read and this.fired == this.layers:
        raise _AllRead
    return output, None


def _refuse(layer: int, mask: Tensor | None, dropout: float, kwargs: Mapping[str, Any], masks: int) -> None:
    """Raise where fused attention would compute something else than the model, silently."""
    if dropout:
        raise ModelError(f"layer {layer} drops attention at random (p={dropout}); call model.eval()")
    if mask is None and not masks:
        raise FusedRefusedError(
            f"layer {layer} got no mask and no mask function ran, as its model makes masks in another way; use the "
            "hooked engine"
        )
    if mask is not None and (mask.dtype != torch.bool or mask.ndim != 4):
        raise FusedRefusedError(
            f"layer {layer} got a {mask.dtype} mask of shape {tuple(mask.shape)}, where only boolean [batch, "
            f"head, query, "
            "key] is read exactly; use the hooked engine"
        )
    strange = [
        name for name, value in kwargs.items()
        if value is not None and not isinstance(value, bool | str) and name not in _HARMLESS
    ]  # fmt: skip
    if strange:
        raise FusedRefusedError(
            f"layer {layer} passes {strange} to its attention (a soft cap, sinks or a bias?), which fused attention "
            "doesn't compute; use the hooked engine"
        )


def _running() -> _Pass:
    if (this := _active.get()) is None:
        raise ModelError(f"The attention {NAME!r} runs only inside instrumented(); give the model its own back.")
    return this
