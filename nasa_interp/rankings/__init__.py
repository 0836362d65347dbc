"""Rankings of heads compared, and the best of them on held-out data."""

from ..lazy import attach

__getattr__, __dir__, __all__ = attach(__name__)
