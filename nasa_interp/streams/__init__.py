"""Any number of questions, in parts on disk, by one process or several."""

from ..lazy import attach

__getattr__, __dir__, __all__ = attach(__name__)
