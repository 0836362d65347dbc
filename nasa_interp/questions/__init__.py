"""Questions with a yes-no answer, from files, public data sets and the built-in set."""

from ..lazy import attach

__getattr__, __dir__, __all__ = attach(__name__)
