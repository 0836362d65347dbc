"""One prompt under the lens: `view_heads` and the `HeadView` that it returns."""

from .local import LocalPage
from .look import view_heads
from .value import HeadView

__all__ = ["HeadView", "LocalPage", "view_heads"]
