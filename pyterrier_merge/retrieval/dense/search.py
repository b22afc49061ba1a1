"""Exact search by inner product on any devices, with ties in a fixed order."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from pyterrier_merge.progress import progress
from pyterrier_merge.retrieval.dense.exact_search import rough_best
from pyterrier_merge.retrieval.dense.ranking import best_first, inner_products
from pyterrier_merge.retrieval.dense.vectors import FloatArray, IntArray, StoredVectors, norms

CANDIDATES = 1 << 21  # (query, document) pairs that are held at once: about 60 MB
QUERIES = 1 << 12  # that are searched at once
SPARE = 32  # candidates beyond the cut-off, so that few queries have to be searched again


def search(
    vectors: StoredVectors,
    queries: FloatArray,
    k: int,
    *,
    devices: Sequence[str] = ("cpu",),
    spare: int = SPARE,
    verbose: bool | None = None,
) -> tuple[FloatArray, IntArray]:
    """Return the scores and the places of the ``k`` best documents, each ``(n_queries, min(k, n_docs))``, best first.

    Matrix products select somewhat more than ``k`` candidates; these are scored again, one by one, and sorted. A query
    whose candidates may not hold all documents that rounding, or a tie, could bring among the best, is searched again
    with more of them. So neither the devices nor the other queries change a result, to the last bit of its score.

    Args:
        vectors: The index.
        queries: ``(n_queries, dim)`` float32.
        k: Documents a query.
        devices: Torch devices; the documents are split over them.
        spare: Candidates beyond ``k``.
        verbose: Show a progress bar; in terminals and notebooks when None.
    """
    n_docs, _ = vectors.shape
    depth = min(k + spare, n_docs)
    rows = queries_at_once(depth)
    scores = np.empty((len(queries), min(k, n_docs)), dtype=np.float32)
    docids = np.empty(scores.shape, dtype=np.int64)
    for start in progress(range(0, len(queries), rows), desc="searching", unit="batch", verbose=verbose):
        batch = slice(start, start + rows)
        rough, candidates = rough_best(vectors, queries[batch], depth, devices)
        scores[batch], docids[batch] = rescored(vectors, queries[batch], candidates, k)
        unsettled = start + np.flatnonzero(~_settled(vectors, queries[batch], rough, k))
        if len(unsettled):
            again = search(vectors, queries[unsettled], k, devices=devices, spare=8 * spare)
            scores[unsettled], docids[unsettled] = again
    return scores, docids


def queries_at_once(depth: int) -> int:
    """Return how many queries are searched together if each has ``depth`` candidates."""
    return min(QUERIES, max(1, CANDIDATES // depth))


def rescored(vectors: StoredVectors, queries: FloatArray, candidates: IntArray, k: int) -> tuple[FloatArray, IntArray]:
    """Score candidates with the stored vectors and return the ``k`` best of each query, ties by docno.

    Args:
        vectors: The index.
        queries: ``(n_queries, dim)`` float32.
        candidates: ``(n_queries, n)`` places of documents; -1 where there is none, which come last.
        k: Documents a query.
    """
    rows, docids = np.repeat(np.arange(len(queries)), candidates.shape[1]), candidates.ravel()
    scores = inner_products(vectors, queries, rows, docids)
    best = best_first(vectors, rows, docids, scores).reshape(candidates.shape)[:, :k]
    return scores[best], docids[best]


def _settled(vectors: StoredVectors, queries: FloatArray, rough: FloatArray, k: int) -> npt.NDArray[np.bool_]:
    """Say of which queries no document outside the candidates can be among the ``k`` best."""
    n_docs, dim = vectors.shape
    if rough.shape[1] == n_docs:
        return np.ones(len(queries), dtype=bool)
    # rounding errors of an inner product grow with the root of its length (Higham and Mary, SISC 41, 2019)
    rounding = 4 * np.sqrt(dim) * np.finfo(np.float32).eps
    # of numbers below the smallest normal one, a device may keep fewer bits, or none
    underflow = dim * float(np.finfo(np.float32).tiny)
    margin = rounding * vectors.largest_norm * norms(queries) + underflow
    settled: npt.NDArray[np.bool_] = rough[:, -1] < rough[:, k - 1] - margin
    return settled
