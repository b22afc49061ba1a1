"""The interface of executors of work items, and an executor in this process."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any, Protocol, TypeVar

Item = TypeVar("Item")
Made = TypeVar("Made")


class Executor(Protocol):
    """Maps a function over work items. Both must be picklable, so that other processes can take items."""

    @property
    def workers(self) -> int:
        """Number of items that run at a time. If it is 1, work that is faster together should be a single item."""

    @property
    def retries(self) -> int:
        """How often items ran again because their worker was lost."""

    def map(self, work: Callable[[Item], Made], items: Iterable[Item]) -> Iterator[Made]:
        """Yield the result of ``work`` for each item, in order. Items are read only when they are needed."""


class InProcess:
    """Runs items one after the other in this process."""

    workers = 1
    retries = 0

    def map(self, work: Callable[[Item], Made], items: Iterable[Item]) -> Iterator[Made]:
        """Yield the result of ``work`` for each item; each is computed on demand."""
        return map(work, items)


class LostItemError(RuntimeError):
    """An item lost its worker too often, so it is probably the item that kills workers."""

    def __init__(self, number: int, item: Any, attempts: int, reason: str) -> None:
        """Write the message.

        Args:
            number: Number of the item, from 0.
            item: The item.
            attempts: How often it ran.
            reason: What happened to the last worker.
        """
        super().__init__(f"work item {number + 1} has lost its worker {attempts} times: {reason}")
        self.item = item
