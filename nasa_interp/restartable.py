"""Prompts that are run to the tuned layers once, and from there on as often as tuning asks, with gradients.

What enters a layer doesn't depend on that layer's weights or on those above it. So a step of tuning, and its check on
the validation questions, pays only for the tuned layer and what lies above.
"""

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from .attention import CandidateAttention, Spans, instrumented
from .batches import in_batches, longest_first, model_batches, tokens_at_once
from .decisions import compare_answers
from .forward import Prefix, answer_logits, cache_prefix, shared_prefix_length
from .models import Model
from .prompts import PromptBatch
from .reference import check_plain
from .restart import residuals_entering, restart_at
from .scoring.formula import negative_attention_score


@dataclass(frozen=True, eq=False)
class Entering:
    """The residual stream that enters a layer: of the shared prefix, and of what follows it in each prompt."""

    prefix: Float[Tensor, "1 pos d_model"] | None
    rest: Float[Tensor, "prompt rest d_model"]


@dataclass(frozen=True, eq=False)
class Answers:
    """The decisions on all prompts, and what entered the layers that were run."""

    d: Float[np.ndarray, " prompt"]
    mass: Float[np.ndarray, " prompt"]
    entering: Mapping[int, Entering]


class RestartablePrompts:
    """Prompts of one candidate order that passes can restart in, at any of some layers.

    Args:
        model: as `intervenable` gives it.
        prompts: of one order.
        layers: where passes will begin.
    """

    def __init__(self, model: Model, prompts: PromptBatch, layers: Collection[int]):
        self.model, self.prompts, self.layers = model, prompts, sorted(set(layers))
        self.length = shared_prefix_length(prompts) if model.has_hf else 0
        self.prefix = Prefix(0)
        if self.length:
            # Passes that restart need keys and values in the layers below too: masks are sized by them.
            with torch.no_grad():
                self.prefix = cache_prefix(model.network, prompts.tokens[:1, : self.length].to(model.device))
        self.entering: dict[int, Entering] = {}

    def decide(self, layer: int = 0, reference: bool = False) -> Answers:
        """Decides on all prompts by passes that begin at this layer; layer 0 needs no pass before.

        With `reference` they are held to the plain model: for the first pass, from which all later ones go on.
        """
        above = [upper for upper in self.layers if upper >= layer]
        d, mass = torch.empty(len(self.prompts)), torch.empty(len(self.prompts))
        with torch.no_grad():
            prefix, of_prefix = self._prefix(layer, above)
            shape = (len(self.prompts), self.prompts.tokens.shape[1] - self.length, self.model.config.hidden_size)
            rest = {upper: torch.zeros(shape, dtype=self.model.dtype, device=self.model.device) for upper in above}

            def run(rows: list[int]) -> None:
                with residuals_entering(self.model.network, above) as residuals:
                    logits = self._answer(layer, rows, prefix)
                d[rows], mass[rows] = compare_answers(logits, self.prompts)
                for upper, hidden in residuals.items():
                    rest[upper][rows, : hidden.shape[1]] = hidden.to(self.model.device)

            for _ in in_batches(self._batches(), run):
                pass
        if reference:
            check_plain(self.model, self.prompts, d)
        entering = {upper: Entering(of_prefix.get(upper), rest[upper]) for upper in above}
        return Answers(d.double().numpy(), mass.double().numpy(), entering)

    def restart_from(self, answers: Answers) -> None:
        """Later passes restart from these answers."""
        self.entering |= answers.entering

    def answer(self, layer: int, rows: Sequence[int]) -> tuple[Float[Tensor, " row"], Float[Tensor, " row"]]:
        """d = logit(No) - logit(Yes) and ln(answer mass), in the graph of the weights as they are inserted."""
        logits = self._answer(layer, rows, self._prefix(layer, ())[0])
        variants = [*self.prompts.yes_variants, *self.prompts.no_variants]
        d = logits[:, self.prompts.no_token] - logits[:, self.prompts.yes_token]
        return d, logits[:, variants].logsumexp(-1) - logits.logsumexp(-1)

    def attention(
        self, layer: int, rows: Sequence[int], entering: Entering | None = None
    ) -> tuple[Float[Tensor, "row head"], Float[Tensor, "row head"]]:
        """NAS of the layer's heads, and their mean attention to both candidates together, in the graph.

        Nothing but this layer's attention runs; `entering` is what enters it, by default what passes restart from.
        """
        batch, device, hf = self.prompts.select(rows), self.model.device, self.model.network
        end, first = batch.tokens.shape[1], int(batch.first_query.min())
        entering = entering or self.entering[layer]
        hidden = entering.rest[list(rows), : end - self.length]
        if (prefix := entering.prefix) is not None:
            hidden = torch.cat([prefix.expand(len(hidden), -1, -1), hidden], 1)
        tokens = torch.where(batch.mask, batch.tokens, batch.tokens[:, :1]).to(device)
        spans = Spans(batch.yes_span.to(device), batch.no_span.to(device))
        only = range(layer, layer + 1)
        reading = instrumented(hf, spans=spans, first_query=first, layers=only, only_read=True)
        with restart_at(hf, layer, hidden), reading as recording:
            hf(tokens, position_ids=batch.position_ids.to(device), use_cache=False)
        return _nas_and_mass(recording.readings[layer], batch, torch.arange(first, end))

    def _prefix(self, layer: int, above: Collection[int]) -> tuple[Prefix, Mapping[int, Tensor]]:
        """The shared prefix under the weights as they are now, from this layer on."""
        if not self.length:
            return self.prefix, {}
        hf, running = self.model.network, range(layer, self.model.n_layers)
        tokens = self.prompts.tokens[:1, : self.length].to(self.model.device)
        with residuals_entering(hf, above) as residuals:
            if layer == 0:
                return cache_prefix(hf, tokens), residuals
            hidden = self.entering[layer].prefix
            assert hidden is not None
            with restart_at(hf, layer, hidden):
                return cache_prefix(hf, tokens, None, self.prefix, running), residuals

    def _answer(self, layer: int, rows: Sequence[int], prefix: Prefix) -> Float[Tensor, "row d_vocab"]:
        hf, batch = self.model.network, self.prompts.select(rows)
        if layer == 0:
            with instrumented(hf):
                return answer_logits(hf, batch, self.length, prefix.cache())
        hidden = self.entering[layer].rest[list(rows), : batch.tokens.shape[1] - self.length]
        with restart_at(hf, layer, hidden), instrumented(hf, layers=range(layer, self.model.n_layers)):
            return answer_logits(hf, batch, self.length, prefix.cache())

    def _batches(self) -> Iterator[list[int]]:
        rows = longest_first(self.prompts)
        lengths = (self.prompts.last_pos[rows] + 1 - self.length).tolist()
        # From fixed numbers, not from the memory that happens to be free: a run that goes on rounds as it began.
        return model_batches(self.model, rows, lengths, lambda n: tokens_at_once(self.model) // n or 1)


def _nas_and_mass(
    reading: CandidateAttention, batch: PromptBatch, queries: Tensor
) -> tuple[Float[Tensor, "row head"], Float[Tensor, "row head"]]:
    inside = (queries >= batch.first_query[:, None]) & (queries <= batch.last_pos[:, None])
    counted = (reading.visible & inside[:, None].to(reading.visible.device)).expand_as(reading.log_yes)
    nas = negative_attention_score(reading.log_yes, reading.log_no, counted)
    zero = reading.log_yes.new_zeros(())
    paid = torch.where(counted, reading.log_yes, zero).exp() + torch.where(counted, reading.log_no, zero).exp()
    return nas, torch.where(counted, paid, zero).sum(-1) / counted.sum(-1)
