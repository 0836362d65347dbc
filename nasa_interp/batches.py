"""Prompts into batches of equal length."""

from collections.abc import Iterator

from .forward import check_batch_size
from .prompts import PromptBatch


def equal_length(prompts: PromptBatch, batch_size: int) -> Iterator[list[int]]:
    """Places of prompts in batches of equal length, the longest first: no pads, and nothing of a longer neighbour."""
    lengths = prompts.last_pos.tolist()
    check_batch_size(batch_size)
    for length in sorted(set(lengths), reverse=True):
        places = [place for place, each in enumerate(lengths) if each == length]
        for start in range(0, len(places), batch_size):
            yield places[start : start + batch_size]
