"""Equality of transformers: PyTerrier runs common stages of pipelines once if they are equal."""

from __future__ import annotations

from collections.abc import Hashable


class EqualByIdentity:
    """Objects of a class are equal if their ``_identity()``, everything that changes their results, is equal."""

    def _identity(self) -> Hashable:
        raise NotImplementedError

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, EqualByIdentity) or type(self) is not type(other):
            return NotImplemented
        return self._identity() == other._identity()

    def __hash__(self) -> int:
        return hash((type(self), self._identity()))
