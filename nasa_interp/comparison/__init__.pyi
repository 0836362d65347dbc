"""NASA beside what one could do instead, in one table with a verdict in words."""

from .compare import compare_methods
from .table import Comparison

__all__ = ["Comparison", "compare_methods"]
