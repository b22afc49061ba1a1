"""Exact search on several workers: each searches a range of the documents, and the best of all are merged."""

from __future__ import annotations

import itertools
import platform
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from pyterrier_merge.executor import Executor
from pyterrier_merge.progress import progress
from pyterrier_merge.retrieval.dense.ranking import best_first
from pyterrier_merge.retrieval.dense.search import SPARE, queries_at_once, search
from pyterrier_merge.retrieval.dense.vectors import FloatArray, IntArray, StoredVectors, read_metadata


@dataclass(frozen=True)
class RangeSearch:
    """Searches a range of an index that all nodes see.

    Attributes:
        folder: Of the index.
        identity: Of its content.
        queries: ``(n_queries, dim)`` float32.
        k: Documents a query.
        devices: Torch devices of a worker.
    """

    folder: Path
    identity: str
    queries: FloatArray
    k: int
    devices: tuple[str, ...]

    def __call__(self, rows: range) -> tuple[FloatArray, IntArray]:
        """Return scores and places in the whole index, ``(n_queries, min(k, len(rows)))`` each, best first.

        Raises:
            RuntimeError: This node does not see the index, or it was overwritten during the search.
        """
        metadata = read_metadata(self.folder)
        vectors = None if metadata is None else StoredVectors(self.folder, metadata)
        if vectors is None or vectors.identity != self.identity:
            raise RuntimeError(
                f"{platform.node()} does not see the index {self.folder}, or it was overwritten during the search: put "
                "it into a folder that all nodes see"
            )
        scores, docids = search(vectors.part(rows), self.queries, self.k, devices=self.devices, verbose=False)
        return scores, docids + rows.start


def search_ranges(
    vectors: StoredVectors,
    queries: FloatArray,
    k: int,
    executor: Executor,
    *,
    devices: tuple[str, ...] = ("cpu",),
    verbose: bool | None = None,
) -> tuple[FloatArray, IntArray]:
    """Return what :func:`~pyterrier_merge.retrieval.dense.search.search` does, to the bit.

    Args:
        vectors: The index.
        queries: ``(n_queries, dim)`` float32.
        k: Documents a query.
        executor: Each of its workers searches a range of the documents.
        devices: Torch devices of a worker.
        verbose: Show a progress bar; in terminals and notebooks when None.
    """
    bounds = np.linspace(0, vectors.shape[0], min(executor.workers, vectors.shape[0]) + 1).astype(int).tolist()
    ranges = [range(start, stop) for start, stop in itertools.pairwise(bounds)]
    found, step = [], queries_at_once(k + SPARE)
    for start in progress(range(0, len(queries), step), desc="searching", unit="batch", verbose=verbose):
        batch = queries[start : start + step]
        work = RangeSearch(vectors.folder.resolve(), vectors.identity, batch, k, devices)
        best: tuple[FloatArray, IntArray] | None = None
        for scores, docids in executor.map(work, ranges):
            best = (scores, docids) if best is None else _merged(vectors, best, (scores, docids), k)
        assert best is not None  # noqa: S101 (an index has documents)
        found.append(best)
    scores, docids = map(np.concatenate, zip(*found, strict=True))
    return scores, docids


def _merged(
    vectors: StoredVectors, one: tuple[FloatArray, IntArray], other: tuple[FloatArray, IntArray], k: int
) -> tuple[FloatArray, IntArray]:
    scores, docids = np.hstack([one[0], other[0]]), np.hstack([one[1], other[1]])
    rows = np.repeat(np.arange(len(scores)), scores.shape[1])
    best = best_first(vectors, rows, docids.ravel(), scores.ravel()).reshape(scores.shape)[:, :k]
    return scores.ravel()[best], docids.ravel()[best]
