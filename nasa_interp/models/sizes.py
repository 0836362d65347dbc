"""What a configuration says of a model: its sizes, under whichever names, and whether heads are defined for it."""

from typing import Any

from ..errors import ModelError
from .hooked import HookedConfig

HEAD_COUNTS = ("num_attention_heads", "n_heads", "n_head")

_MISSING = object()


def config_of(hf: Any, hooked: Any) -> Any:
    """The configuration of the text model; TransformerLens's own where there is no transformers model at all."""
    source = hf if hf is not None else getattr(hooked, "original_model", None)
    return HookedConfig(hooked.cfg) if source is None else source.config.get_text_config()


def first_of(config: Any, names: tuple[str, ...], default: Any = _MISSING) -> Any:
    """The first of these entries that the configuration has.

    Raises:
        ModelError: none of them, and no default.
    """
    for name in names:
        value = getattr(config, name, None)
        if value is not None:
            return value
    if default is _MISSING:
        raise ModelError(f"{type(config).__name__} has none of {', '.join(names)}; the model's size is unknown")
    return default


def no_heads_reason(config: Any) -> str | None:
    """Why heads aren't defined for models of this configuration, or None.

    Every layer must attend with softmax attention over the prompt's own earlier tokens.
    """
    architecture = type(config).__name__
    if getattr(config, "is_encoder_decoder", False):
        return f"it has an encoder and a decoder ({architecture}), and heads are defined for decoder-only models"
    if first_of(config, HEAD_COUNTS, default=None) is None:
        return f"it has no attention heads ({architecture}): recurrent layers have no attention to score"
    kinds = getattr(config, "layer_types", None) or getattr(config, "layers_block_type", None) or ()
    if unsupported := sorted({kind for kind in kinds if "attention" not in kind or kind == "linear_attention"}):
        return f"it has layers of kind {unsupported[0]!r} ({architecture}), which have no attention to score"
    return None


def looks_ahead(hf: Any) -> bool:
    """Whether a text model's attention isn't causal, as in encoders with a language-model head (BERT)."""
    decoder = hf.get_decoder() if hasattr(hf, "get_decoder") else None
    return any(getattr(part, "is_causal", True) is False for part in (decoder or hf).modules())
