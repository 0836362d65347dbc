"""Positions that a model chooses by the longest prompt of a batch, read from its configuration."""

from collections.abc import Sequence
from typing import Any

from ..errors import FusedRefusedError

Parameters = dict[str, Any]


def switching_length(config: Any) -> int | None:
    """The length up to which a pass takes one set of rotary frequencies, and beyond which another for all its tokens.

    LongRoPE (Phi-3, Phi-4) switches so, by the longest row of the batch. None where positions are each prompt's own.
    """
    found = getattr(config, "rope_parameters", None) or {}
    kinds: list[Parameters] = [found, *(each for each in found.values() if isinstance(each, dict))]
    # Older configurations hold the length outside of the rotary parameters.
    name = "original_max_position_embeddings"
    default = getattr(config, name, None) or getattr(config, "max_position_embeddings", None)
    lengths = [each.get(name) or default for each in kinds if each.get("rope_type") == "longrope"]
    return min((length for length in lengths if length), default=None)


def check_positions(config: Any, lengths: Sequence[int], cached: int = 0) -> None:
    """Refuses a pass in which a prompt would get other positions than it has alone.

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
