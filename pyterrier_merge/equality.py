"""When two transformers are the same: PyTerrier computes what equal stages have in common once."""

from __future__ import annotations

from collections.abc import Hashable


class EqualByIdentity:
    """Equal to another of its class whose ``_identity()``, all that changes its results, is equal."""

    def _identity(self) -> Hashable:
        raise NotImplementedError

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, EqualByIdentity) or type(self) is not type(other):
            return NotImplemented
        return self._identity() == other._identity()

    def __hash__(self) -> int:
        return hash((type(self), self._identity()))
