"""Verbs compute the same whatever the caller has set around them: inference mode, autocast, another default dtype."""

import functools
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import ParamSpec, TypeVar

import torch

Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")

# Where autocast may be on; asking for a device that this build of torch lacks costs nothing.
AUTOCAST = ("cpu", "cuda", "mps")


@contextmanager
def torch_defaults() -> Iterator[None]:
    """Inside, torch computes as it does by default; afterwards the caller's settings are back.

    Under autocast a float32 model computes in another dtype than its result says; in inference mode nothing can be
    tuned; another default dtype or device changes what our own tensors are.
    """
    dtype, device = torch.get_default_dtype(), torch.get_default_device()
    with ExitStack() as stack:
        if torch.is_inference_mode_enabled():
            # Leaving inference mode turns gradients on, too; whoever needs them here turns them on itself.
            stack.enter_context(torch.inference_mode(False))
            stack.enter_context(torch.no_grad())
        for kind in AUTOCAST:
            if torch.is_autocast_enabled(kind):
                stack.enter_context(torch.autocast(kind, enabled=False))
        if device.type != "cpu":
            stack.enter_context(torch.device("cpu"))
        torch.set_default_dtype(torch.float32)
        try:
            yield
        finally:
            torch.set_default_dtype(dtype)


def under_torch_defaults(verb: Callable[Arguments, Result]) -> Callable[Arguments, Result]:
    """The verb, computing under `torch_defaults`."""

    @functools.wraps(verb)
    def call(*args: Arguments.args, **kwargs: Arguments.kwargs) -> Result:
        with torch_defaults():
            return verb(*args, **kwargs)

    return call
