"""Interventions on heads and what they do to the model's decisions."""

from .controls import RandomControl, RandomControls, random_controls, random_heads, shuffle_scores
from .effect import AblationEffect, Ablator, ablation_effect, cumulative_effect
from .outputs import POSITION_CLASSES, HeadOutputs, position_classes, record_outputs
from .replace import Mean, Patch, Resample
from .sweeps import SweptAnswers, scale_rows, sweep, sweep_heads
from .values import INTERVENTIONS, Intervention, Knockout, Scale, Swap, Zero, edits_of

__all__ = [
    "INTERVENTIONS",
    "POSITION_CLASSES",
    "AblationEffect",
    "Ablator",
    "HeadOutputs",
    "Intervention",
    "Knockout",
    "Mean",
    "Patch",
    "RandomControl",
    "RandomControls",
    "Resample",
    "Scale",
    "Swap",
    "SweptAnswers",
    "Zero",
    "ablation_effect",
    "cumulative_effect",
    "edits_of",
    "position_classes",
    "random_controls",
    "random_heads",
    "record_outputs",
    "scale_rows",
    "shuffle_scores",
    "sweep",
    "sweep_heads",
]
