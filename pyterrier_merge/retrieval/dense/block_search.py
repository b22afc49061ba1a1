"""Searching a collection whose vectors come block by block, each seen once: the results are those of its index."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyterrier as pt

from pyterrier_merge.collections.identical_ids import without_identical_ids
from pyterrier_merge.retrieval.candidates import GivenCandidates
from pyterrier_merge.retrieval.dense.ranking import inner_products
from pyterrier_merge.retrieval.dense.search import search
from pyterrier_merge.retrieval.dense.vectors import FORMATS, FloatArray, IntArray, StoredVectors, stack_vectors

if TYPE_CHECKING:
    from pyterrier_merge.collections.base import TestCollection

NAMED = 3  # missing candidates that an error names


@dataclass(frozen=True)
class Ranked:
    """The best documents of each query among those that were seen: query by query, the best first, ties by docno.

    Attributes:
        rows: ``(n,)``: which query.
        scores: ``(n,)`` float32.
        names: ``(n,)`` docnos in UTF-8.
    """

    rows: IntArray
    scores: FloatArray
    names: npt.NDArray[np.bytes_]

    @classmethod
    def nothing(cls) -> Ranked:
        """What is best before a document was seen."""
        return cls(np.empty(0, np.int64), np.empty(0, np.float32), np.empty(0, "S1"))

    @classmethod
    def from_json(cls, content: dict[str, Any]) -> Ranked:
        """Return what :meth:`to_json` wrote."""
        names = np.array([name.encode() for name in content["docnos"]], dtype=np.bytes_)
        found = cls(np.array(content["rows"], np.int64), np.array(content["scores"], np.float32), names)
        if not found.rows.shape == found.scores.shape == names.shape:
            raise ValueError("lists of different lengths")
        return found

    def to_json(self) -> dict[str, Any]:
        """Return it as lists; float32 scores come back to the bit."""
        docnos = [name.decode() for name in self.names.tolist()]
        return {"rows": self.rows.tolist(), "scores": self.scores.tolist(), "docnos": docnos}

    def best_with(self, other: Ranked, k: int) -> Ranked:
        """Return the ``k`` best of each query in both."""
        rows, scores, names = (
            np.concatenate([getattr(one, field) for one in (self, other)]) for field in ("rows", "scores", "names")
        )
        order = np.lexsort((names, -scores, rows))
        places = np.arange(len(order)) - np.searchsorted(rows[order], rows[order])
        best = order[places < k]
        return Ranked(rows[best], scores[best], names[best])


class BlockSearch:
    """Ranks a collection's documents for some topics as the pipeline of ``dense_retriever`` does, without an index."""

    def __init__(self, collection: TestCollection, topics: pd.DataFrame, num_results: int) -> None:
        """Describe the search.

        Args:
            collection: Says whether queries come with candidates, and whether they find themselves.
            topics: ``qid`` and ``query``.
            num_results: Documents a query at most.
        """
        self._collection = collection
        self._topics = topics
        self._num_results = num_results
        drops = collection.ignore_identical_ids and not collection.reranking
        self._depth = num_results + drops

    def add(self, best: Ranked, docnos: Sequence[str], vectors: FloatArray, queries: FloatArray) -> Ranked:
        """Return the best documents of those before and of one more block.

        Args:
            best: Of the blocks before.
            docnos: Of the block's documents.
            vectors: Theirs, ``(n_docs, dim)`` float32.
            queries: Of the topics, in their order.

        Raises:
            ValueError: A vector is not finite, or so long that inner products overflow.
        """
        block = VectorsInMemory(docnos, vectors)
        owners = [f"query {qid!r}" for qid in self._topics["qid"]]
        asked = stack_vectors(owners, queries, block.shape[1])
        if self._collection.reranking:
            docids = block.docids(self._candidates["docno"].tolist())
            rows, docids = self._candidate_rows[docids >= 0], docids[docids >= 0]
            scores = inner_products(block, asked, rows, docids)
        else:
            found, places = search(block, asked, self._depth)
            rows, docids, scores = np.repeat(np.arange(len(asked)), found.shape[1]), places.ravel(), found.ravel()
        return best.best_with(Ranked(rows, scores, block.names[docids]), self._depth)

    def require_candidates(self, docnos: Collection[str]) -> None:
        """Raise ``ValueError`` where a document that is to be ranked is not among those of the collection."""
        missing = [docno for docno in self._candidates["docno"] if docno not in docnos]
        if missing:
            raise ValueError(
                f"{len(missing)} candidates of {self._collection.name} are no documents of it: "
                f"{', '.join(map(repr, missing[:NAMED]))} ..."
            )

    def results(self, best: Ranked) -> pd.DataFrame:
        """Return ``qid``, ``docno``, ``score`` and ``rank`` of what was best in all blocks."""
        ranks = np.arange(len(best.rows)) - np.searchsorted(best.rows, best.rows)
        found = pd.DataFrame(
            {
                "qid": self._topics["qid"].to_numpy()[best.rows],
                "docno": [name.decode() for name in best.names.tolist()],
                "score": best.scores,
                "rank": ranks + pt.model.FIRST_RANK,
            }
        )
        drops = self._depth > self._num_results
        return without_identical_ids(found, self._num_results) if drops else found

    @cached_property
    def _candidates(self) -> pd.DataFrame:
        if not self._collection.reranking:
            return pd.DataFrame(columns=["qid", "docno"])
        return GivenCandidates(self._collection).transform(self._topics)

    @cached_property
    def _candidate_rows(self) -> IntArray:
        return pd.Index(self._topics["qid"]).get_indexer(self._candidates["qid"])


class VectorsInMemory(StoredVectors):
    """Vectors that are in no index yet, for searching."""

    def __init__(self, docnos: Sequence[str], vectors: FloatArray) -> None:
        """Take documents.

        Args:
            docnos: Unique names.
            vectors: ``(n_docs, dim)`` float32.

        Raises:
            ValueError: A vector is not finite, or so long that inner products overflow.
        """
        stacked = stack_vectors([f"document {docno!r}" for docno in docnos], vectors, vectors.shape[1])
        shape = {"doc_count": len(docnos), "vec_size": vectors.shape[1]}
        super().__init__(Path(), {**shape, "format": FORMATS["float32"].name})
        names = np.array([docno.encode() for docno in docnos], dtype=np.bytes_)
        vars(self).update(matrix=stacked, names=names)  # cached properties of an index
