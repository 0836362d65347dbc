"""The same questions for lm-evaluation-harness and inspect_ai."""

from ..lazy import attach

__getattr__, __dir__, __all__ = attach(__name__)
