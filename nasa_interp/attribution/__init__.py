"""What heads add to the answer, without intervening: direct logit attribution, attribution patching."""

from ..lazy import attach

__getattr__, __dir__, __all__ = attach(__name__)
