"""What a cure is worth where it was not fitted: other questions, wordings and candidates."""

from ..lazy import attach

__getattr__, __dir__, __all__ = attach(__name__)
