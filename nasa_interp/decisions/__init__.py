"""What the model decides, and how wrong and how one-sided that is."""

from ..lazy import attach

__getattr__, __dir__, __all__ = attach(__name__)
