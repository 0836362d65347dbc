"""Interventions on heads and what they do to the model's decisions."""

from .controls import RandomControl, random_control, random_heads
from .effect import AblationEffect, Ablator, ablation_effect, cumulative_effect
from .sweep import HeadSweep, sweep, sweep_heads
from .values import Intervention, Knockout, Scale, Swap, Zero, edits_of

__all__ = [
    "AblationEffect",
    "Ablator",
    "HeadSweep",
    "Intervention",
    "Knockout",
    "RandomControl",
    "Scale",
    "Swap",
    "Zero",
    "ablation_effect",
    "cumulative_effect",
    "edits_of",
    "random_control",
    "random_heads",
    "sweep",
    "sweep_heads",
]
