"""The same questions for lm-evaluation-harness and inspect_ai."""

from .task import HarnessTask, write_task

__all__ = ["HarnessTask", "write_task"]
