"""Long work in steps on the caller's own thread: between two steps a kernel answers clicks, and can be told to stop.

A second thread would run the model while a cell of the user's does, which then would see our interventions.
"""

import asyncio
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

# Long enough for a kernel to take in a message.
PAUSE = 0.005


class Step(NamedTuple):
    """How far a job is: done of total."""

    done: int
    total: int


class Work:
    """Runs jobs step by step: on the running event loop where there is one, as in a notebook, else at once.

    The job that was started last comes first; earlier ones go on after it.

    Args:
        show: called with {"name", "done", "total"} after each step, and with {} at the end.
        tell: called with an error that ended a job on the event loop, where nobody waits for it.
    """

    def __init__(self, show: Callable[[dict[str, Any]], None], tell: Callable[[Exception], None]):
        self._show, self._tell = show, tell
        self._jobs: list[tuple[str, Iterator[Step]]] = []
        self._task: asyncio.Task[None] | None = None

    @property
    def busy(self) -> bool:
        """Whether a job is under way."""
        return bool(self._jobs)

    def start(self, name: str, steps: Iterator[Step]) -> None:
        """Begins a job; one of the same name that is under way ends.

        Args:
            name: what it does, for the bar.
            steps: does the work and yields after each step; between two steps nothing of the model may be changed.
        """
        self.stop(name)
        self._jobs.append((name, steps))
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:
            self._run_all()
            return
        if self._task is None or self._task.done():
            self._task = loop.create_task(self._follow())

    def stop(self, name: str | None = None) -> None:
        """Ends the job of this name, or all; what they had finished stays."""
        ended = [job for job in self._jobs if name in (None, job[0])]
        self._jobs = [job for job in self._jobs if job not in ended]
        if ended and not self._jobs:
            self._show({})

    def _run_all(self) -> None:
        try:
            while self._jobs:
                self._advance()
        except BaseException:
            self._jobs.clear()
            raise
        finally:
            self._show({})

    async def _follow(self) -> None:
        while self._jobs:
            job = self._jobs[-1]
            try:
                self._advance()
            # Whatever it is: the page must say so, and the other jobs go on.
            except Exception as error:
                if job in self._jobs:
                    self._jobs.remove(job)
                self._tell(error)
            await asyncio.sleep(PAUSE)
        self._show({})

    def _advance(self) -> None:
        """One step of the newest job."""
        job = self._jobs[-1]
        name, steps = job
        try:
            step = next(steps)
        except StopIteration:
            if job in self._jobs:
                self._jobs.remove(job)
            return
        if job in self._jobs:
            self._show({"name": name, **step._asdict()})
