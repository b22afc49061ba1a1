"""Exact search by inner product, with ties in a fixed order. The only importer of faiss."""

from __future__ import annotations

from types import ModuleType

import numpy as np
import numpy.typing as npt
import pyterrier as pt

from pyterrier_merge.retrieval.vectors import FloatArray, StoredVectors

CANDIDATES = 1 << 21  # (query, document) pairs that are held at once: about 60 MB
SPARE = 32  # candidates beyond the cut-off, so that few queries have to be searched again


def search(
    vectors: StoredVectors, queries: FloatArray, k: int, *, spare: int = SPARE, verbose: bool = False
) -> tuple[FloatArray, npt.NDArray[np.int64]]:
    """Return the scores and the places of the ``k`` best documents, each ``(n_queries, min(k, n_docs))``, best first.

    faiss computes scores with matrix products, whose last bits depend on what else is in the matrix. So it selects
    somewhat more than ``k`` candidates; these are scored again, one by one, and sorted. A query whose candidates may
    not hold all documents that rounding, or a tie, could bring among the best, is searched again with more of them.

    Args:
        vectors: The index.
        queries: ``(n_queries, dim)`` float32.
        k: Documents a query.
        spare: Candidates beyond ``k``.
        verbose: Show a progress bar.
    """
    n_docs, _ = vectors.shape
    depth = min(k + spare, n_docs)
    rows = max(1, CANDIDATES // depth)
    scores = np.empty((len(queries), min(k, n_docs)), dtype=np.float32)
    docids = np.empty(scores.shape, dtype=np.int64)
    for start in pt.tqdm(range(0, len(queries), rows), desc="searching", unit="batch", disable=not verbose):
        batch = slice(start, start + rows)
        scores[batch], docids[batch], settled = _search_batch(vectors, queries[batch], k, depth)
        unsettled = start + np.flatnonzero(~settled)
        if len(unsettled):
            scores[unsettled], docids[unsettled] = search(vectors, queries[unsettled], k, spare=8 * spare)
    return scores, docids


def _search_batch(
    vectors: StoredVectors, queries: FloatArray, k: int, depth: int
) -> tuple[FloatArray, npt.NDArray[np.int64], npt.NDArray[np.bool_]]:
    faiss = _import_faiss()
    n_docs, dim = vectors.shape
    rough, docids = faiss.knn(queries, vectors.matrix, depth, metric=faiss.METRIC_INNER_PRODUCT)
    if depth < n_docs:
        # rounding errors of an inner product grow with the root of its length (Higham and Mary, SISC 41, 2019)
        rounding = 4 * np.sqrt(dim) * np.finfo(np.float32).eps
        margin = rounding * vectors.largest_norm * np.linalg.norm(queries, axis=1)
        settled = rough[:, -1] < rough[:, k - 1] - margin
    else:
        settled = np.ones(len(queries), dtype=bool)

    scores = np.empty_like(rough)
    pointers = (faiss.swig_ptr(array) for array in (scores, queries, vectors.matrix, docids))
    faiss.fvec_inner_products_by_idx(*pointers, dim, len(queries), depth)
    best = np.lexsort((vectors.docno_order[docids], -scores), axis=-1)[:, :k]
    return np.take_along_axis(scores, best, axis=1), np.take_along_axis(docids, best, axis=1), settled


def _import_faiss() -> ModuleType:
    try:
        import faiss
    except ImportError as error:
        raise ImportError(
            "exact search needs faiss: pip install 'pyterrier-merge[cpu]', or 'pyterrier-merge[gpu]' with an NVIDIA GPU"
        ) from error
    return faiss
