"""The transformer that scores given documents: re-ranking with stored vectors."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

import numpy as np
import pandas as pd
import pyterrier as pt

from pyterrier_merge.equality import EqualByIdentity
from pyterrier_merge.retrieval.dense.ranking import best_first, inner_products
from pyterrier_merge.retrieval.dense.vectors import stack_vectors
from pyterrier_merge.schematic import labelled

if TYPE_CHECKING:
    from pyterrier_merge.retrieval.dense.index import FaissIndex


class FaissScorer(EqualByIdentity, pt.Transformer):
    """Scores the documents that come with each query: ``encoder.query_encoder() >> index.scorer()``.

    Scores are those of :class:`~pyterrier_merge.retrieval.dense.retriever.FaissRetriever`, to the last bit.
    """

    schematic: ClassVar = labelled("FaissScorer")

    def __init__(self, index: FaissIndex, *, drop_query_vec: bool = False) -> None:
        """Describe the scorer; the index is opened at the first frame with a row.

        Args:
            index: Holds the documents' vectors.
            drop_query_vec: Leave ``query_vec`` out of the results.
        """
        self.index = index
        self.drop_query_vec = drop_query_vec

    def transform(self, inp: pd.DataFrame) -> pd.DataFrame:
        """Set ``score`` and ``rank`` (from 0), and sort the rows by them: the queries in their order, ties by docno.

        Other columns are kept. The vector of a query is that of its first row.

        Raises:
            FileNotFoundError: The index is not built.
            ValueError: A docno that is not in the index; a query vector of a wrong dimension, not finite, or
                another encoder's.
            ImportError: faiss is not installed.
        """
        pt.validate.result_frame(inp, extra_columns=["query_vec"], context=self)
        results = inp.drop(columns=["score", "rank", *(["query_vec"] if self.drop_query_vec else [])], errors="ignore")
        if inp.empty:
            return results.assign(score=pd.Series(dtype=np.float32), rank=pd.Series(dtype=np.int64))
        docids = self.index.docids(inp["docno"].tolist())
        vectors = self.index.open()
        rows, qids = pd.factorize(inp["qid"])
        first = np.flatnonzero(~inp["qid"].duplicated())
        owners = [f"query {qid!r}" for qid in qids]
        asked = inp["query_vec"].iloc[first]
        self.index.require_encoder_of(asked)
        queries = stack_vectors(owners, asked, vectors.shape[1])
        scores = inner_products(vectors, queries, rows, docids)
        order = best_first(vectors, rows, docids, scores)
        starts = np.searchsorted(rows[order], np.arange(len(qids)))
        ranks = np.arange(len(order)) - starts[rows[order]]
        ranked = results.iloc[order].reset_index(drop=True)
        return ranked.assign(score=scores[order], rank=ranks + pt.model.FIRST_RANK)

    def fuse_left(self, left: pt.Transformer) -> None:
        """Refuse, when a pipeline is compiled, an encoder other than the one that the documents were encoded with.

        Raises:
            ValueError: Both fingerprints are known, and they differ.
        """
        self.index.require_encoder_before(left)

    def _identity(self) -> tuple[FaissIndex, bool]:
        return self.index, self.drop_query_vec

    def __str__(self) -> str:
        return f"{self.index.path.stem}.scorer()"

    def __repr__(self) -> str:
        return f"{self.index!r}.scorer()"
