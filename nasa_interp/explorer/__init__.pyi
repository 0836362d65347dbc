"""Heads by clicking, in a notebook: `explore` and the `Explorer` that it returns."""

from .exploration import Exploration
from .widget import Explorer, explore

__all__ = ["Exploration", "Explorer", "explore"]
