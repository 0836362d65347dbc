"""The command line: arguments in, calls, printing out."""

from . import aligning, asking_elsewhere, intervening, reporting, scoring, surveying  # noqa: F401 - register their commands
from .running import entry, main

__all__ = ["entry", "main"]
