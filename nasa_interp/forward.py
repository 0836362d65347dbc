"""The fused forward pass behind decisions, scores and interventions: shared prefix, sorted suffixes, one answer each.

All prompts of one candidate order begin with the same tokens. Those are run once and their keys and values cached;
what follows is sorted by length, padded on the right and run in batches against that cache. Only positions that end
some prompt are unembedded. None of this changes a result beyond rounding.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int
from torch import Tensor
from tqdm.auto import tqdm
from transformers import DynamicCache
from transformers.cache_utils import Cache, DynamicLayer

from .attention import CandidateAttention, Edit, Recording, Spans, instrumented
from .batches import batch_size_for, check_batch_size, in_batches, longest_first, model_batches
from .errors import FusedRefusedError, ModelError
from .models import Model
from .models.check import check_acting_hooks, trusted_hooks
from .models.model import device_of
from .models.positions import check_positions
from .models.ready import check_ready
from .prompts import PromptBatch
from .reference import PlainReference

EditsOf = Callable[[PromptBatch, range], Mapping[int, Sequence[Edit]]]

# Tokens from which a prompt alone in its batch is run whole, if its prefix is a small part of it: behind cached keys
# attention takes a mask of [query, key] and computes the half that it hides; whole, it needs neither (but in layers
# whose sliding window is shorter than the prompt).
WHOLE_FROM = 1024
WHOLE_ABOVE = 8


@dataclass(frozen=True)
class FusedBatch:
    """What one batch of prompts gave.

    Args:
        places: which prompts, in the order of the rows.
        logits: at each prompt's last position, fp32 on the CPU; of no width where none were asked for.
        readings: for each layer what the queries pay to the candidates; empty where nothing was to be read.
        queries: positions of those queries in the prompts.
    """

    places: list[int]
    logits: Float[Tensor, "batch d_vocab"]
    readings: dict[int, CandidateAttention]
    queries: Int[Tensor, " query"]


class PrefixLayer(DynamicLayer):
    """One layer's keys and values of a prefix, which those of a batch are put behind; it keeps none of them.

    So one cache serves all batches, a batch holds one layer's keys at a time, and the prefix is copied once. With
    several variants of the prefix, `variant` says which one each row of the batch has.
    """

    def __init__(self, keys: Tensor, values: Tensor, variant: Int[Tensor, " batch"] | None = None):
        super().__init__()
        self.lazy_initialization(keys, values)
        self.keys, self.values, self.variant = keys, values, variant

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        assert self.keys is not None
        assert self.values is not None
        return self._behind(self.keys, key_states), self._behind(self.values, value_states)

    def _behind(self, prefix: Tensor, new: Tensor) -> Tensor:
        length = prefix.shape[2]
        both = new.new_empty(*new.shape[:2], length + new.shape[2], new.shape[3])
        both[:, :, :length] = prefix if self.variant is None else prefix[self.variant]
        both[:, :, length:] = new
        return both


@dataclass(frozen=True)
class Prefix:
    """Tokens that all prompts begin with, and each layer's keys and values of them (one row, or one a variant).

    Every layer is cached at full length, sliding ones too, so that positions stay. `readings` are what its queries
    after the instruction pay to the candidates, where it reaches that far and was read.
    """

    length: int
    keys_values: Sequence[tuple[Tensor, Tensor]] = ()
    readings: Mapping[int, CandidateAttention] = field(default_factory=dict)

    def cache(self, variant: Int[Tensor, " batch"] | None = None) -> Cache | None:
        """What a batch runs behind; `variant` says whose prefix each row has, where there are several."""
        if not self.length:
            return None
        several = [variant if len(keys) > 1 else None for keys, _ in self.keys_values]
        return Cache(layers=[PrefixLayer(*pair, rows) for pair, rows in zip(self.keys_values, several, strict=True)])


@runtime_checkable
class SharesUpTo(Protocol):
    """Edits that need not be the same in all prompts, and say up to where they are."""

    def shares_up_to(self, prompts: PromptBatch) -> int:
        """Where the leading positions end at which these prompts, if their tokens agree there, are edited alike."""
        ...


def shared_prefix_length(prompts: PromptBatch, edits: Any = None) -> int:
    """How many leading tokens all prompts share, short of any prompt's end and of edits that set prompts apart.

    It may reach past the instruction ("Question:" begins every question): queries there are the same in all prompts
    and are read once for all. Where prompts differ in where their parts are, it stops before the first query.
    """
    if len(prompts) < 2:
        return 0
    same = (prompts.tokens == prompts.tokens[:1]).all(0) & prompts.mask.all(0)
    shared = min(int(same.long().cumprod(0).sum()), int(prompts.last_pos.min()))
    if isinstance(edits, SharesUpTo):
        shared = min(shared, edits.shares_up_to(prompts))
    parts = torch.cat([prompts.yes_span, prompts.no_span, prompts.first_query[:, None]], 1)
    alike = bool((parts == parts[:1]).all())
    return shared if alike else min(shared, int(prompts.first_query.min()))


@torch.no_grad()
def run_fused(
    model: Model,
    prompts: PromptBatch,
    *,
    read: bool = False,
    logits: bool = True,
    edits: EditsOf | None = None,
    batch_size: int | None = None,
    share_prefix: bool = True,
    reference: bool = False,
    bar: str | None = None,
) -> Iterator[FusedBatch]:
    """Runs all prompts through the model, with fused attention, or through its hooks where it has no plain view.

    Args:
        model: any.
        prompts: what `build_prompts` made.
        read: read the attention that every layer pays to the candidates.
        logits: False, where only the readings are wanted, ends each pass with the last layer's attention.
        edits: what to change on the way: called with the prompts of a batch and the positions that are being run,
            returns the edits of each layer. It is called for the shared prefix too, with the first prompt alone: what
            it does there, it does to all prompts. Edits that may differ from prompt to prompt say so by `SharesUpTo`,
            which shortens the prefix.
        batch_size: prompts in a batch; None takes it from a memory estimate. Out of memory, a batch is halved.
        share_prefix: False runs every prompt whole.
        reference: hold the shortest and the longest prompt's answer to the plain model's (`reference.py`); they come
            first then. For the model as it is, without edits.
        bar: the title of a bar over prompts; None shows none.

    Returns:
        Batches in no particular order; `places` says which prompts they hold.

    Raises:
        FusedRefusedError: where fused attention isn't exact for the model or on these prompts.
        ModelError: one prompt alone doesn't fit into memory; a model in training mode.
    """
    check_positions(model.config, (prompts.last_pos + 1).tolist())
    if batch_size is not None:
        check_batch_size(batch_size)
    # What reads attention stays exact: near its end a softmax in bfloat16 has lost the difference of two scores.
    arithmetic = nullcontext if read else model.deciding
    with arithmetic():
        prefix = run_prefix(model, prompts, edits, read) if share_prefix else Prefix(0)
    places = longest_first(prompts)
    lengths = (prompts.last_pos[places] + 1 - prefix.length).tolist()
    batches = list(
        model_batches(model, places, lengths, lambda n: batch_size or batch_size_for(model, n, prefix.length))
    )
    plain = PlainReference(model, prompts, batches) if reference else None
    batches = plain.first(batches) if plain else batches

    def run(rows: list[int]) -> FusedBatch:
        sampled = plain is not None and plain.waits_for(rows)
        with arithmetic():
            return _run_batch(model, prompts, rows, _prefix_for(prompts, rows, prefix), read, logits or sampled, edits)

    with tqdm(total=len(prompts), desc=bar, unit="prompt", disable=bar is None) as shown:
        for batch in in_batches(batches, run):
            if plain and plain.waits_for(batch.places):
                plain.compare(batch.places, batch.logits[:, prompts.no_token] - batch.logits[:, prompts.yes_token])
            yield batch
            shown.update(len(batch.places))


def _prefix_for(prompts: PromptBatch, rows: list[int], prefix: Prefix) -> Prefix:
    """What these prompts run behind: the prefix, or nothing where one long prompt is cheaper whole."""
    length = int(prompts.last_pos[rows[0]]) + 1
    whole = len(rows) == 1 and length >= max(WHOLE_FROM, WHOLE_ABOVE * prefix.length)
    return Prefix(0) if whole else prefix


@torch.no_grad()
def run_prefix(model: Model, prompts: PromptBatch, edits: EditsOf | None = None, read: bool = False) -> Prefix:
    """The prompts' shared prefix, run once and read where it has queries; recomputed under edits that act on it."""
    length = shared_prefix_length(prompts, edits) if model.has_hf else 0
    if not length:
        return Prefix(0)
    first = prompts.select([0])
    changes = edits(first, range(length)) if edits else {}
    query = int(prompts.first_query.min())
    reads = read and query < length
    spans = Spans(first.yes_span.to(model.device), first.no_span.to(model.device)) if reads else None
    return cache_prefix(
        model.network, first.tokens[:, :length].to(model.device), changes, spans=spans, first_query=query
    )


