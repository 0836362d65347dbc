"""The change of a few heads as a value, and passing it on: to transformers, to PEFT, or by itself."""

from .delta import HeadDelta
from .export import export
from .values import read_slices, write_slices

__all__ = ["HeadDelta", "export", "read_slices", "write_slices"]
