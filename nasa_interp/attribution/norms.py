"""Norms with their denominator held fixed, whatever family they are of: what a norm does is measured by probing it."""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ..errors import ModelError

# How far a computation may be off its check, in parts of what is compared; rounding in fp32 stays far below.
TOLERANCE = {torch.float32: 1e-4, torch.float64: 1e-4}
LOW_PRECISION_TOLERANCE = 0.05


def freeze_norm(
    module: nn.Module, x: Float[Tensor, "*batch d_model"], y: Float[Tensor, "*batch d_model"]
) -> tuple[Float[Tensor, "*batch d_model"], Float[Tensor, " d_model"]]:
    """A norm's output with its denominator held fixed, so that it is linear in x; and its bias.

    Which norm it is, is measured by probing: f(0) is the bias, f(1) tells whether the mean is taken off, f(+1, -1, ...)
    gives the gain, and y then gives each position's scale.

    Raises:
        ModelError: where the module is no such norm.
    """
    with torch.no_grad():
        zero = torch.zeros(1, x.shape[-1], dtype=x.dtype, device=x.device)
        bias = module.forward(zero)[0]
        probe = torch.ones_like(zero)
        probe[:, 1::2] = -1
        flat, response = module.forward(torch.ones_like(zero))[0] - bias, module.forward(probe)[0] - bias
        centres = bool(flat.abs().max() < 1e-3 * response.abs().max())
        gain = response / (probe - probe.mean() if centres else probe)[0]
    direction = gain * (x - x.mean(-1, keepdim=True) if centres else x)
    with torch.no_grad():
        square = direction.square().sum(-1, keepdim=True).clamp_min(torch.finfo(x.dtype).tiny)
        scale = ((y - bias) * direction).sum(-1, keepdim=True) / square
    frozen = scale * direction + bias
    with torch.no_grad():
        off = (frozen - y).abs().max() / y.abs().max().clamp_min(torch.finfo(x.dtype).tiny)
        if not off <= TOLERANCE.get(x.dtype, LOW_PRECISION_TOLERANCE):
            raise ModelError(
                f"{type(module).__name__} isn't a norm that can be held fixed (off by {float(off):.1e}), so direct "
                f"attribution isn't defined; use estimate_zero_ablation or sweep_heads"
            )
    return frozen, bias
