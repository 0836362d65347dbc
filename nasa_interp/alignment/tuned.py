"""What steps of tuning change: tensors of their own beside the model, which computes with them when asked."""

import math
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from ..models import Model
from ..models.hooked import HookedNetwork
from ..models.slice_values import read_slices, write_slices
from ..models.slices import WeightSlice


class Tuned:
    """Tensors that steps change and checkpoints hold; each kind has its own way to put them into the model."""

    values: list[Tensor]

    def sizes(self) -> list[float]:
        """What a learning rate of 1 means for each of them; 1 where the rate is absolute."""
        return [1.0] * len(self.values)

    @contextmanager
    def inserted(self) -> Iterator[None]:
        """Inside, the model computes with these tensors in its graph."""
        yield

    def state(self) -> tuple[Tensor, ...]:
        """A copy of the tensors."""
        return tuple(value.detach().clone() for value in self.values)

    @torch.no_grad()
    def load(self, state: Sequence[Tensor]) -> None:
        """Takes back what `state` gave."""
        for value, old in zip(self.values, state, strict=True):
            value.copy_(old)


class RunningMean:
    """The mean of what is tuned over the steps so far, in which a step weighs `keep` times what the next one does.

    Steps swing past balance and back before they settle, and their mean lies nearer to it at no cost (as in Polyak's
    averaging): it is what checkpoints look at and keep, while steps go on from where they are.

    Args:
        tuned: what steps change.
        keep: at least 0, under 1; 0 takes the last step alone.
    """

    def __init__(self, tuned: Tuned, keep: float):
        self.tuned, self.keep = tuned, keep
        self.sums: list[Tensor] = []
        self.weight = 0.0

    @torch.no_grad()
    def over(self, losses: Iterable[float]) -> Iterator[float]:
        """The same losses; each step is taken into the mean."""
        for loss in losses:
            values = [value.detach() for value in self.tuned.values]
            sums = self.sums or [torch.zeros_like(value) for value in values]
            self.sums = [total * self.keep + value for total, value in zip(sums, values, strict=True)]
            self.weight = self.weight * self.keep + 1
            yield loss

    @contextmanager
    def instead(self) -> Iterator[None]:
        """Inside, the tensors are the mean; afterwards they are what steps left."""
        left = self.tuned.state()
        try:
            if self.weight:
                self.tuned.load([total / self.weight for total in self.sums])
            yield
        finally:
            self.tuned.load(left)


class TunedSlices(Tuned):
    """Slices of a model's weights as fp32 tensors that can be trained; the model stays as it is until `write`.

    Being tensors of their own, nothing else can move: no weight decay, no optimizer state of masked entries.

    Args:
        model: any.
        slices: what may change.
    """

    def __init__(self, model: Model, slices: Sequence[WeightSlice]):
        self.model, self.slices = model, tuple(slices)
        device = model.device
        self.values = [v.float().to(device).requires_grad_() for v in read_slices(model, self.slices).values()]

    @torch.no_grad()
    def sizes(self) -> list[float]:
        """The root mean square of each slice; for one of zeros that of all together."""
        squares = [float(value.square().mean()) for value in self.values]
        return [math.sqrt(square or sum(squares) / len(squares) or 1.0) for square in squares]

    @contextmanager
    def inserted(self) -> Iterator[None]:
        """Inside, the model computes with these tensors in its graph; its own parameters take no gradients."""
        network, swapped = self.model.network, []
        trainable = [p for p in network.parameters() if p.requires_grad]
        try:
            for parameter in trainable:
                parameter.requires_grad_(False)
            for module, leaf, weight in self._homes(network):
                swapped.append((module, leaf, module._parameters[leaf]))
                # a tensor in a parameter's place: torch's own functional_call does the same for a whole call
                module._parameters[leaf] = weight  # type: ignore[assignment]
            yield
        finally:
            for module, leaf, parameter in swapped:
                module._parameters[leaf] = parameter
            for parameter in trainable:
                parameter.requires_grad_(True)

    def write(self) -> None:
        """Puts the tensors into the model's parameters, in place, in the model's dtype."""
        values = {s: value.detach().to(self.model.dtype) for s, value in zip(self.slices, self.values, strict=True)}
        write_slices(self.model, values)

    def _parameter(self, s: WeightSlice) -> Tensor:
        return self.model.weights.get_parameter(s.parameter).detach()

    def _homes(self, network: Any) -> list[tuple[nn.Module, str, Tensor]]:
        """The modules that compute with these weights, the name there, and the weight with the tensors in it."""
        weights = self._weights().items()
        if isinstance(network, HookedNetwork):
            return [home for name, weight in weights for home in network.homes(name, weight)]
        paths = [(*name.rpartition(".")[::2], weight) for name, weight in weights]
        return [(network.get_submodule(path), leaf, weight) for path, leaf, weight in paths]

    def _weights(self) -> dict[str, Tensor]:
        weights: dict[str, Tensor] = {}
        for s, value in zip(self.slices, self.values, strict=True):
            weight = weights[s.parameter] if s.parameter in weights else self._parameter(s)
            index = torch.tensor(s.index, device=weight.device)
            weights[s.parameter] = weight.index_copy(s.dim, index, value.to(weight.dtype))
        return weights
