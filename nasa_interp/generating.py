"""Prompts continued in the model's own words, token by token: greedily, or drawn."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from itertools import takewhile
from typing import Any

import torch
from tqdm.auto import tqdm
from transformers import GenerationConfig

from .batches import check_batch_size
from .errors import PromptError
from .models import Model
from .models.positions import switching_length
from .models.quiet import quiet_transformers
from .models.ready import check_ready

Processors = Callable[[int], list[Any]]
"""The logits processors of prompts of so many tokens."""


@torch.no_grad()
def generate(
    model: Model,
    rows: Sequence[Sequence[int]],
    max_new_tokens: int,
    *,
    batch_size: int = 16,
    padded: bool = False,
    temperature: float = 0.0,
    seed: int = 0,
    processors: Processors | None = None,
    bar: str | None = None,
) -> list[list[int]]:
    """What the model writes after each prompt, up to its end token.

    Of the model's own generation_config only the end tokens are used.

    Args:
        model: any.
        rows: the tokens of each prompt.
        max_new_tokens: the most that are written.
        batch_size: the most prompts at a time; only prompts of one length share a batch, so that none is padded.
        padded: let prompts of any length share a batch, padded on the left, several times as fast; a token that is
            nearly as likely as another may then be the other one.
        temperature: 0 takes the likeliest token each time, more draws.
        seed: of what is drawn; the global generator stays as it is.
        processors: what acts on the logits, given the prompts' length.
        bar: the title of a bar over prompts; None shows none.

    Returns:
        The new tokens of each prompt, without the end token.
    """
    network = model.network
    check_ready(network)
    ends, written = end_tokens(model), [[] for _ in rows]
    # An answer is cut at its end token, so its padding is never read; every embedding has a row 0.
    drawing = {"do_sample": True, "temperature": temperature, "top_k": 0, "top_p": 1.0} if temperature else {}
    config = GenerationConfig(
        max_new_tokens=max_new_tokens, num_beams=1, eos_token_id=ends or None, pad_token_id=0,
        **({"do_sample": False} | drawing),
    )  # fmt: skip

    def continued(indices: list[int]) -> list[list[int]]:
        length = max(len(rows[index]) for index in indices)
        pads = [length - len(rows[index]) for index in indices]
        tokens = torch.tensor([[0] * n + list(rows[index]) for index, n in zip(indices, pads, strict=True)])
        mask = (torch.arange(length) >= torch.tensor(pads)[:, None]).long()
        config.use_cache = not _passes_switch(model, length, max_new_tokens)
        acting = [] if processors is None else processors(length)
        tokens, mask = tokens.to(model.device), mask.to(model.device)
        out = network.generate(tokens, attention_mask=mask, generation_config=config, logits_processor=acting)
        return [list(takewhile(lambda token: token not in ends, row)) for row in out[:, tokens.shape[1] :].tolist()]

    with (
        tqdm(total=len(rows), desc=bar, unit="prompt", disable=bar is None) as shown,
        quiet_transformers(),
        _generating_by(network, config),
        _drawn_by(model, seed) if temperature else nullcontext(),
    ):
        batches = list(_longest_first(rows, batch_size) if padded else _equally_long(rows, batch_size))
        # Where another prompt in a batch changes an answer, prompts run one by one: the fullest batch's last row tells.
        fullest = max(batches, key=len)
        if not (temperature or padded) and len(fullest) > 1 and continued(fullest)[-1] != continued(fullest[-1:])[0]:
            batches = [[index] for indices in batches for index in indices]
        for indices in batches:
            for index, answer in zip(indices, continued(indices), strict=True):
                written[index] = answer
            shown.update(len(indices))
    return written


def check_room(model: Model, lengths: Sequence[int], ids: Sequence[str], max_new_tokens: int) -> None:
    """Raises PromptError where a prompt leaves no room for so many new tokens in the model's context."""
    longest = max(range(len(lengths)), key=lambda row: lengths[row])
    length, limit = lengths[longest], model.context_length
    if limit is not None and length + max_new_tokens > limit:
        raise PromptError(
            f"question {ids[longest]!r} makes a prompt of {length} tokens, which leaves room for "
            f"{limit - length} of {max_new_tokens} new tokens in the model's context of {limit}; shorten it, leave it "
            f"out, or lower max_new_tokens"
        )


def end_tokens(model: Model) -> list[int]:
    """The tokens that end an answer: the model's, or the tokenizer's where the model names none."""
    ends = getattr(model.network.generation_config, "eos_token_id", None)
    ends = model.tokenizer.eos_token_id if ends is None else ends
    return [] if ends is None else torch.as_tensor(ends).flatten().tolist()


def _equally_long(rows: Sequence[Sequence[int]], batch_size: int) -> Iterator[list[int]]:
    """Prompts in batches of one length, the longest first."""
    check_batch_size(batch_size)
    by_length: dict[int, list[int]] = {}
    for index, row in enumerate(rows):
        by_length.setdefault(len(row), []).append(index)
    for length in sorted(by_length, reverse=True):
        for start in range(0, len(by_length[length]), batch_size):
            yield by_length[length][start : start + batch_size]


def _longest_first(rows: Sequence[Sequence[int]], batch_size: int) -> Iterator[list[int]]:
    """Prompts in batches of similar length."""
    check_batch_size(batch_size)
    order = sorted(range(len(rows)), key=lambda index: -len(rows[index]))
    return (order[start : start + batch_size] for start in range(0, len(order), batch_size))


def _passes_switch(model: Model, length: int, max_new_tokens: int) -> bool:
    """Whether an answer may cross the length where LongRoPE changes all positions, which makes a cache stale."""
    switch = switching_length(model.config)
    return switch is not None and length <= switch < length + max_new_tokens


@contextmanager
def _drawn_by(model: Model, seed: int) -> Iterator[None]:
    """Inside, draws come from this seed; afterwards the global generators are as they were."""
    with torch.random.fork_rng(devices=[model.device] if model.device.type == "cuda" else []):
        torch.manual_seed(seed)
        yield


@contextmanager
def _generating_by(hf: Any, config: GenerationConfig) -> Iterator[None]:
    """Makes this the model's generation_config: `generate` takes from it whatever its own argument leaves unset."""
    own = hf.generation_config
    hf.generation_config = config
    try:
        yield
    finally:
        hf.generation_config = own
