"""What a change of weights gained and what it cost, question by question."""

from .measuring import measure_price
from .paired import known_groups
from .price import Price, with_price

__all__ = ["Price", "known_groups", "measure_price", "with_price"]
