"""Which engine computes a score: fused where it is exact for the architecture, else hooked; checked on a sample."""

import math
from typing import Literal, NamedTuple

import torch

from ..errors import ModelError
from ..forward import fused_refusal
from ..models import Model
from ..prompts import PromptBatch
from .fused import score_fused
from .hooked import score_hooked

Engine = Literal["auto", "fused", "hooked"]
ENGINES: tuple[Engine, ...] = ("auto", "fused", "hooked")

# Largest difference on the sample, in parts of the layer's largest score: rounding stays far below, a mask that is
# missing or a head that is another's far above. In bf16 each engine is up to 0.2 off fp32, and the two were up to 0.27
# apart (SmolLM2 and Gemma 3 270M), with the fused one the nearer to fp32.
TOLERANCE, NARROW_TOLERANCE = 1e-3, 0.5


class Choice(NamedTuple):
    """The engine that was taken, and what the user should know of the choice."""

    engine: Literal["fused", "hooked"]
    note: str


def choose_engine(model: Model, prompts: PromptBatch, wanted: Engine = "auto") -> Choice:
    """Takes the engine for a run, after a run's shortest and its longest prompt gave the same scores by both.

    Raises:
        ModelError: for an unknown engine, where the wanted engine refuses the model, where none takes it, or where
            the two disagree.
    """
    if wanted not in ENGINES:
        raise ModelError(f"engine {wanted!r} is unknown; use one of {', '.join(ENGINES)}")
    if wanted == "hooked":
        return Choice("hooked", "")
    refusal = fused_refusal(model, prompts)
    if refusal is not None:
        if wanted == "fused":
            raise ModelError(f"the fused engine refuses {model.name}: {refusal}; see `nasa-interp doctor`")
        return hooked_instead(refusal)
    by_length = torch.argsort(prompts.last_pos, stable=True)
    sample = prompts.select(by_length[[0, -1]] if len(prompts) > 1 else by_length)
    try:
        hooked, _ = score_hooked(model, sample, progress=False)
    except ModelError as error:
        return Choice("fused", f"not checked against the hooked engine: {error}")
    fused, _ = score_fused(model, sample, progress=False)
    _compare(model, fused, hooked)
    return Choice("fused", f"checked against the hooked engine on {len(sample)} prompts")


def hooked_instead(refusal: object) -> Choice:
    """The hooked engine in place of the fused one, which refused."""
    return Choice("hooked", f"scored with the hooked engine, as the fused one refuses the model: {refusal}")


def _compare(model: Model, fused: torch.Tensor, hooked: torch.Tensor) -> None:
    off = (fused - hooked).abs().nan_to_num(0.0).amax((0, 2))
    reach = hooked.abs().nan_to_num(0.0).amax((0, 2)).clamp_min(1e-3)
    worst = int((off / reach).argmax())
    allowed = TOLERANCE if model.dtype.itemsize >= 4 else NARROW_TOLERANCE
    found = float(off[worst] / reach[worst])
    if not math.isfinite(found) or found > allowed or bool((fused.isnan() != hooked.isnan()).any()):
        raise ModelError(
            f"the two engines disagree on {model.name}: in layer {worst} by {found:.1e} of its largest score; "
            f"use engine='hooked' and report the model"
        )
