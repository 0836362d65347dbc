"""Interventions on heads and what they do to the model's decisions."""

from .sweep import HeadSweep, sweep, sweep_heads

__all__ = ["HeadSweep", "sweep", "sweep_heads"]
