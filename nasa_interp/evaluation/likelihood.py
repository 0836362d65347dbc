"""Log-probabilities of the next token under the plain model, at chosen positions of rows of tokens."""

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor
from tqdm.auto import tqdm

from ..batches import a_batch_costs, in_batches, split_batches, tokens_at_once
from ..errors import ModelError, PromptError
from ..models import Model
from ..models.model import device_of
from ..models.positions import check_positions
from ..models.ready import check_ready
from ..run import RunInfo

# The most bytes for the logits of a batch; with large vocabularies they fill the memory.
LOGIT_BYTES = 2**28


class Row(NamedTuple):
    """Tokens to read, and the first position whose next token matters; so do all later ones."""

    tokens: tuple[int, ...]
    start: int


class Reading(NamedTuple):
    """What the model expects after some positions of a row.

    Args:
        row: which row.
        first: the first of the positions.
        log_probs: of every next token, fp32 on the model's device.
    """

    row: int
    first: int
    log_probs: Float[Tensor, "pos d_vocab"]


def read_rows(
    model: Model,
    rows: Sequence[Row],
    *,
    batch_size: int | None = None,
    progress: bool = False,
    title: str = "reading",
) -> Iterator[Reading]:
    """Runs rows through the plain model and yields the log-probabilities of the next token.

    Args:
        model: any.
        rows: the tokens to read, and the first position that matters.
        batch_size: rows in a forward pass; by default computed from the lengths and the vocabulary.
        progress, title: show a bar over rows.

    Returns:
        Readings in no particular order, one per row; several for a row whose logits would be too large.

    Raises:
        ModelError: where one row alone doesn't fit into memory.
    """
    hf = model.network
    most = max(1, LOGIT_BYTES // (4 * model.config.vocab_size))
    parts = [part for row in range(len(rows)) for part in _parts(rows[row], row, most)]
    # Rows of similar length need few pads; the longest come first, so that memory peaks at the start.
    parts.sort(key=lambda part: len(part[1].tokens), reverse=True)
    lengths = [len(part.tokens) for _, part in parts]
    most_positions = max(len(part.tokens) - part.start for _, part in parts)
    at_once = tokens_at_once(model)

    def size_for(length: int) -> int:
        # From fixed numbers, not from free memory, so that two runs round alike.
        return batch_size or max(1, min(at_once // length, most // min(most_positions, length)))

    def run(indices: list[int]) -> tuple[list[int], Sequence[Tensor]]:
        return indices, _logits(hf, [parts[index][1] for index in indices])

    with tqdm(total=len(parts), desc=title, unit="row", disable=not progress) as bar:
        batches = split_batches(range(len(parts)), lengths, size_for, a_batch_costs(model))
        for indices, logits in in_batches(batches, run):
            for index, row_logits in zip(indices, logits, strict=True):
                row, part = parts[index]
                yield Reading(row, part.start, row_logits.float().log_softmax(-1))
            bar.update(len(indices))


def _parts(row: Row, index: int, most: int) -> list[tuple[int, Row]]:
    """The row as it is, or cut into parts whose logits fit: no position depends on later ones."""
    starts = range(row.start, len(row.tokens), most)
    return [(index, Row(row.tokens[: start + most], start)) for start in starts]


@torch.no_grad()
def _logits(hf: Any, rows: Sequence[Row]) -> Sequence[Float[Tensor, "pos d_vocab"]]:
    """One pass over padded rows; for each row the logits at its positions."""
    longest = max(len(row.tokens) for row in rows)
    check_ready(hf)
    check_positions(hf.config.get_text_config(), [len(row.tokens) for row in rows])
    # After the last real token no mask is needed; without pad tokens transformers doesn't ask for one either.
    tokens = torch.tensor([[*row.tokens, *row.tokens[:1] * (longest - len(row.tokens))] for row in rows])
    counts = [len(row.tokens) - row.start for row in rows]
    batch = torch.arange(len(rows)).repeat_interleave(torch.tensor(counts))
    pos = torch.cat([torch.arange(row.start, len(row.tokens)) for row in rows])
    with unembed_at(hf, batch, pos):
        logits = hf(tokens.to(device_of(hf)), use_cache=False).logits
    if logits.shape[:2] != (1, len(pos)):
        raise ModelError(
            f"{type(hf).__name__} gave logits of shape {tuple(logits.shape)} for {len(pos)} positions: "
            f"it doesn't unembed through its output embeddings; its texts can't be read, measure it by decide alone"
        )
    return logits[0].split(counts)


@contextmanager
def unembed_at(hf: Any, batch: Int[Tensor, " at"], pos: Int[Tensor, " at"]) -> Iterator[None]:
    """Inside, the model unembeds these positions of these rows, so that its logits are [1, at, d_vocab].

    Whatever the model does to its logits afterwards (scaling, soft caps) applies to these too.
    """

    def pick(module: Any, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        hidden = inputs[0]
        return (hidden[batch.to(hidden.device), pos.to(hidden.device)][None], *inputs[1:])

    handle = hf.get_output_embeddings().register_forward_pre_hook(pick)
    try:
        yield
    finally:
        handle.remove()


def leading_tokens(tokenizer: Any) -> tuple[int, ...]:
    """The BOS token where the tokenizer adds one before a text, else nothing."""
    bos = getattr(tokenizer, "bos_token_id", None)
    if bos is None or tokenizer("a", add_special_tokens=True)["input_ids"][:1] != [bos]:
        return ()
    return (bos,)


def check_context(model: Model, tokens: Sequence[int], name: str) -> None:
    """Raises PromptError with the name of a text that is longer than the model's context."""
    limit = model.context_length
    if limit is not None and len(tokens) > limit:
        raise PromptError(
            f"{name} has {len(tokens)} tokens, more than the model's context of {limit}; shorten it or leave it out"
        )


def describe_reading(model: Model, data: str, n: int, start: float, seed: int = 0, draws: int = 0) -> RunInfo:
    """Details of a run over `n` texts or questions that began at `start` (time.perf_counter())."""
    return RunInfo(
        model=model.name,
        model_hash=model.weights_hash(),
        data=data,
        n_questions=n,
        orders=(),
        seed=seed,
        draws=draws,
        engine="plain",
        device=str(model.device),
        dtype=str(model.dtype).removeprefix("torch."),
        seconds=round(time.perf_counter() - start, 3),
    )
