"""Scores of attention heads: the formula, the engines, the result."""

from ..lazy import attach

__getattr__, __dir__, __all__ = attach(__name__)
