"""Draws that are the same everywhere: Python promises it for `Random.random`, not for `shuffle` and `choice`."""

from collections.abc import Iterable, Sequence
from random import Random
from typing import TypeVar

Item = TypeVar("Item")


def shuffled(items: Iterable[Item], rng: Random) -> list[Item]:
    """The items in a drawn order."""
    return sorted(items, key=lambda _: rng.random())


def pick(items: Sequence[Item], rng: Random) -> Item:
    """One of the items."""
    return items[int(rng.random() * len(items))]
