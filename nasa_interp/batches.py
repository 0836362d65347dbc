"""Prompts into batches: how many fit at once, the longest first, halves of those that did not fit."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TypeVar

import numpy as np
import psutil
import torch

from .errors import ModelError, PromptError
from .models import Model
from .prompts import PromptBatch


def longest_first(prompts: PromptBatch) -> list[int]:
    """Rows of the prompts, the longest first, so that memory peaks at once; equally long ones keep their order."""
    return torch.argsort(prompts.last_pos, descending=True, stable=True).tolist()


def equal_length(prompts: PromptBatch, batch_size: int) -> Iterator[list[int]]:
    """Rows of prompts in batches of equal length, the longest first: no pads, and no effect of a longer neighbour."""
    lengths = prompts.last_pos.tolist()
    check_batch_size(batch_size)
    for length in sorted(set(lengths), reverse=True):
        rows = [row for row, own_length in enumerate(lengths) if own_length == length]
        for start in range(0, len(rows), batch_size):
            yield rows[start : start + batch_size]


# The share of free memory that a batch may take, by estimate.
MEMORY_SHARE = 0.25

# More tokens in a batch than these no longer make a token cheaper (measured on the CPU alone).
TOKENS_AT_ONCE = {"cpu": 1024, "cuda": 16384}

# Tokens that take as long as a batch does by itself, which pads are weighed against (measured on the CPU alone).
A_BATCH = {"cpu": 40, "cuda": 2048}

Item = TypeVar("Item")
Result = TypeVar("Result")


def split_batches(
    items: Sequence[Item], lengths: Sequence[int], size_for: Callable[[int], int], a_batch: int
) -> Iterator[list[Item]]:
    """Batches of items that come longest first, cut where pads would cost more than another batch.

    Args:
        items: such as places of prompts; lengths: of what is run of each.
        size_for: how many items of a length a batch takes at most.
        a_batch: tokens that take as long as a batch by itself does.
    """
    for start, end in _cuts(lengths, size_for, a_batch):
        yield list(items[start:end])


def _cuts(lengths: Sequence[int], size_for: Callable[[int], int], a_batch: int) -> list[tuple[int, int]]:
    """Starts and ends of the batches that take the fewest tokens, pads and `a_batch` each included."""
    n = len(lengths)
    # Asked once a length: what it is found by, free memory, takes time to ask and changes meanwhile.
    sizes = {length: check_batch_size(size_for(length)) for length in set(lengths)}
    # The fewest tokens up to each end, and where the last of those batches begins.
    fewest, begun = np.full(n + 1, np.inf), np.zeros(n + 1, int)
    fewest[0] = 0
    for start in range(n):
        size = min(n - start, sizes[lengths[start]])
        ends = slice(start + 1, start + size + 1)
        tokens = fewest[start] + a_batch + lengths[start] * np.arange(1, size + 1)
        begun[ends] = np.where(tokens <= fewest[ends], start, begun[ends])
        fewest[ends] = np.minimum(tokens, fewest[ends])
    cuts = []
    while n:
        cuts.append((int(begun[n]), n))
        n = int(begun[n])
    return cuts[::-1]


def model_batches(
    model: Model, items: Sequence[Item], lengths: Sequence[int], size_for: Callable[[int], int]
) -> Iterator[list[Item]]:
    """Batches of items that come longest first: with pads, but where the user's hooks may count from the end.

    Args:
        model: its user's hooks are looked for where it runs through hooks.
        items, lengths, size_for: as for `split_batches`.
    """
    a_batch = a_batch_costs(model)
    if model.why_hooked is None or not model.user_hooks:
        yield from split_batches(items, lengths, size_for, a_batch)
        return
    for length in sorted(set(lengths), reverse=True):
        alike = [item for item, other in zip(items, lengths, strict=True) if other == length]
        yield from split_batches(alike, [length] * len(alike), size_for, a_batch)


def check_batch_size(size: int) -> int:
    """The size; raises PromptError below 1."""
    if size < 1:
        raise PromptError(f"a batch of {size} prompts holds none; give a batch_size of 1 or more")
    return size


def in_batches(batches: Iterable[list[Item]], run: Callable[[list[Item]], Result]) -> Iterator[Result]:
    """Runs the batches, and halves of those that don't fit into memory.

    Raises:
        ModelError: where one item alone doesn't fit.
    """
    for planned in batches:
        waiting = [planned]
        while waiting:
            batch = waiting.pop()
            try:
                result = run(batch)
            except (torch.OutOfMemoryError, RuntimeError) as error:
                if not _out_of_memory(error):
                    raise
                if len(batch) == 1:
                    raise ModelError(
                        f"the prompt at place {batch[0]} alone doesn't fit into memory; "
                        f"shorten it, or use a smaller dtype or another device"
                    ) from error
                half = len(batch) // 2
                waiting += [batch[half:], batch[:half]]
                continue
            yield result


def free_memory(model: Model) -> int:
    """Bytes of the device's memory that a computation may take, by estimate."""
    cuda = model.device.type == "cuda"
    free = torch.cuda.mem_get_info(model.device)[0] if cuda else psutil.virtual_memory().available
    return int(MEMORY_SHARE * free)


def batch_size_for(model: Model, length: int, prefix: int = 0) -> int:
    """How many prompts of this many tokens (behind a cached prefix) fit a batch, by a rough estimate of memory."""
    config = model.config
    width = 8 * config.hidden_size + 4 * (getattr(config, "intermediate_size", None) or 4 * config.hidden_size)
    # one layer's keys and values behind the prefix, and what a layer makes of the tokens
    bytes_each = model.dtype.itemsize * (width * length + 6 * config.hidden_size * (prefix + length))
    bytes_each += 8 * config.vocab_size
    return max(1, min(free_memory(model) // bytes_each, tokens_at_once(model) // max(length, 1)))


def a_batch_costs(model: Model) -> int:
    """Tokens that take as long as a batch by itself does on the model's device."""
    return A_BATCH.get(model.device.type, A_BATCH["cuda"])


def tokens_at_once(model: Model) -> int:
    """How many tokens make a batch on the model's device where memory allows."""
    return TOKENS_AT_ONCE.get(model.device.type, 512)


def _out_of_memory(error: BaseException) -> bool:
    # The CPU allocator raises a plain RuntimeError that only its text tells apart.
    phrases = ("can't allocate memory", "not enough memory")
    return isinstance(error, torch.OutOfMemoryError) or any(phrase in str(error) for phrase in phrases)
