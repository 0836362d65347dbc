"""One prompt under the lens: `view_heads` and the `HeadView` that it returns."""

from .build import view_heads
from .local import LocalPage
from .value import HeadView

__all__ = ["HeadView", "LocalPage", "view_heads"]
