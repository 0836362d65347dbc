"""The offset of a model's decisions, from unlabeled questions, and how to take it off."""

from ..lazy import attach

__getattr__, __dir__, __all__ = attach(__name__)
