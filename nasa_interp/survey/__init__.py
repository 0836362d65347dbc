"""Data sets x forms x what the model knows: where a bias holds, where it turns, and which heads lead."""

from ..lazy import attach

__getattr__, __dir__, __all__ = attach(__name__)
