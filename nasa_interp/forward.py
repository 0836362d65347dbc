"""The fused forward pass behind decisions, scores and interventions: shared prefix, sorted suffixes, one answer position.

All prompts of one candidate order begin with the same tokens. Those are run once and their keys and values cached;
what follows is sorted by length, padded on the right and run in batches against that cache. Only positions that end
some prompt are unembedded. None of this changes a result beyond rounding.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import psutil
import torch
from jaxtyping import Float, Int
from torch import Tensor
from tqdm.auto import tqdm

from .attention import CandidateAttention, Edit, Recording, Spans, instrumented
from .errors import ModelError
from .models import Model
from .prompts import PromptBatch

# More tokens in a batch than these no longer make a token cheaper.
TOKENS_AT_ONCE = {"cpu": 2048, "cuda": 16384}
# Share of the memory that is free which a batch may be estimated to take.
MEMORY_SHARE = 0.25

EditsOf = Callable[[PromptBatch, range], Mapping[int, Sequence[Edit]]]


@dataclass(frozen=True)
class FusedBatch:
    """What one batch of prompts gave.

    Args:
        places: which prompts, in the order of the rows.
        logits: at each prompt's last position, fp32 on the CPU.
        readings: for each layer what the queries pay to the candidates; empty where nothing was to be read.
        queries: positions of those queries in the prompts.
    """

    places: list[int]
    logits: Float[Tensor, "batch d_vocab"]
    readings: dict[int, CandidateAttention]
    queries: Int[Tensor, " query"]


@dataclass(frozen=True)
class Prefix:
    """Tokens that all prompts begin with, and each layer's keys and values of them (one row, or one a variant)."""

    length: int
    keys_values: list[tuple[Tensor, Tensor]] = field(default_factory=list)

    def cache(self, rows: int) -> Any:
        """A cache of its own for a batch: every layer at full length, sliding ones too, so that positions stay."""
        from transformers import DynamicCache

        if not self.length:
            return None
        cache = DynamicCache()
        for layer, (keys, values) in enumerate(self.keys_values):
            repeats = rows // len(keys)
            cache.update(_repeat(keys, repeats), _repeat(values, repeats), layer)
        return cache


def _repeat(tensor: Tensor, times: int) -> Tensor:
    return tensor.expand(times, -1, -1, -1) if len(tensor) == 1 else tensor.repeat_interleave(times, 0)


def shared_prefix_length(prompts: PromptBatch) -> int:
    """How many leading tokens all prompts share, short of the first query that is read and of any prompt's end."""
    if len(prompts) < 2:
        return 0
    same = (prompts.tokens == prompts.tokens[:1]).all(0) & prompts.mask.all(0)
    shared = int(same.long().cumprod(0).sum())
    return min(shared, int(prompts.first_query.min()), int(prompts.last_pos.min()))


@torch.no_grad()
def run_fused(
    model: Model,
    prompts: PromptBatch,
    *,
    read: bool = False,
    edits: EditsOf | None = None,
    batch_size: int | None = None,
    share_prefix: bool = True,
    progress: bool = False,
    title: str = "running",
) -> Iterator[FusedBatch]:
    """Runs all prompts through the plain model with fused attention.

    Args:
        model: with a plain view.
        prompts: what `build_prompts` made.
        read: read the attention that every layer pays to the candidates.
        edits: what to change on the way: called with the prompts of a batch and the positions that are being run,
            returns the edits of each layer. It is called for the shared prefix too, with the first prompt alone.
        batch_size: prompts in a batch; None takes it from a memory estimate. Out of memory, a batch is halved.
        share_prefix: False runs every prompt whole.
        progress, title: a bar over prompts.

    Returns:
        Batches in no particular order; `places` says which prompts they hold.

    Raises:
        ModelError: where fused attention isn't exact for the model, or one prompt alone doesn't fit into memory.
    """
    prefix = run_prefix(model, prompts, edits) if share_prefix else Prefix(0)
    places = torch.argsort(prompts.last_pos, descending=True, stable=True).tolist()
    size = batch_size or batch_size_for(model, int(prompts.last_pos.max()) + 1 - prefix.length, prefix.length)
    waiting = [places[start : start + size] for start in range(0, len(places), size)][::-1]
    with tqdm(total=len(prompts), desc=title, unit="prompt", disable=not progress) as bar:
        while waiting:
            rows = waiting.pop()
            try:
                batch = _run_batch(model, prompts, rows, prefix, read, edits)
            except (torch.OutOfMemoryError, RuntimeError) as error:
                if not _out_of_memory(error):
                    raise
                if len(rows) == 1:
                    raise ModelError(
                        f"question {prompts.questions[rows[0]].id!r} alone doesn't fit into memory; "
                        f"shorten it, or use a smaller dtype or another device"
                    ) from error
                half = len(rows) // 2
                waiting += [rows[half:], rows[:half]]
                continue
            yield batch
            bar.update(len(rows))


