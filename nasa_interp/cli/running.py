"""Runs a command and returns its exit status; never loses an interrupt."""

import os
import signal
import sys
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from ..errors import NasaInterpError
from .app import app
from .show import say, show_warning

# An interrupt came and may have been dropped.
_INTERRUPTED = threading.Event()


def main(arguments: list[str] | None = None) -> int:
    """Runs a command; returns the exit status: 0 done, 1 a NasaInterpError, 2 usage, 130 interrupted."""
    warnings.showwarning = show_warning
    try:
        with interruptible():
            result = app(arguments, standalone_mode=False)
        return result if isinstance(result, int) else 0
    except NasaInterpError as error:
        say(f"error: {error}")
        return 1
    except KeyboardInterrupt:
        say("interrupted; what was finished is kept")
        return 130
    except OSError as error:
        # Such as a full disk behind stdout; the package's own reads and writes have their own errors.
        say(f"error: {error.strerror or error}; what was written to files is kept")
        return 1
    except Exception as error:
        # Typer has its own copy of click, whose usage errors know their exit status and can show themselves.
        if type(error).__name__ == "Abort":
            say("interrupted; what was finished is kept")
            return 130
        if isinstance(getattr(error, "exit_code", None), int) and hasattr(error, "show"):
            error.show()  # type: ignore[attr-defined]
            return 2
        raise


@contextmanager
def interruptible() -> Iterator[None]:
    """Makes sure that Ctrl-C is not lost: Python drops an interrupt that happens to hit a destructor."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def interrupt(number: int, frame: Any) -> None:
        _INTERRUPTED.set()
        raise KeyboardInterrupt

    def unraisable(dropped: Any) -> None:
        # The dropped interrupt is raised again; only others are worth a traceback.
        if not isinstance(dropped.exc_value, KeyboardInterrupt):
            hook(dropped)

    before, hook = signal.signal(signal.SIGINT, interrupt), sys.unraisablehook
    sys.unraisablehook = unraisable
    try:
        yield
        if _INTERRUPTED.is_set():
            raise KeyboardInterrupt
    finally:
        _INTERRUPTED.clear()
        signal.signal(signal.SIGINT, before)
        sys.unraisablehook = hook


def say_stage(text: str) -> None:
    """Prints a line at the start of a stage; raises KeyboardInterrupt if one was dropped in the stage before."""
    if _INTERRUPTED.is_set():
        raise KeyboardInterrupt
    say(text)


# Of oneDNN and of what PyTorch keeps around it: a thousand kernels each otherwise, one a shape, a fifth of a gigabyte
# after ten thousand prompts in bfloat16. Kernels are quick to make, and their number is read when the first is made.
KERNEL_CACHES, KERNELS = ("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "LRU_CACHE_CAPACITY"), "32"


def entry() -> None:
    """The console script."""
    for name in KERNEL_CACHES:
        os.environ.setdefault(name, KERNELS)
    sys.exit(main())
