"""The change of a few heads' weights as a value, and its export: to transformers, to PEFT, or by itself."""

from ..lazy import attach

__getattr__, __dir__, __all__ = attach(__name__)
