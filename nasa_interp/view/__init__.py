"""One prompt under the lens: `view_heads` and the `HeadView` that it returns."""

from ..lazy import attach

__getattr__, __dir__, __all__ = attach(__name__)
