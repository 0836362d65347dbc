"""Heads by clicking, in a notebook: `explore` and the `Explorer` that it returns."""

from ..lazy import attach

__getattr__, __dir__, __all__ = attach(__name__)
