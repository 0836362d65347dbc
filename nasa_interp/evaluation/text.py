"""How well a model predicts plain English, before a change and after it."""

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import resources
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from ..bootstrap import DRAWS
from ..errors import ModelError, PromptError, ResultError
from ..models import Model, as_model
from ..run import RunInfo
from ..torch_defaults import under_torch_defaults
from .likelihood import Row, check_context, describe_reading, leading_tokens, read_rows
from .text_change import TextChange, kl_divergence

PARTS = ("all", "val", "test", "probe")

# A larger reference is refused: sample it at fewer positions.
REFERENCE_BYTES = 2**31
# Called with a passage, indices into its sampled positions, and the log-probabilities there.
AtSample = Callable[[int, list[int], Float[Tensor, "sample d_vocab"]], None]


def plain_text(part: str = "all") -> list[str]:
    """The built-in passages of plain English: 32 of about 135 words, each in a different genre.

    Args:
        part: "val", every third of 24 passages, is for deciding when tuning stops; "test", the rest, for its final
            cost; "all" holds both. "probe", 8 others, is for tuning: what the model predicts there is kept.

    Raises:
        PromptError: for another part.

    Source: ours, written for this.
    """
    if part not in PARTS:
        raise PromptError(f"plain text has no part {part!r}; take one of {', '.join(PARTS)}")
    name = "plain_text_probe.txt" if part == "probe" else "plain_text.txt"
    text = (resources.files("nasa_interp.evaluation") / "data" / name).read_text(encoding="utf-8")
    passages = text.strip().split("\n\n")
    if part == "probe":
        return passages
    return [passage for index, passage in enumerate(passages) if part == "all" or (index % 3 == 0) == (part == "val")]


@under_torch_defaults
def perplexity(
    model: Any, texts: Sequence[str] | None = None, *, batch_size: int | None = None, progress: bool = True
) -> float:
    """exp of the mean negative log-likelihood over all predicted tokens of all texts.

    Args:
        model: a Model, or what `load_model` accepts besides names.
        texts: each read on its own, after a BOS token where the tokenizer adds one by itself; the first token is
            given, not predicted. None takes `plain_text("test")`.
        batch_size: texts in a forward pass; changes only time and memory.
        progress: show a bar.

    Raises:
        PromptError: where a text is too short or too long, or there is none.
        ModelError: where the model's logits are no numbers.

    Source: the usual definition; reading each text on its own, without a sliding window, is ours.
    """
    model = as_model(model)
    rows = _tokenize(model, plain_text("test") if texts is None else texts)
    losses = torch.cat(_losses(model, rows, batch_size, progress, "perplexity"))
    return math.exp(float(losses.double().mean()))


@dataclass(frozen=True, repr=False)
class TextReference:
    """What a model expects on plain text before it is changed; made by `TextReference.of`.

    Args:
        texts, rows: the passages and their tokens.
        losses: negative log-likelihood of each predicted token, in nats.
        log_probs: of all tokens at the sampled positions, fp32 (4 bytes x sampled positions x vocabulary).
        every: the first of every so many predictions of a passage is sampled.
        batch_size: as given; `compare` uses the same batches, so that only a change makes a difference.
        run: where it came from.
    """

    texts: tuple[str, ...]
    rows: tuple[tuple[int, ...], ...]
    losses: tuple[Float[Tensor, "_"], ...]
    log_probs: tuple[Float[Tensor, "_ d_vocab"], ...]
    every: int
    batch_size: int | None
    run: RunInfo

    @classmethod
    @under_torch_defaults
    def of(
        cls,
        model: Any,
        texts: Sequence[str] | None = None,
        *,
        every: int = 8,
        batch_size: int | None = None,
        progress: bool = True,
    ) -> "TextReference":
        """Reads the passages with the model as it is now.

        Args:
            model: a Model, or what `load_model` accepts besides names.
            texts: None takes `plain_text("test")`; a loop that decides by it must take `plain_text("val")`.
            every: sample the full distribution at one of this many positions.
            batch_size: passages in a forward pass; changes only time and memory.
            progress: show a bar.

        Raises:
            PromptError: where a text is too short or too long, or there is none.
            ModelError: where the model's logits are no numbers.
            ResultError: where the sampled distributions would take too much memory.
        """
        model, start = as_model(model), time.perf_counter()
        texts = tuple(plain_text("test") if texts is None else texts)
        rows = _tokenize(model, texts)
        log_probs = _room(rows, every, model.config.vocab_size)

        def keep(text: int, samples: list[int], values: Tensor) -> None:
            log_probs[text][samples] = values

        losses = tuple(_losses(model, rows, batch_size, progress, "reference", keep, every))
        run = describe_reading(model, _name(texts), len(texts), start)
        return cls(texts, rows, losses, log_probs, every, batch_size, run)

    @under_torch_defaults
    def compare(self, model: Any, *, seed: int = 0, draws: int = DRAWS, progress: bool = True) -> TextChange:
        """Reads the same passages with a changed model.

        Args:
            model: the model after the change, with the same tokenizer.
            seed, draws: of the bootstrap over passages.
            progress: show a bar.

        Returns:
            What the change cost. The same model has a ratio of exactly 1 and a KL of exactly 0.

        Raises:
            ResultError: where the model has other tokens.
        """
        model, start = as_model(model), time.perf_counter()
        if _tokenize(model, self.texts) != self.rows or model.config.vocab_size != self.log_probs[0].shape[1]:
            raise ResultError(
                f"{model.name} has other tokens than {self.run.model}; compare a model with its own changed self"
            )
        divergence = [torch.zeros(len(sampled), dtype=torch.float64) for sampled in self.log_probs]

        def measure(text: int, samples: list[int], values: Tensor) -> None:
            divergence[text][samples] = kl_divergence(self.log_probs[text][samples], values)

        losses = _losses(model, self.rows, self.batch_size, progress, "comparing", measure, self.every)
        return TextChange(
            tokens=np.array([len(passage) for passage in losses]),
            loss_before=np.array([passage.double().mean().item() for passage in self.losses]),
            loss_after=np.array([passage.double().mean().item() for passage in losses]),
            sampled=np.array([len(passage) for passage in divergence]),
            divergence=np.array([passage.mean().item() for passage in divergence]),
            base=self.run,
            run=describe_reading(model, self.run.data, len(self.texts), start, seed, draws),
        )

    def ratio(self, model: Model) -> float:
        """The perplexity of a changed model as a multiple of the reference's, for loops that need nothing else."""
        losses = _losses(model, self.rows, self.batch_size, False, "comparing")
        before, after = (torch.cat(list(side)).double().mean() for side in (self.losses, losses))
        return float((after - before).exp())

    def __repr__(self) -> str:
        losses = torch.cat(self.losses).double()
        size = sum(passage.nbytes for passage in self.log_probs) / 2**20
        return (
            f"TextReference({self.run.model}, {self.run.data}, {len(self.texts)} passages, {len(losses)} tokens: "
            f"perplexity {losses.mean().exp():.2f}; {sum(map(len, self.log_probs))} distributions, {size:.0f} MB)"
        )


