"""Fused attention that reads the attention paid to candidate tokens and edits heads on the way; plain tensors only."""

from ..lazy import attach

__getattr__, __dir__, __all__ = attach(__name__)
