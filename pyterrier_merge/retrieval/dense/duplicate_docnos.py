"""Which docnos came before, in eight bytes each."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt


class SeenDocnos:
    """The hashes of docnos, in sorted runs that double in length: adding costs a logarithm of their number each.

    Attributes:
        count: Docnos that were added.
    """

    def __init__(self) -> None:
        """Begin with none."""
        self.count = 0
        self._runs: list[npt.NDArray[np.int64]] = []

    def add(self, docnos: Sequence[str]) -> None:
        """Remember docnos."""
        if not docnos:
            return
        run = np.sort(_hashes(docnos))
        self.count += len(run)
        while self._runs and len(self._runs[-1]) <= len(run):
            run = np.concatenate([self._runs.pop(), run])
            run.sort(kind="stable")  # merges what is sorted already
        self._runs.append(run)

    def suspects(self, docnos: Sequence[str]) -> list[str]:
        """Return those that may have come before: each that did, and one in 10^19 / ``count`` that did not."""
        hashes = _hashes(docnos)
        found = np.zeros(len(hashes), dtype=bool)
        for run in self._runs:
            places = np.searchsorted(run, hashes)
            found |= run[np.minimum(places, len(run) - 1)] == hashes
        return [docno for docno, suspect in zip(docnos, found, strict=True) if suspect]


def _hashes(docnos: Sequence[str]) -> npt.NDArray[np.int64]:
    return np.fromiter(map(hash, docnos), dtype=np.int64, count=len(docnos))
