"""Positions that depend on the longest prompt of a batch, read from the configuration."""

from collections.abc import Sequence
from typing import Any

from ..errors import FusedRefusedError

Parameters = dict[str, Any]


def switching_length(config: Any) -> int | None:
    """The length above which a pass uses another set of rotary frequencies for all its tokens.

    LongRoPE (Phi-3, Phi-4) switches by the longest row of the batch. None where each prompt has its own positions.
    """
    rope = getattr(config, "rope_parameters", None) or {}
    kinds: list[Parameters] = [rope, *(parameters for parameters in rope.values() if isinstance(parameters, dict))]
    # Older configurations hold the length outside the rotary parameters.
    name = "original_max_position_embeddings"
    default = getattr(config, name, None) or getattr(config, "max_position_embeddings", None)
    lengths = [parameters.get(name) or default for parameters in kinds if parameters.get("rope_type") == "longrope"]
    return min((length for length in lengths if length), default=None)


def check_positions(config: Any, lengths: Sequence[int], cached: int = 0) -> None:
    """Refuses a pass in which a prompt would get positions that it doesn't have alone.

    Args:
        config: the text model's configuration.
        lengths: of the prompts in tokens, cached ones included.
        cached: how many tokens come from a cache that several prompts share.

    Raises:
        FusedRefusedError: prompts on both sides of the switch, or a cache computed before it.
    """
    switch = switching_length(config)
    if switch is None or max(lengths) <= switch:
        return
    if cached or min(lengths) <= switch:
        raise FusedRefusedError(
            f"a prompt of {max(lengths)} tokens is longer than {switch}, where this model's LongRoPE changes the "
            f"positions of all that run in one pass; ask prompts up to {switch} tokens"
        )
