"""Questions to token batches, in both candidate orders, and prompts in pairs."""

from ..lazy import attach

__getattr__, __dir__, __all__ = attach(__name__)
