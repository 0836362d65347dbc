"""One prompt under the lens: `view_heads` and the `HeadView` that it returns."""

from .build import view_heads
from .local import LocalPage
from .shown import ShownPrompt
from .snapshot import Snapshot
from .value import HeadView

__all__ = ["HeadView", "LocalPage", "ShownPrompt", "Snapshot", "view_heads"]
