"""How much memory a model and one prompt take, by its sizes alone; held to measured peaks by benchmarks/memory.py."""

from torch import nn

from .models import Model
from .models.check import LONGEST
from .models.offload import find_offloaded

# What a pass takes whatever its size: buffers of products, what allocators hold back; and the modules of a hooked view.
SLACK, HOOKED_VIEW = 40 * 2**20, 32 * 2**20
# Activations that transformers writes out term by term: each term is a tensor of the MLP's width.
WRITTEN_OUT = ("gelu_new", "gelu_fast", "quick_gelu")


def memory_estimate(model: Model, length: int) -> dict[str, int]:
    """Bytes that one prompt takes, weights included, within 15% of what was measured (`benchmarks/memory.py`).

    What the libraries and the tokenizer take by themselves isn't in it.

    Args:
        model: any; `copied_bytes` of its hooked view count once that is built.
        length: of the prompt, in tokens.

    Returns:
        "weights", all of them; "fused", a decision or a pass of the fused engine; "hooked", a pass of the hooked engine
        and its check before; "score", what scoring takes: the larger, as the engines are checked against each other.
        Of offloaded weights only the largest counts there, and there is no hooked engine.

    Source: ours; the numbers of copies are read off the code and fitted to measurements.
    """
    size, heads, layers = model.dtype.itemsize, model.n_heads, model.n_layers
    weights, held = _weights(model.module)
    width, inner = _widths(model)
    fused = held + SLACK + activation_bytes(size, length, width, inner, _terms(model))
    if held < weights:
        return {"weights": weights, "fused": fused, "score": fused}
    # A layer's scores and pattern in fp32, masks of [query, key], and what leaves each layer.
    hooks = length**2 * (2 * 4 * heads + 6) + size * length * width * (8 + layers)
    # The check holds the attention of all layers three times and all logits five times, in fp32.
    short = min(length, LONGEST)
    check = 4 * short * (3 * layers * heads * short + 5 * model.config.vocab_size)
    hooked = held + model.copied_bytes + SLACK + HOOKED_VIEW + max(hooks, check)
    return {"weights": weights, "fused": fused, "hooked": hooked, "score": max(fused, hooked)}


def activation_bytes(size: int, tokens: int, width: int, inner: int, terms: int) -> int:
    """What a pass holds of a layer: hidden states, queries, keys and values, and the products inside its MLP.

    Args:
        size: bytes of an entry.
        tokens: of all prompts that run together.
        width: entries of the residual stream, or of all heads' queries where these are more.
        inner: entries inside the MLP.
        terms: tensors of that width that it holds.
    """
    return size * tokens * (8 * width + terms * inner)


def _terms(model: Model) -> int:
    """How many tensors of its inner width an MLP holds: gate, up and their product, or an activation's terms."""
    config = model.config
    name = getattr(config, "hidden_act", None) or getattr(config, "activation_function", None)
    return 6 if name in WRITTEN_OUT else 3


def _widths(model: Model) -> tuple[int, int]:
    """Entries a token: of the residual stream, or all heads' queries where these are wider; inside the MLP."""
    config = model.config
    width = getattr(config, "hidden_size", None) or config.d_model
    inner = getattr(config, "intermediate_size", None) or getattr(config, "d_mlp", None)
    inner = inner or getattr(config, "n_inner", None) or 4 * width
    return max(width, model.n_heads * (getattr(config, "head_dim", None) or 0)), inner


def _weights(module: nn.Module) -> tuple[int, int]:
    """Bytes of all weights, and of those that are in memory at once: an offloaded one only while its part runs."""
    here = largest = elsewhere = 0
    seen = set()
    for name, parameter in module.named_parameters():
        size = parameter.numel() * parameter.element_size()
        if not parameter.is_meta:
            here += size
            continue
        place = find_offloaded(module, name)
        # Tied weights are two objects once they were fetched, and one place on disk.
        key = name if place is None else place.origin() or place.name
        if key not in seen:
            seen.add(key)
            elsewhere, largest = elsewhere + size, max(largest, size)
    return here + elsewhere, here + largest
