"""NASA beside what one could do instead, in one table with a verdict in words."""

from ..lazy import attach

__getattr__, __dir__, __all__ = attach(__name__)
