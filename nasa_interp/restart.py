"""A pass that restarts at a layer, from the residual stream that enters it.

So what lies below an intervention is computed once, and a sweep over heads pays only for the layers above.
"""

from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from typing import Any

from jaxtyping import Float
from torch import Tensor, nn

from .errors import ModelError
from .models.bridge import hung, residual_hook
from .models.hooked import HookedNetwork
from .models.slices import attention_modules


def decoder_layers(hf: Any) -> list[nn.Module]:
    """The decoder's layers, in their order."""
    names = (name.split(f".{number}.")[0] + f".{number}" for number, name in enumerate(attention_modules(hf)))
    return [hf.get_submodule(name) for name in names]


@contextmanager
def residuals_entering(hf: Any, layers: Collection[int]) -> Iterator[dict[int, Float[Tensor, "batch pos d_model"]]]:
    """Inside, a pass leaves the residual stream that enters each of these layers in the dictionary."""
    found: dict[int, Tensor] = {}
    if isinstance(hf, HookedNetwork):

        def keep_hooked(layer: int) -> Callable[..., None]:
            return lambda hidden, hook: found.__setitem__(layer, hidden)

        with hung(hf.hooked, [(residual_hook(layer), keep_hooked(layer)) for layer in sorted(layers)]):
            yield found
        return
    handles = []

    def keep(layer: int) -> Callable[..., None]:
        def hook(module: nn.Module, args: tuple, kwargs: dict) -> None:
            found[layer] = args[0] if args else kwargs["hidden_states"]

        return hook

    try:
        for number, layer in enumerate(decoder_layers(hf)):
            if number in layers:
                handles.append(layer.register_forward_pre_hook(keep(number), with_kwargs=True))
        yield found
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def restart_at(hf: Any, layer: int, hidden: Float[Tensor, "batch pos d_model"]) -> Iterator[None]:
    """Inside, a pass begins at this layer, with `hidden` as the residual stream that enters it.

    Args:
        hf: a transformers causal language model, or a hooked one (through `start_at_layer`, for which a bridge runs
            the layers below too and drops what they give).
        layer: the first layer that runs; those below it cost nothing and cache nothing.
        hidden: as `residuals_entering` found it; the pass takes tokens (any) and positions of the same shape.

    Raises:
        ModelError: no such layer.

    Caveat: behind a prefix the cache needs its keys and values in the skipped layers too: models size masks by the
    first. Inside `instrumented`, say which layers run.
    """
    if isinstance(hf, HookedNetwork):
        hf.entering = (layer, hidden)
        try:
            yield
        finally:
            hf.entering = None
        return
    layers = decoder_layers(hf)
    if not 0 <= layer < len(layers):
        raise ModelError(f"no layer {layer} to restart at; {type(hf).__name__} has layers 0 to {len(layers) - 1}")
    skipped = [(below, vars(below).get("forward")) for below in layers[:layer]]

    def skip(*args: Any, **kwargs: Any) -> Tensor:
        # Where a model expects a tuple and takes the first of it, it gets a row; the next layer doesn't look at it.
        return hidden

    def enter(module: nn.Module, args: tuple, kwargs: dict) -> tuple[tuple, dict]:
        return ((hidden, *args[1:]), kwargs) if args else (args, {**kwargs, "hidden_states": hidden})

    handle = layers[layer].register_forward_pre_hook(enter, with_kwargs=True)
    try:
        for below, _ in skipped:
            below.forward = skip
        yield
    finally:
        handle.remove()
        for below, own in skipped:
            if own is None:
                del below.forward
            else:
                below.forward = own
