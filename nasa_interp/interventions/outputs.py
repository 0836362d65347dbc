"""What heads put out in a run, kept to be put into others; and which part of its prompt a position belongs to."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import psutil
import torch
from jaxtyping import Float, Int
from torch import Tensor
from tqdm.auto import tqdm

from ..attention import instrumented
from ..batches import batch_size_for, in_batches, longest_first, model_batches
from ..errors import HeadError, ModelError, PromptError
from ..forward import answer_logits
from ..heads import Head, HeadList
from ..models import Model, as_model
from ..prompts import Order, PromptBatch
from ..reference import PlainReference
from ..torch_defaults import under_torch_defaults

POSITION_CLASSES = ("template", "instruction", "candidate", "question", "last")
PAD = len(POSITION_CLASSES)
# Share of the free memory that kept outputs may take.
KEPT_SHARE = 0.5


def position_classes(batch: PromptBatch) -> Int[Tensor, "batch pos"]:
    """The part of its prompt that each position belongs to, as a place in `POSITION_CLASSES`; pads are `PAD`.

    Args:
        batch: what `build_prompts` made.

    Returns:
        0 template: before the instruction, and behind the question but for the last position; 1 instruction without
        the candidates; 2 both candidates' tokens; 3 the question with its line ("Question: ..."); 4 the last position,
        which predicts the answer.

    Source: ours.
    """

    def between(start: Int[Tensor, " batch"], end: Int[Tensor, " batch"]) -> Tensor:
        return (batch.position_ids >= start[:, None]) & (batch.position_ids < end[:, None])

    classes = torch.zeros_like(batch.tokens)
    classes[between(batch.instruction_start, batch.first_query)] = 1
    for span in (batch.yes_span, batch.no_span):
        classes[between(span[:, 0], span[:, 1])] = 2
    classes[between(batch.first_query, batch.question_end)] = 3
    classes[between(batch.last_pos, batch.last_pos + 1)] = 4
    return classes.masked_fill(~batch.mask, PAD)


@dataclass(frozen=True, eq=False, repr=False)
class HeadOutputs:
    """What heads put out at every position of some prompts, and the prompts that they can be put into.

    Args:
        prompts: those that ran.
        heads: for each layer, the heads in the order of its values.
        values: for each layer, the outputs before the output projection, on the CPU; whatever behind a prompt's end.
        ids, order: question ids and candidate order of the prompts that they are put into, in the order of the rows.
    """

    prompts: PromptBatch
    heads: Mapping[int, tuple[int, ...]]
    values: Mapping[int, Float[Tensor, "prompt pos n_heads d_value"]]
    ids: tuple[str, ...]
    order: Order

    @property
    def shared(self) -> int:
        """How many leading tokens all prompts that ran share: there all put out the same."""
        same = (self.prompts.tokens == self.prompts.tokens[:1]).all(0) & self.prompts.mask.all(0)
        return int(same.long().cumprod(0).sum())

    def rows(self, batch: PromptBatch) -> Int[Tensor, " batch"]:
        """The row that each prompt of a batch takes its outputs from, found by order and question id.

        Raises:
            PromptError: for a prompt in the other candidate order, or one of a question that isn't among `ids`.
        """
        if batch.order != self.order:
            raise PromptError(
                f"these outputs go into prompts in the order {self.order!r}, not {batch.order!r}; record them again"
            )
        places = {question: row for row, question in enumerate(self.ids)}
        if unknown := [q.id for q in batch.questions if q.id not in places]:
            raise PromptError(f"no outputs were recorded for question {unknown[0]!r}; record those of all that run")
        return torch.tensor([places[q.id] for q in batch.questions])

    def at(
        self, layer: int, heads: Sequence[int], rows: Int[Tensor, " batch"], places: Int[Tensor, "batch query"]
    ) -> Float[Tensor, "batch query n_heads d_value"]:
        """The outputs of these heads at these places of these rows; places outside a row give that row's nearest.

        Raises:
            HeadError: for a head that was not recorded.
        """
        kept = self.heads.get(layer, ())
        if missing := [Head(layer, head) for head in heads if head not in kept]:
            raise HeadError(f"the outputs of head {missing[0]} were not recorded; name it when recording")
        values = self.values[layer]
        some = values[:, :, [kept.index(head) for head in heads]] if tuple(heads) != kept else values
        return some[rows[:, None], places.clamp(0, values.shape[1] - 1)]

    def __repr__(self) -> str:
        count = sum(map(len, self.heads.values()))
        return f"HeadOutputs({count} heads on {len(self.prompts)} prompts)"


@under_torch_defaults
def record_outputs(
    model: Any,
    prompts: PromptBatch,
    heads: HeadList | Iterable[Any] | None = None,
    *,
    into: PromptBatch | None = None,
    batch_size: int | None = None,
    progress: bool = False,
) -> HeadOutputs:
    """Runs prompts and keeps what heads put out at every position.

    Args:
        model: a Model, or what `load_model` accepts besides names.
        prompts: what `build_prompts` made.
        heads: heads, pairs or names; None takes all.
        into: the prompts that the outputs will be put into, row by row; those that run by default.
        batch_size, progress: as for `run_fused`.

    Raises:
        HeadError: a head outside the model.
        PromptError: where `into` has another number of prompts.
        ModelError: where fused attention isn't exact for the model, or the outputs would take most of the memory.

    Source: ours.
    """
    model = as_model(model)
    layers, target = heads_by_layer(model, heads), into or prompts
    if len(target) != len(prompts):
        raise PromptError(f"outputs of {len(prompts)} prompts don't go into {len(target)}; give one for each")
    needed = output_bytes(model, prompts, layers)
    if needed > KEPT_SHARE * psutil.virtual_memory().available:
        raise ModelError(
            f"the outputs of {sum(map(len, layers.values()))} heads on {len(prompts)} prompts take "
            f"{needed / 1e9:.1f} GB, too much for the free memory; name fewer heads or prompts"
        )
    values: dict[int, Tensor] = {}
    for rows, outputs in run_outputs(model, prompts, layers, batch_size, progress):
        for layer, found in outputs.items():
            kept = found[:, :, list(layers[layer])].cpu()
            if layer not in values:
                values[layer] = kept.new_zeros(*prompts.tokens.shape, *kept.shape[2:])
            values[layer][rows, : kept.shape[1]] = kept
    return HeadOutputs(prompts, layers, values, tuple(q.id for q in target.questions), target.order)


def run_outputs(
    model: Model, prompts: PromptBatch, layers: Iterable[int], batch_size: int | None = None, progress: bool = False
) -> Iterator[tuple[list[int], dict[int, Float[Tensor, "batch pos head d_value"]]]]:
    """Runs prompts whole, in batches: which of them, and what all heads of these layers put out."""
    wanted = sorted(layers)
    if not wanted:
        return
    places = longest_first(prompts)
    lengths = (prompts.last_pos[places] + 1).tolist()
    batches = model_batches(model, places, lengths, lambda length: batch_size or batch_size_for(model, length))

    all_batches = list(batches)
    plain = PlainReference(model, prompts, all_batches)
    ordered = plain.first(all_batches)

    def run(rows: list[int]) -> tuple[list[int], dict[int, Tensor], Tensor | None]:
        # A pass with a sampled prompt in it goes on to the answer, which tells whether what is recorded is the model's.
        sampled, answers = plain.waits_for(rows), None
        running = None if sampled else range(wanted[-1] + 1)
        with (
            torch.no_grad(),
            instrumented(model.network, outputs_of=wanted, layers=running, only_read=not sampled) as recording,
        ):
            answers = answer_logits(model.network, prompts.select(rows), 0, None)
        return rows, recording.outputs, answers

    with tqdm(total=len(prompts), desc="recording outputs", unit="prompt", disable=not progress) as bar:
        for rows, outputs, answers in in_batches(ordered, run):
            if answers is not None:
                plain.compare(rows, answers[:, prompts.no_token] - answers[:, prompts.yes_token])
            yield rows, outputs
            bar.update(len(rows))


def heads_by_layer(model: Model, heads: HeadList | Iterable[Any] | None) -> dict[int, tuple[int, ...]]:
    """The chosen heads (None: all) of each layer; raises HeadError for one outside the model."""
    layers: dict[int, tuple[int, ...]] = {}
    for head in sorted(chosen_heads(model, heads)):
        layers[head.layer] = (*layers.get(head.layer, ()), head.index)
    return layers


def chosen_heads(model: Model, heads: HeadList | Iterable[Any] | None) -> HeadList:
    """The chosen heads, or all of the model; raises HeadError for one outside it."""
    every = [Head(layer, index) for layer in range(model.n_layers) for index in range(model.n_heads)]
    return HeadList.of(every if heads is None else heads).check(model.n_layers, model.n_heads)


def output_bytes(model: Model, prompts: PromptBatch, layers: Mapping[int, tuple[int, ...]]) -> int:
    """About how many bytes the outputs of these heads on these prompts take."""
    width = getattr(model.config, "head_dim", None) or model.config.hidden_size // model.n_heads
    return prompts.tokens.numel() * sum(map(len, layers.values())) * width * model.dtype.itemsize
