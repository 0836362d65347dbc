"""Which slices of a model's weights may be tuned, and the proof that no others were."""

import hashlib
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from ..errors import HeadError, ModelError
from ..heads import Head, HeadList
from .model import Model
from .offload import check_in_memory
from .ready import MERGE, has_adapters
from .slices import WeightSlice


def tunable_slices(
    model: Model, heads: HeadList | Iterable[Any], projections: str = "q", bias: bool = False, share: bool = False
) -> tuple[WeightSlice, ...]:
    """The slices that belong to these heads, each once.

    Args:
        model: with a plain view.
        heads: heads, pairs or names.
        projections: letters out of "qkvo".
        bias: also the biases of those projections, where there are any.
        share: allow keys and values that other heads use too.

    Raises:
        HeadError: a head outside the model, no head at all, or keys and values shared with heads that were not chosen.
        ModelError: quantized, processed or offloaded weights, no plain view, an unknown projection.

    Source: ours; the paper doesn't say which projections it tunes.
    """
    chosen = HeadList.of(heads).check(model.n_layers, model.n_heads)
    if not len(chosen):
        raise HeadError("no heads to tune; give at least one, such as scores.top(10, by='polarity')")
    _refuse(model)
    slices: dict[WeightSlice, None] = {}
    for head in chosen:
        if set(projections) & set("kv") and not share:
            _refuse_shared(model, head, chosen)
        slices |= dict.fromkeys(model.head_slices(head.layer, head.index, projections, bias))
    return tuple(slices)


def outside_hash(hf: nn.Module, slices: Iterable[WeightSlice]) -> str:
    """SHA-256 over all weights but these slices: equal before and after where nothing else moved."""
    by_parameter: dict[str, list[WeightSlice]] = {}
    for s in slices:
        by_parameter.setdefault(s.parameter, []).append(s)
    # A parameter may have several names (tied ones, a bridge's) but one storage: all of them leave the slice out.
    tied = {_memory(hf.get_parameter(name)): pieces for name, pieces in by_parameter.items()}
    digest = hashlib.sha256()
    for name, tensor in sorted(hf.state_dict().items()):
        own, tensor = tied.get(_memory(tensor)), tensor.detach().cpu()
        if own:
            tensor = tensor.clone()
            for s in own:
                tensor.index_fill_(s.dim, torch.tensor(s.index), 0)
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
        digest.update(tensor.contiguous().flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _memory(tensor: Tensor) -> tuple[int, tuple[int, ...]]:
    return tensor.data_ptr(), tuple(tensor.shape)


def spanning_norms(model: Model, heads: HeadList) -> tuple[int, ...]:
    """Layers in which a head's query rows also scale other heads, through a norm over all heads together."""
    return tuple(layer for layer in sorted({head.layer for head in heads}) if model.norm_spans_heads(layer))


def _refuse(model: Model) -> None:
    hf = model.weights
    check_in_memory(hf, model.name, "tuning")
    if any(map(_quantized, (hf, model.module, getattr(model.module, "original_model", None)))):
        raise ModelError(f"{model.name} is quantized, and its weights can't be tuned; load it in float32 or bfloat16")
    if any(parametrize.is_parametrized(part) for part in hf.modules()):
        raise ModelError(
            f"weights of {model.name} are parametrized, so that they are computed and not there to be tuned; call "
            f"torch.nn.utils.parametrize.remove_parametrizations first"
        )
    if has_adapters(hf):
        raise ModelError(f"{model.name} holds LoRA adapters, beside which its own weights can't be tuned; {MERGE}")
    if any(parameter.is_inference() for parameter in hf.parameters()):
        raise ModelError(
            f"the weights of {model.name} were made in torch.inference_mode; load it outside of that block"
        )


def _quantized(module: Any) -> bool:
    """Whether transformers or TransformerLens says that this module's weights are quantized."""
    marked = getattr(module, "is_quantized", False) or getattr(getattr(module, "cfg", None), "load_in_4bit", False)
    return bool(marked or getattr(getattr(module, "config", None), "quantization_config", None))


def _refuse_shared(model: Model, head: Head, chosen: HeadList) -> None:
    group = [Head(head.layer, index) for index in model.group_of(head.layer, head.index)]
    if missing := [str(other) for other in group if other not in chosen]:
        raise HeadError(
            f"head {head} shares its keys and values with {', '.join(missing)}, which would change too; "
            f"choose the whole group, tune 'q' and 'o' alone, or pass share=True"
        )
