"""A run folder to one HTML page."""

from ..lazy import attach

__getattr__, __dir__, __all__ = attach(__name__)
