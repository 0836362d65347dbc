"""Interventions on heads and what they do to the model's decisions."""

from ..lazy import attach

__getattr__, __dir__, __all__ = attach(__name__)
