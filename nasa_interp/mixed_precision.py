"""Passes in bfloat16 beside weights in float32: half the time where the processor multiplies it."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch


def multiplies_bfloat16(device: torch.device) -> bool:
    """Whether this device multiplies bfloat16 matrices itself; where it doesn't, they cost more than float32 ones."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    if device.type != "cpu":
        return False
    # Newer processors have either of them; before torch 2.13 only the second name existed, and only inside torch.
    return any(torch.cpu.get_capabilities().get(name, False) for name in ("avx512_bf16", "amx_bf16"))


@contextmanager
def in_bfloat16(hf: Any, device: torch.device) -> Iterator[None]:
    """Inside, layers multiply in bfloat16 and the answer is unembedded in float32, as d is a difference of logits.

    Logits near 16 lie .06 to .12 apart in bfloat16, which is as much as a step of tuning moves them.

    Args:
        hf: a transformers causal language model in float32, or a hooked one.
        device: that it computes on; its parameters don't say where they are offloaded.
    """
    kind = device.type

    def exactly(module: Any, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
        torch.set_autocast_enabled(kind, False)
        return (inputs[0].float(), *inputs[1:])

    def on_again(*ignored: Any) -> None:
        torch.set_autocast_enabled(kind, True)

    head = hf.get_output_embeddings()
    handles = (head.register_forward_pre_hook(exactly), head.register_forward_hook(on_again, always_call=True))
    try:
        # Casts aren't kept: tuned weights are another tensor in every pass, and the others are cast faster than used.
        with torch.autocast(kind, torch.bfloat16, cache_enabled=False):
            yield
    finally:
        for handle in handles:
            handle.remove()
