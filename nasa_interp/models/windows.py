"""How far back each layer's queries may look, read from the configuration."""

from typing import Any

from ..errors import ModelError

KNOWN = ("full_attention", "sliding_attention")


def attention_windows(model: Any) -> list[int | None]:
    """Each layer's sliding window in keys, the query's own included; None where attention is full.

    Args:
        model: a Model, or a HookedNetwork; its configuration tells.

    Raises:
        ModelError: a layer that hides keys differently, such as in chunks (Llama 4).
    """
    config = model.config
    window = getattr(config, "sliding_window", None) or getattr(config, "window_size", None)
    kinds = getattr(config, "layer_types", None)
    # GPT-Neo and TransformerLens's own configurations say local and global.
    layers = getattr(config, "attention_layers", None) or getattr(config, "attn_types", None)
    if kinds is None and layers:
        kinds = ["sliding_attention" if layer == "local" else "full_attention" for layer in layers]
    if unsupported := sorted(set(kinds or ()) - set(KNOWN)):
        raise ModelError(f"which keys a layer of kind {unsupported[0]!r} sees is unknown here; use the fused engine")
    if window is None:
        return [None] * model.n_layers
    if kinds is not None:
        return [window if kind == "sliding_attention" else None for kind in kinds]
    if False in (getattr(config, "use_sliding_window", True), getattr(config, "use_local_attn", True)):
        return [None] * model.n_layers
    return [window] * model.n_layers
