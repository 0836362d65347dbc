"""What a change of the weights did: decisions, plain text, four-option questions, free answers, other wordings."""

from ..lazy import attach

__getattr__, __dir__, __all__ = attach(__name__)
