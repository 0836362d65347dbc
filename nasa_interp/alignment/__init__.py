"""Alignment: changing a few heads so that a model's negative bias falls, and passing the change on."""

from .comparison import Comparison, compare
from .deltas import HeadDelta, export, read_slices, write_slices
from .loop import align_heads
from .objectives import Answer, Balance, NegativeAttention, Objective, Step, WeightedSum
from .price import Price, known_groups, measure_price
from .recipe import Limits, Recipe
from .result import Alignment

__all__ = [
    "Alignment",
    "Answer",
    "Balance",
    "Comparison",
    "HeadDelta",
    "Limits",
    "NegativeAttention",
    "Objective",
    "Price",
    "Recipe",
    "Step",
    "WeightedSum",
    "align_heads",
    "compare",
    "export",
    "known_groups",
    "measure_price",
    "read_slices",
    "write_slices",
]
