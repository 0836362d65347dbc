"""Interventions on heads and what they do to the model's decisions."""

from .confirmation import Confirmation, confirm
from .contest import RankingContest, Winner, ranking_contest
from .controls import RandomControl, RandomControls, random_control, random_controls, random_heads, shuffle_scores
from .direct import DirectAttribution, attribute_directly
from .effect import AblationEffect, Ablator, ablation_effect, cumulative_effect
from .estimates import HeadEstimates, estimate_patch, estimate_zero
from .outputs import POSITION_CLASSES, HeadOutputs, position_classes, record_outputs
from .pairs import PromptPairs, instruction_pairs, question_pairs
from .patched import PatchEffects, PatchSummary
from .patching import patch_data, patch_heads, patch_together
from .rankings import rank_heads
from .replace import Mean, Patch, Resample
from .sweep import HeadSweep, sweep, sweep_heads
from .values import Intervention, Knockout, Scale, Swap, Zero, edits_of

__all__ = [
    "POSITION_CLASSES",
    "AblationEffect",
    "Ablator",
    "Confirmation",
    "DirectAttribution",
    "HeadEstimates",
    "HeadOutputs",
    "HeadSweep",
    "Intervention",
    "Knockout",
    "Mean",
    "Patch",
    "PatchEffects",
    "PatchSummary",
    "PromptPairs",
    "RandomControl",
    "RandomControls",
    "RankingContest",
    "Resample",
    "Scale",
    "Swap",
    "Winner",
    "Zero",
    "ablation_effect",
    "attribute_directly",
    "confirm",
    "cumulative_effect",
    "edits_of",
    "estimate_patch",
    "estimate_zero",
    "instruction_pairs",
    "patch_data",
    "patch_heads",
    "patch_together",
    "position_classes",
    "question_pairs",
    "random_control",
    "random_controls",
    "random_heads",
    "rank_heads",
    "ranking_contest",
    "record_outputs",
    "shuffle_scores",
    "sweep",
    "sweep_heads",
]
