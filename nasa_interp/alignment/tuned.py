"""What tuning may change: the chosen heads' own rows and columns, as tensors of their own beside the model."""

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from ..errors import HeadError, ModelError
from ..heads import Head, HeadList
from ..models import Model
from ..models.bridge import processed
from ..models.ready import MERGE, has_adapters
from ..models.slice_values import read_slices, write_slices
from ..models.slices import WeightSlice, group_of, head_slices, norm_spans_heads


def tunable_slices(
    model: Model, heads: HeadList | Iterable[Any], projections: str = "q", bias: bool = False, share: bool = False
) -> tuple[WeightSlice, ...]:
    """The slices that belong to these heads, each once.

    Args:
        model: with a plain view.
        heads: heads, pairs or names.
        projections: letters out of "qkvo".
        bias: also the biases of those projections, where there are any.
        share: allow keys and values that other heads use too.

    Raises:
        HeadError: a head outside the model, no head at all, or keys and values shared with heads that were not chosen.
        ModelError: quantized or processed weights, no plain view, an unknown projection.

    Source: ours; the paper doesn't say which projections it tunes.
    """
    chosen = HeadList.of(heads).check(model.n_layers, model.n_heads)
    if not len(chosen):
        raise HeadError("no heads to tune; give at least one, such as scores.top(10, by='polarity')")
    _refuse(model)
    slices: dict[WeightSlice, None] = {}
    for head in chosen:
        if set(projections) & set("kv") and not share:
            _refuse_shared(model, head, chosen)
        slices |= dict.fromkeys(head_slices(model.hf, head.layer, head.index, projections, bias))
    return tuple(slices)


class Tuned:
    """Tensors that steps change and checkpoints hold; how the model computes with them is each kind's own."""

    values: list[Tensor]

    @contextmanager
    def inserted(self) -> Iterator[None]:
        """Inside, the model computes with these tensors in its graph."""
        yield

    @contextmanager
    def written(self, state: Sequence[Tensor]) -> Iterator[None]:
        """Inside, the model is the one with these values."""
        self.load(state)
        yield

    def state(self) -> tuple[Tensor, ...]:
        """A copy of the tensors."""
        return tuple(value.detach().clone() for value in self.values)

    @torch.no_grad()
    def load(self, state: Sequence[Tensor]) -> None:
        """Takes back what `state` gave."""
        for value, old in zip(self.values, state, strict=True):
            value.copy_(old)


class TunedSlices(Tuned):
    """Slices of a model's weights as fp32 tensors that can be trained; the model stays as it is until `write`.

    Being tensors of their own, nothing else can move: no weight decay, no optimizer state of masked entries.

    Args:
        model: with a plain view.
        slices: what may change.
    """

    def __init__(self, model: Model, slices: Sequence[WeightSlice]):
        self.model, self.slices = model, tuple(slices)
        device = model.device
        self.values = [v.float().to(device).requires_grad_() for v in read_slices(model, self.slices).values()]

    @contextmanager
    def inserted(self) -> Iterator[None]:
        """Inside, the model computes with these tensors in its graph; its own parameters take no gradients."""
        hf, swapped = self.model.hf, []
        asked = [p for p in hf.parameters() if p.requires_grad]
        try:
            for parameter in asked:
                parameter.requires_grad_(False)
            for name, weight in self._weights().items():
                path, _, leaf = name.rpartition(".")
                module = hf.get_submodule(path)
                swapped.append((module, leaf, module._parameters[leaf]))
                # a tensor in a parameter's place: torch's own functional_call does the same for a whole call
                module._parameters[leaf] = weight  # type: ignore[assignment]
            yield
        finally:
            for module, leaf, parameter in swapped:
                module._parameters[leaf] = parameter
            for parameter in asked:
                parameter.requires_grad_(True)

    def write(self) -> None:
        """Puts the tensors into the model's parameters, in place, in the model's dtype."""
        values = {s: value.detach().to(self.model.dtype) for s, value in zip(self.slices, self.values, strict=True)}
        write_slices(self.model, values)

    @contextmanager
    def written(self, state: Sequence[Tensor]) -> Iterator[None]:
        """Inside, the model's parameters hold these values; then what they held before."""
        before = read_slices(self.model, self.slices)
        self.load(state)
        try:
            self.write()
            yield
        finally:
            write_slices(self.model, before)

    def _parameter(self, s: WeightSlice) -> Tensor:
        return self.model.hf.get_parameter(s.parameter).detach()

    def _weights(self) -> dict[str, Tensor]:
        weights: dict[str, Tensor] = {}
        for s, value in zip(self.slices, self.values, strict=True):
            weight = weights[s.parameter] if s.parameter in weights else self._parameter(s)
            index = torch.tensor(s.index, device=weight.device)
            weights[s.parameter] = weight.index_copy(s.dim, index, value.to(weight.dtype))
        return weights


def outside_hash(hf: nn.Module, slices: Iterable[WeightSlice]) -> str:
    """SHA-256 over all weights but these slices: equal before and after where nothing else moved."""
    by_parameter: dict[str, list[WeightSlice]] = {}
    for s in slices:
        by_parameter.setdefault(s.parameter, []).append(s)
    # a tied parameter has two names in the state dict, but one storage: all its names leave the slice out
    tied = {tensor.data_ptr(): by_parameter[name] for name, tensor in hf.state_dict().items() if name in by_parameter}
    digest = hashlib.sha256()
    for name, tensor in sorted(hf.state_dict().items()):
        own, tensor = by_parameter.get(name) or tied.get(tensor.data_ptr()), tensor.detach().cpu()
        if own:
            tensor = tensor.clone()
            for s in own:
                tensor.index_fill_(s.dim, torch.tensor(s.index), 0)
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
        digest.update(tensor.contiguous().flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()


def spanning_norms(model: Model, heads: HeadList) -> tuple[int, ...]:
    """Layers in which a head's query rows also scale other heads, through a norm over all heads together."""
    return tuple(layer for layer in sorted({head.layer for head in heads}) if norm_spans_heads(model.hf, layer))


def _refuse(model: Model) -> None:
    if not model.has_hf and processed(model.bridge):
        raise ModelError(
            f"the weights of {model.name} were folded or centred by TransformerLens, so a change of them can't be "
            "saved; load it without weight processing"
        )
    hf = model.hf
    if getattr(hf, "is_quantized", False) or getattr(hf.config, "quantization_config", None):
        raise ModelError(f"{model.name} is quantized, and its weights can't be tuned; load it in float32 or bfloat16")
    if any(parametrize.is_parametrized(part) for part in hf.modules()):
        raise ModelError(
            f"weights of {model.name} are parametrized, so that they are computed and not there to be tuned; call "
            f"torch.nn.utils.parametrize.remove_parametrizations first"
        )
    if has_adapters(hf):
        raise ModelError(f"{model.name} holds LoRA adapters, beside which its own weights can't be tuned; {MERGE}")
    if any(parameter.is_inference() for parameter in hf.parameters()):
        raise ModelError(
            f"the weights of {model.name} were made in torch.inference_mode; load it outside of that block"
        )


def _refuse_shared(model: Model, head: Head, chosen: HeadList) -> None:
    group = [Head(head.layer, index) for index in group_of(model.hf, head.layer, head.index)]
    if missing := [str(other) for other in group if other not in chosen]:
        raise HeadError(
            f"head {head} shares its keys and values with {', '.join(missing)}, which would change too; "
            f"choose the whole group, tune 'q' and 'o' alone, or pass share=True"
        )
