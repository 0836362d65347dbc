"""A pass in which d is linear in what is added to the residual stream: the terms, and the hooks that collect them."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from ..models.bridge import hung, residual_hook, z_hook
from ..models.hooked import HookedNetwork
from .norms import freeze_norm


@dataclass
class Terms:
    """What adds to the residual stream: where the gradient is taken, the part's name, the value that is added."""

    items: list[tuple[Tensor, str, Tensor]] = field(default_factory=list)
    logits: Tensor = field(default_factory=lambda: torch.empty(0))

    def cut(self, name: str, tensor: Tensor) -> Tensor:
        """A leaf in place of the tensor, so that gradients end here; copied, as some models add to it in place."""
        leaf = tensor.detach().requires_grad_()
        self.items.append((leaf, name, leaf))
        return leaf.clone()

    def add(self, name: str, output: Tensor, bias: Tensor | None) -> None:
        if bias is not None:
            self.items.append((output, name, bias))


@contextmanager
def linearized_hooks(network: HookedNetwork) -> Iterator[Terms]:
    """As `direct._linearized`, for a hooked model, whose blocks and hook points are where TransformerLens has them.

    Source: ours.
    """
    terms, hooked = Terms(), network.hooked
    points = [(residual_hook(0), lambda x, hook: terms.cut("embedding", x))]
    points += [(z_hook(layer), lambda z, hook: terms.cut("heads", z)) for layer in range(network.n_layers)]
    with hung(hooked, points), ExitStack() as stack:
        inside: set[nn.Module] = set()
        for number, block in enumerate(hooked.blocks):
            for module in (block.attn, block.mlp):
                hook = module.register_forward_pre_hook(
                    lambda m, args, kwargs: detached(args, kwargs), with_kwargs=True
                )
                stack.callback(hook.remove)
                inside |= set(module.modules())
            stack.callback(block.attn.register_forward_hook(bias_hook(terms, f"attention bias {number}", "b_O")).remove)
            stack.callback(block.mlp.register_forward_hook(mlp_hook(terms, f"mlp {number}")).remove)
        for module in hooked.modules():
            if "norm" in type(module).__name__.lower() and module not in inside:
                # A bridge's norm holds the original's, which is the same norm.
                inside |= set(module.modules())
                stack.callback(module.register_forward_hook(norm_hook(terms)).remove)
        stack.callback(hooked.unembed.register_forward_hook(bias_hook(terms, "unembedding bias", "b_U")).remove)
        keep = hooked.unembed.register_forward_hook(lambda module, inputs, logits: setattr(terms, "logits", logits))
        stack.callback(keep.remove)
        yield terms


def on_first(args: tuple, kwargs: dict, change: Callable[[Tensor], Tensor]) -> tuple[tuple, dict]:
    if args:
        return (change(args[0]), *args[1:]), kwargs
    name = "hidden_states" if "hidden_states" in kwargs else next(iter(kwargs))
    return args, {**kwargs, name: change(kwargs[name])}


def _detach_inputs(module: nn.Module, args: tuple, kwargs: dict) -> tuple[tuple, dict]:
    return detached(args, kwargs)


def detached(args: tuple, kwargs: dict) -> tuple[tuple, dict]:
    def detach(value: Any) -> Any:
        return value.detach() if isinstance(value, Tensor) else value

    return tuple(detach(value) for value in args), {name: detach(value) for name, value in kwargs.items()}


def bias_hook(terms: Terms, name: str, bias: str = "bias") -> Callable[..., None]:
    """Adds a module's bias to the terms, where it has one of this name."""

    def hook(module: nn.Module, inputs: Any, output: Any) -> None:
        terms.add(name, output[0] if isinstance(output, tuple) else output, getattr(module, bias, None))

    return hook


def mlp_hook(terms: Terms, name: str) -> Callable[..., Any]:
    def hook(module: nn.Module, inputs: Any, output: Any) -> Any:
        if isinstance(output, tuple):
            return (terms.cut(name, output[0]), *output[1:])
        return terms.cut(name, output)

    return hook


def norm_hook(terms: Terms) -> Callable[..., Tensor]:
    def hook(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
        frozen, bias = freeze_norm(module, inputs[0], output)
        terms.add("norm biases", frozen, bias if bias.any() else None)
        return frozen

    return hook
