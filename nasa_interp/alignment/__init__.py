"""Alignment: changing a few heads so that a model's bias toward No or Yes falls, and passing the change on."""

from ..lazy import attach

__getattr__, __dir__, __all__ = attach(__name__)
