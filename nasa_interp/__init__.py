"""Find and cure the bias of language models toward No or Yes, head by head."""

from .lazy import attach

# The public names stand in the stub beside this file.
__getattr__, __dir__, __all__ = attach(__name__)
