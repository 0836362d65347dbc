"""The processes of one run, as torchrun or `accelerate launch` started them: which is this, and are all there?"""

import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from ..errors import NasaInterpError

# Processes finish far apart where the prompts' lengths differ; a lost one is noticed by its closed connection.
PATIENCE = timedelta(days=7)


@dataclass(frozen=True, eq=False)
class World:
    """One of the processes that share a run.

    Args:
        rank: its number; the first, 0, writes what all have found.
        size: how many there are.
        folder: where finished parts lie, for the error.
        group: what they speak through; None alone.
    """

    rank: int = 0
    size: int = 1
    folder: str = ""
    group: Any = None

    @property
    def first(self) -> bool:
        """Whether this is the one that writes and shows."""
        return self.rank == 0

    def share(self, value: Any) -> Any:
        """The first one's value, in all of them."""
        if self.size == 1:
            return value
        import torch.distributed as dist

        values = [value]
        with self._lost():
            dist.broadcast_object_list(values, src=0, group=self.group)
        return values[0]

    def wait(self) -> None:
        """Until all have come here; raises NasaInterpError where one was lost."""
        if self.size > 1:
            import torch.distributed as dist

            with self._lost():
                dist.barrier(group=self.group)

    @contextmanager
    def _lost(self) -> Iterator[None]:
        try:
            yield
        except RuntimeError as error:
            raise NasaInterpError(self.loss) from error

    @property
    def loss(self) -> str:
        """What to say where another process was lost."""
        return (
            f"process {self.rank} of {self.size} ends, as another was lost; finished parts lie in {self.folder}: start "
            f"the same command again, and only what is missing is computed"
        )


@contextmanager
def joined_world(folder: str = "") -> Iterator[World]:
    """The process's place among those that torch.distributed knows of, or else RANK and WORLD_SIZE; alone without.

    accelerate's PartialState isn't asked: it says "0 of 1" in each of several processes on a CPU.

    Raises:
        NasaInterpError: only one of RANK and WORLD_SIZE is there, or they are no numbers; or, inside, another process
            was lost.
    """
    rank, size = _place()
    if size == 1:
        yield World(rank, size, folder)
        return
    import torch.distributed as dist

    if dist.is_initialized():
        yield World(rank, size, folder, dist.new_group(backend="gloo"))
        return
    dist.init_process_group("gloo", timeout=PATIENCE)
    world = World(rank, size, folder, dist.group.WORLD)
    try:
        with _ended_by(world):
            yield world
    finally:
        dist.destroy_process_group()


@contextmanager
def _ended_by(world: World) -> Iterator[None]:
    """A launcher that has lost one process ends the others by SIGTERM: then one line is said, not nothing.

    It ends at once: Python drops an error that a handler raises while a destructor runs, and a part is there whole or
    not at all.
    """

    def end(*_: Any) -> None:
        print(f"error: {world.loss}", file=sys.stderr, flush=True)
        os._exit(1)

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def world_size() -> int:
    """How many processes share this run, without joining them."""
    return _place()[1]


def world_rank() -> int:
    """This process's number among them, without joining them."""
    return _place()[0]


def _place() -> tuple[int, int]:
    """Rank and number of processes, as torch.distributed knows them, where somebody set it up, or the environment."""
    # Where nobody has imported it, nobody has set it up, and some commands need no PyTorch at all.
    dist: Any = sys.modules.get("torch.distributed")
    if dist is not None and dist.is_available() and dist.is_initialized():
        return dist.get_rank(), dist.get_world_size()
    return _environment()


def _environment() -> tuple[int, int]:
    """Rank and number of processes, as a launcher says them."""
    given = {name: os.environ.get(name) for name in ("RANK", "WORLD_SIZE")}
    if set(given.values()) == {None}:
        return 0, 1
    try:
        rank, size = (int(given[name] or "") for name in given)
    except ValueError:
        rank, size = -1, 0
    if not 0 <= rank < size:
        told = ", ".join(f"{name}={value}" for name, value in given.items())
        raise NasaInterpError(f"{told} don't say which process this is; start it with torchrun, or unset both")
    return rank, size
