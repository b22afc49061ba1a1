"""Where work items run: in this process."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Protocol, TypeVar

Item = TypeVar("Item")
Made = TypeVar("Made")


class Executor(Protocol):
    """Maps a function over work items. Both must be picklable, so that other processes can take items."""

    @property
    def workers(self) -> int:
        """How many items run at a time. With one, work that gains by staying together is a single item."""

    def map(self, work: Callable[[Item], Made], items: Iterable[Item]) -> Iterator[Made]:
        """Yield what ``work`` makes of each item, in the order of the items."""


class InProcess:
    """Runs one item after the other in this process."""

    workers = 1

    def map(self, work: Callable[[Item], Made], items: Iterable[Item]) -> Iterator[Made]:
        """Yield what ``work`` makes of each item, when it is asked for."""
        return map(work, items)