def cache_prefix(
    hf: Any,
    tokens: Int[Tensor, "batch pos"],
    edits: Mapping[int, Sequence[Edit]] | None = None,
    below: Prefix | None = None,
    layers: range | None = None,
    spans: Spans | None = None,
    first_query: int = 0,
) -> Prefix:
    """Runs tokens up to the last layer's attention and keeps their keys and values.

    Where the pass restarts at a layer, `layers` are those that run, and those that it skips take theirs from `below`.
    """
    cache = DynamicCache()
    query = first_query if spans else 0
    with instrumented(hf, spans=spans, first_query=query, edits=edits, layers=layers, only_read=True) as recording:
        hf(tokens, past_key_values=cache, use_cache=True, logits_to_keep=1)
    new = [(keys, values) for keys, values, _ in cache if keys is not None and values is not None]
    skipped = below.keys_values[: layers.start] if below and layers else ()
    return Prefix(tokens.shape[1], [*skipped, *new], recording.readings)


def _run_batch(
    model: Model,
    prompts: PromptBatch,
    rows: list[int],
    prefix: Prefix,
    read: bool,
    logits: bool,
    edits: EditsOf | None,
) -> FusedBatch:
    batch, start, device = prompts.select(rows), prefix.length, model.device
    positions = range(start, batch.tokens.shape[1])
    first = max(start, int(batch.first_query.min())) if read else start
    spans = Spans(batch.yes_span.to(device), batch.no_span.to(device)) if read else None
    changes = edits(batch, positions) if edits else {}
    hf, answers = model.network, torch.empty(len(rows), 0)
    context = instrumented(hf, spans=spans, first_query=first - start, edits=changes, only_read=not logits)
    with context if (read or changes) else nullcontext(Recording()) as recording:
        answers = answer_logits(hf, batch, start, prefix.cache())
    readings, earlier = recording.readings, 0
    if read and prefix.readings:
        readings = {layer: _joined(prefix.readings[layer], reading) for layer, reading in readings.items()}
        earlier = next(iter(prefix.readings.values())).log_yes.shape[-1]
    return FusedBatch(rows, answers, readings, torch.arange(first - earlier, positions.stop))


