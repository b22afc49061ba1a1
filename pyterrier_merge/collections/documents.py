"""An iterator over a collection's documents that knows how many are left."""

from __future__ import annotations

from collections.abc import Callable, Iterator


class Documents(Iterator[dict[str, str]]):
    """A collection's documents; ``operator.length_hint`` gives the number of remaining ones."""

    def __init__(self, documents: Iterator[dict[str, str]], count: Callable[[], int]) -> None:
        """Begin with the first document; nothing is counted or read yet."""
        self._documents = documents
        self._count = count
        self._given = 0

    def __next__(self) -> dict[str, str]:
        document = next(self._documents)
        self._given += 1
        return document

    def __length_hint__(self) -> int:
        return max(0, self._count() - self._given)
