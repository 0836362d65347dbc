"""Activation patching: heads' outputs of a clean run in a corrupted one."""

from ..lazy import attach

__getattr__, __dir__, __all__ = attach(__name__)
