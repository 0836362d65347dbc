"""What a model knows: the short question behind a yes-no question, asked openly and several times."""

from ..lazy import attach

__getattr__, __dir__, __all__ = attach(__name__)