def _name(texts: Sequence[str]) -> str:
    """The name of the built-in part, or that the texts are the user's own."""
    part = next((part for part in PARTS if list(texts) == plain_text(part)), None)
    return f"builtin:plain_text#{part}" if part else "own texts"


def _tokenize(model: Model, texts: Sequence[str]) -> tuple[tuple[int, ...], ...]:
    if isinstance(texts, str) or not texts:
        raise PromptError(f"{texts!r} is not a list of texts; give one or more, or None for the built-in ones")
    lead = leading_tokens(model.tokenizer)
    rows = [(*lead, *row) for row in model.tokenizer(list(texts), add_special_tokens=False)["input_ids"]]
    for index, row in enumerate(rows):
        if len(row) < 2:
            raise PromptError(f"text {index} ({texts[index]!r}) has nothing to predict; leave it out")
        check_context(model, row, f"text {index}")
    return tuple(rows)


def _room(rows: Sequence[tuple[int, ...]], every: int, vocabulary: int) -> tuple[Float[Tensor, "_ d_vocab"], ...]:
    if every < 1:
        raise ResultError(f"every {every} positions can't be sampled; give 1 or more")
    counts = [len(range(0, len(row) - 1, every)) for row in rows]
    if (size := 4 * vocabulary * sum(counts)) > REFERENCE_BYTES:
        raise ResultError(
            f"the distributions at {sum(counts)} positions would take {size / 2**30:.1f} GB; "
            f"sample fewer by a larger every, or give fewer texts"
        )
    return tuple(torch.empty(count, vocabulary) for count in counts)


def _losses(
    model: Model,
    rows: Sequence[tuple[int, ...]],
    batch_size: int | None,
    progress: bool,
    title: str,
    at_sample: AtSample | None = None,
    every: int = 1,
) -> list[Float[Tensor, "_"]]:
    """Negative log-likelihood of each row's tokens after the first; passes the sampled distributions to `at_sample`."""
    losses = [torch.empty(len(row) - 1) for row in rows]
    token_rows = [Row(row[:-1], 0) for row in rows]
    for index, first, log_probs in read_rows(model, token_rows, batch_size=batch_size, progress=progress, title=title):
        end = first + len(log_probs)
        targets = torch.tensor(rows[index][first + 1 : end + 1], device=log_probs.device)
        losses[index][first:end] = -log_probs.gather(1, targets[:, None])[:, 0].cpu()
        sampled = [pos for pos in range(first, end) if pos % every == 0]
        if at_sample and sampled:
            sampled_log_probs = log_probs[[pos - first for pos in sampled]].cpu()
            at_sample(index, [pos // every for pos in sampled], sampled_log_probs)
    for index, values in enumerate(losses):
        if not bool(values.isfinite().all()):
            raise ModelError(
                f"text {index}: the likelihoods are no finite numbers in {model.dtype}; load the model in float32"
            )
    return losses
