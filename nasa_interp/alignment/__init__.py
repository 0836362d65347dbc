"""Alignment: changing a few heads so that a model's negative bias falls, and passing the change on."""

from .compare import compare
from .comparison import Comparison
from .delta import HeadDelta
from .export import export
from .loop import align_heads
from .objectives import Answer, Balance, NegativeAttention, Objective, Step, WeightedSum
from .paired import known_groups
from .price import measure_price
from .priced import Price
from .recipe import Limits, Recipe
from .result import Alignment
from .values import read_slices, write_slices

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
