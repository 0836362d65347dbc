"""Activation patching: heads' outputs of a clean run in a corrupted one."""

from .effects import PatchEffects, PatchSummary
from .patch import patch_data, patch_heads, patch_together

__all__ = ["PatchEffects", "PatchSummary", "patch_data", "patch_heads", "patch_together"]
