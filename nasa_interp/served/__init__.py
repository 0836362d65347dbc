"""Models behind an OpenAI-compatible address: requests, retries, and the log-probabilities that come back."""

from ..lazy import attach

__getattr__, __dir__, __all__ = attach(__name__)
