"""Rankings of heads against one another, and the best of them on data kept apart."""

from ..lazy import attach

__getattr__, __dir__, __all__ = attach(__name__)
