"""Models: loading them, and the two views of their weights."""

from ..lazy import attach

__getattr__, __dir__, __all__ = attach(__name__)
