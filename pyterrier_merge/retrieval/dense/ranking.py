"""Scores that depend on two vectors alone, and an order without chance: what every search ends with."""

from __future__ import annotations

import numpy as np

from pyterrier_merge.retrieval.dense.faiss_library import import_faiss
from pyterrier_merge.retrieval.dense.vectors import BLOCK_BYTES, FloatArray, IntArray, StoredVectors


def inner_products(vectors: StoredVectors, queries: FloatArray, rows: IntArray, docids: IntArray) -> FloatArray:
    """Return the inner products of pairs, computed one by one in float32.

    A matrix product's last bits depend on what else is in the matrix; these depend on the two vectors alone.

    Args:
        vectors: The index.
        queries: ``(n_queries, dim)`` float32.
        rows: ``(n_pairs,)``: which query.
        docids: ``(n_pairs,)``: which document; where it is -1 there is none, and the score is minus infinity.
    """
    faiss = import_faiss()
    dim = vectors.shape[1]
    scores = np.full(len(docids), -np.inf, dtype=np.float32)
    whole = vectors.matrix.dtype == np.float32
    step = max(1, len(docids) if whole else BLOCK_BYTES // (dim * 4))
    for start in range(0, len(docids), step):
        some = slice(start, start + step)
        documents, places = (vectors.matrix, docids[some]) if whole else _gathered(vectors, docids[some])
        pairs = (np.ascontiguousarray(queries), np.ascontiguousarray(rows[some]), documents, places, scores[some])
        faiss.pairwise_indexed_inner_product(dim, len(places), *map(faiss.swig_ptr, pairs))
    return scores


def best_first(vectors: StoredVectors, rows: IntArray, docids: IntArray, scores: FloatArray) -> IntArray:
    """Return the order of pairs: query by query, the highest score first, equal scores by docno, ascending.

    Docnos are looked up only where scores are equal.

    Args:
        vectors: The index.
        rows: ``(n_pairs,)``: which query.
        docids: ``(n_pairs,)``: which document.
        scores: ``(n_pairs,)``.
    """
    order = np.lexsort((-scores, rows))
    row, score = rows[order], scores[order]
    same = (row[1:] == row[:-1]) & (score[1:] == score[:-1])
    tied = np.flatnonzero(np.append(same, False) | np.append(False, same))
    among = order[tied]
    names = vectors.names[docids[among]].astype(np.bytes_)  # lexsort takes no objects
    order[tied] = among[np.lexsort((names, -scores[among], rows[among]))]
    return order


def _gathered(vectors: StoredVectors, docids: IntArray) -> tuple[FloatArray, IntArray]:
    """Return the vectors of documents as float32, and their places among them."""
    return vectors.rows(docids), np.where(docids < 0, docids, np.arange(len(docids)))