@torch.no_grad()
def run_prefix(model: Model, prompts: PromptBatch, edits: EditsOf | None = None) -> Prefix:
    """The prompts' shared prefix, run once; recomputed under edits that act on it."""
    from transformers import DynamicCache

    length = shared_prefix_length(prompts)
    if not length:
        return Prefix(0)
    first = prompts.select([0])
    changes = edits(first, range(length)) if edits else {}
    cache = DynamicCache()
    tokens = first.tokens[:, :length].to(model.device)
    with instrumented(model.hf, edits=changes):
        model.hf(tokens, past_key_values=cache, use_cache=True, logits_to_keep=1)
    return Prefix(length, [(layer.keys, layer.values) for layer in cache.layers])


def _run_batch(
    model: Model, prompts: PromptBatch, rows: list[int], prefix: Prefix, read: bool, edits: EditsOf | None
) -> FusedBatch:
    batch, start = prompts.select(rows), prefix.length
    device = model.device
    positions = range(start, batch.tokens.shape[1])
    first = int(batch.first_query.min()) if read else start
    spans = Spans(batch.yes_span.to(device), batch.no_span.to(device)) if read else None
    changes = edits(batch, positions) if edits else {}
    context = instrumented(model.hf, spans=spans, first_query=first - start, edits=changes)
    with (
        context if (read or changes) else nullcontext(Recording()) as recording,
        unembed_only(model.hf, batch.last_pos - start),
    ):
        logits = model.hf(
            batch.tokens[:, start:].to(device),
            position_ids=batch.position_ids[:, start:].to(device),
            past_key_values=prefix.cache(len(rows)),
            use_cache=bool(start),
        ).logits
    return FusedBatch(rows, logits[:, 0].float().cpu(), recording.readings, torch.arange(first, positions.stop))


@contextmanager
def unembed_only(hf: Any, position: Int[Tensor, " batch"]) -> Iterator[None]:
    """Inside, the model unembeds one position of each row, so that its logits are [batch, 1, d_vocab].

    Whatever the model does to its logits afterwards (scaling, soft caps) it does to these.
    """

    def pick(module: Any, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        hidden = inputs[0]
        rows = torch.arange(len(hidden), device=hidden.device)
        return (hidden[rows, position.to(hidden.device)][:, None], *inputs[1:])

    handle = hf.get_output_embeddings().register_forward_pre_hook(pick)
    try:
        yield
    finally:
        handle.remove()


def batch_size_for(model: Model, length: int, prefix: int = 0) -> int:
    """How many prompts of this many tokens (behind a cached prefix) fit a batch, by a rough estimate of memory."""
    config, kind = model.config, model.device.type
    width = 8 * config.hidden_size + 4 * (getattr(config, "intermediate_size", None) or 4 * config.hidden_size)
    kept = 6 * model.n_layers * config.hidden_size * (prefix + length)
    bytes_each = model.dtype.itemsize * (width * length + kept) + 8 * config.vocab_size
    free = torch.cuda.mem_get_info(model.device)[0] if kind == "cuda" else psutil.virtual_memory().available
    return max(1, min(int(MEMORY_SHARE * free) // bytes_each, TOKENS_AT_ONCE.get(kind, 2048) // max(length, 1)))


def _out_of_memory(error: BaseException) -> bool:
    # The CPU allocator raises a plain RuntimeError that only its text tells apart.
    return isinstance(error, torch.OutOfMemoryError) or "not enough memory" in str(error)
