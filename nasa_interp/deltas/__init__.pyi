"""The change of a few heads' weights as a value, and its export: to transformers, to PEFT, or by itself."""

from .delta import HeadDelta
from .formats import export

__all__ = ["HeadDelta", "export"]
