"""Prompts into batches of similar length."""

from collections.abc import Iterator

import torch

from ..prompts import PromptBatch


def length_sorted(prompts: PromptBatch, batch_size: int) -> Iterator[list[int]]:
    """Places of prompts in batches of similar length, the longest first, so that memory peaks at once."""
    places = torch.argsort(prompts.last_pos, descending=True, stable=True).tolist()
    for start in range(0, len(places), batch_size):
        yield places[start : start + batch_size]