def _joined(prefix: CandidateAttention, rest: CandidateAttention) -> CandidateAttention:
    """What the prefix's queries pay, the same in every prompt, and then what each prompt's own queries pay."""
    batch, heads, _ = rest.log_yes.shape

    def join(one: Tensor, other: Tensor) -> Tensor:
        return torch.cat([one.expand(batch, heads, -1), other.expand(batch, heads, -1)], -1)

    names = ("log_yes", "log_no", "visible")
    return replace(rest, **{name: join(getattr(prefix, name), getattr(rest, name)) for name in names})


def answer_logits(hf: Any, batch: PromptBatch, start: int, cache: Cache | None) -> Float[Tensor, "batch d_vocab"]:
    """One pass over the positions from `start` on; the logits at each prompt's last position, fp32 on the CPU."""
    check_ready(hf)
    check_positions(hf.config.get_text_config(), (batch.last_pos + 1).tolist(), cached=start)
    # No mask is needed behind the last real token; without pad tokens transformers doesn't advise one either.
    tokens, device = torch.where(batch.mask, batch.tokens, batch.tokens[:, :1]), device_of(hf)
    with unembed_only(hf, batch.last_pos - start):
        logits = hf(
            tokens[:, start:].to(device),
            position_ids=batch.position_ids[:, start:].to(device),
            past_key_values=cache,
            use_cache=cache is not None,
        ).logits
    return logits[:, 0].float().cpu()


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


def fused_refusal(model: Model, prompts: PromptBatch) -> str | None:
    """Why fused attention isn't exact for this model on these prompts, or None; found out by running two of them.

    Asked anew every time: a model's hooks, adapters and settings can change, and other prompts may be taken or refused.

    Raises:
        ModelError: where the trial fails for another reason, such as a model in training mode.
    """
    if (reason := model.why_hooked) is not None:
        return reason
    try:
        check_positions(model.config, (prompts.last_pos + 1).tolist())
        for _ in run_fused(model, prompts.select(range(min(2, len(prompts)))), read=True):
            pass
    except FusedRefusedError as refusal:
        return str(refusal)
    return None


def intervenable(model: Model, prompts: PromptBatch) -> Model:
    """The model as interventions, estimates and tuning run on it: with fused attention, or else through its hooks.

    Raises:
        ModelError: where fused attention isn't exact for it and its hooks can't be trusted either.
    """
    # No engine takes prompts whose positions depend on their batch.
    check_positions(model.config, (prompts.last_pos + 1).tolist())
    refusal = fused_refusal(model, prompts)
    if refusal is None:
        return model
    hooked = model if model.why_hooked else model.through_hooks(f"the fused engine refuses it ({refusal})")
    try:
        tokens = prompts.tokens[0, : int(prompts.last_pos[0]) + 1]
        # Of the model as it was handed over: hooks on a plain one don't act in its bridge, and are found here.
        trusted_hooks(model, tokens)
        check_acting_hooks(hooked, tokens)
    except ModelError as error:
        raise ModelError(
            f"interventions run on the fused engine, which refuses {model.name}: {refusal}; nor do they run through "
            f"hooks: {error}"
        ) from error
    return hooked
