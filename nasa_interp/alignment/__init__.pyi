"""Alignment: changing a few heads so that a model's bias toward No or Yes falls, and passing the change on."""

from ..objectives import (
    OBJECTIVES,
    Answer,
    Balance,
    NegativeAttention,
    Objective,
    OwnDecisions,
    Step,
    Summable,
    WeightedSum,
)
from .loop import align_heads
from .recipe import Limits, Recipe
from .result import Alignment

__all__ = [
    "OBJECTIVES",
    "Alignment",
    "Answer",
    "Balance",
    "Limits",
    "NegativeAttention",
    "Objective",
    "OwnDecisions",
    "Recipe",
    "Step",
    "Summable",
    "WeightedSum",
    "align_heads",
]
