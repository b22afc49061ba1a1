"""A dense index: where vectors are stored, and the retriever that searches them."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pandas as pd
import pyterrier as pt

from pyterrier_merge.retrieval.indexer import Document, FaissIndexer, encoder_model
from pyterrier_merge.retrieval.search import search
from pyterrier_merge.retrieval.vectors import (
    ARTIFACT_FORMAT,
    ARTIFACT_TYPE,
    METADATA,
    PACKAGE_HINT,
    StoredVectors,
    part_folder,
    read_metadata,
    stack_vectors,
)


class FaissIndex(pt.Artifact, pt.Indexer):
    """A dense index on disk, in the FLEX layout: ``pyterrier_dr.FlexIndex(path)`` opens it too.

    Example::

        index = FaissIndex("indexes/nfcorpus-merged")
        (encoder >> index).index(corpus_iter)
        dense = encoder >> index.retriever(num_results=100)

    Indexing is atomic and resumable: the index appears when it is complete, and a killed job, started again, encodes
    only what the finished shards lack. An object serves what is on disk now, also after the index was overwritten.
    """

    ARTIFACT_TYPE = ARTIFACT_TYPE
    ARTIFACT_FORMAT = ARTIFACT_FORMAT
    ARTIFACT_PACKAGE_HINT = PACKAGE_HINT

    schematic: ClassVar = {"label": "FaissIndex"}

    def __init__(self, path: str | Path, *, verbose: bool = True) -> None:
        """Name an index; no file is touched.

        Args:
            path: The folder of the index, which need not exist yet.
            verbose: Show a progress bar when indexing.
        """
        super().__init__(path)
        self.path: Path = Path(path)
        self.verbose = verbose
        self._opened: tuple[tuple[int, int] | None, StoredVectors] | None = None

    def built(self) -> bool:
        """Whether a finished index stands at the path."""
        return read_metadata(self.path) is not None

    @property
    def metadata(self) -> dict[str, Any]:
        """What ``pt_meta.json`` says: ``doc_count``, ``vec_size``, ``bytes``, ``encoder``, ``fingerprint`` ..."""
        return self.open().metadata

    @property
    def fingerprint(self) -> str | None:
        """Sixteen hexadecimal digits of the content; None where nothing is built, or pyterrier_dr built it."""
        return self.metadata.get("fingerprint") if self.built() else None

    def index_inputs(self) -> list[list[str]]:
        """The columns that documents have."""
        return self.indexer().index_inputs()

    def index(self, documents: Iterable[Document] | pd.DataFrame) -> FaissIndex:  # type: ignore[override]
        """Index documents with ``docno`` and ``doc_vec``, or go on with that: see :meth:`FaissIndexer.index`."""
        return self.indexer().index(documents)

    def indexer(
        self, *, mode: str = "create", encoder: pt.Transformer | None = None, shard_size: int = 1_000
    ) -> FaissIndexer:
        """Return an indexer with other settings: see :class:`FaissIndexer`."""
        return FaissIndexer(self, mode=mode, encoder=encoder, shard_size=shard_size)

    def retriever(
        self, num_results: int = 1_000, *, drop_query_vec: bool = False, verbose: bool = False
    ) -> FaissRetriever:
        """Return a transformer that searches this index: see :class:`FaissRetriever`."""
        return FaissRetriever(self, num_results, drop_query_vec=drop_query_vec, verbose=verbose)

    def fuse_left(self, left: pt.Transformer) -> FaissIndexer | None:
        """Take in the encoder before this index in a pipeline."""
        return self.indexer().fuse_left(left)

    def open(self) -> StoredVectors:
        """Return the vectors that stand at the path now.

        Raises:
            FileNotFoundError: No finished index is there.
        """
        file = self.path / METADATA
        # taken before reading: should another job overwrite the index meanwhile, the next call reads again
        stamp = (file.stat().st_ino, file.stat().st_mtime_ns) if file.is_file() else None
        if self._opened is None or self._opened[0] != stamp:
            metadata = read_metadata(self.path)
            if metadata is None:
                part = read_metadata(part_folder(self.path))
                begun = f"; {part['doc_count']} documents of an unfinished one are kept" if part else ""
                raise FileNotFoundError(
                    f"no finished index at {self.path}{begun}: build it with (encoder >> index).index(documents)"
                )
            self._opened = (stamp, StoredVectors(self.path, metadata))
        return self._opened[1]

    def __len__(self) -> int:
        return self.open().shape[0]

    def __bool__(self) -> bool:
        return True  # an index without documents is an index all the same

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, FaissIndex):
            return NotImplemented
        return (self.path, self.fingerprint) == (other.path, other.fingerprint)

    def __hash__(self) -> int:
        return hash((FaissIndex, self.path, self.fingerprint))

    def __repr__(self) -> str:
        return f"FaissIndex({str(self.path)!r})"


class FaissRetriever(pt.Transformer):
    """Exact search by inner product: the ``num_results`` best documents of each query.

    Scores are float32; equal scores are ordered by docno, ascending, also at the cut-off. A document's score depends
    on its vector and the query's alone, neither on its place in the index nor on the other queries.
    """

    schematic: ClassVar = {"label": "FaissRetriever"}

    def __init__(
        self, index: FaissIndex, num_results: int = 1_000, *, drop_query_vec: bool = False, verbose: bool = False
    ) -> None:
        """Describe the search; the index is opened at the first query.

        Args:
            index: What to search.
            num_results: Documents a query at most; it may be more than there are.
            drop_query_vec: Leave ``query_vec`` out of the results.
            verbose: Show a progress bar.

        Raises:
            ValueError: ``num_results`` is below 1.
        """
        if num_results < 1:
            raise ValueError(f"num_results is at least 1, found {num_results!r}")
        self.index = index
        self.num_results = num_results
        self.drop_query_vec = drop_query_vec
        self.verbose = verbose

    def transform(self, inp: pd.DataFrame) -> pd.DataFrame:
        """Add ``docno``, ``docid``, ``score`` and ``rank`` (from 0) to queries with ``query_vec``.

        Raises:
            FileNotFoundError: The index is not built.
            ValueError: A query vector of a wrong dimension, or not finite.
            ImportError: faiss is not installed.
        """
        pt.validate.query_frame(inp, extra_columns=["query_vec"], context=self)
        queries = inp.drop(columns="query_vec") if self.drop_query_vec else inp
        if inp.empty:
            return queries.assign(
                docno=pd.Series(dtype=str),
                docid=pd.Series(dtype=np.int64),
                score=pd.Series(dtype=np.float32),
                rank=pd.Series(dtype=np.int64),
            )
        self._require_encoder(inp.attrs.get("query_encoder"))
        vectors = self.index.open()
        matrix = stack_vectors([f"query {qid!r}" for qid in inp["qid"]], inp["query_vec"], vectors.shape[1])
        scores, docids = search(vectors, matrix, self.num_results, verbose=self.verbose)
        hits = docids.shape[1]
        return (
            queries.iloc[np.repeat(np.arange(len(inp)), hits)]
            .reset_index(drop=True)
            .assign(
                docno=vectors.docnos[docids.ravel()],
                docid=docids.ravel(),
                score=scores.ravel(),
                rank=np.tile(np.arange(hits) + pt.model.FIRST_RANK, len(inp)),
            )
        )

    def fuse_rank_cutoff(self, k: int) -> FaissRetriever | None:
        """Return a retriever that stops at ``k``; itself where it does already."""
        if k < 1:
            return None
        if k >= self.num_results:
            return self
        return FaissRetriever(self.index, k, drop_query_vec=self.drop_query_vec, verbose=self.verbose)

    def fuse_left(self, left: pt.Transformer) -> None:
        """Refuse, when a pipeline is compiled, an encoder other than the one that the documents were encoded with.

        Raises:
            ValueError: Both fingerprints are known, and they differ.
        """
        if self.index.built() and self.index.metadata.get("encoder"):
            self._require_encoder(getattr(encoder_model(left), "fingerprint", None))

    def _require_encoder(self, found: str | None) -> None:
        indexed = self.index.metadata.get("encoder") if found else None
        if indexed and found != indexed:
            raise ValueError(
                f"{self.index!r} was encoded with {indexed}, the queries with {found}: "
                "search with the same encoder, or index the documents with this one"
            )

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, FaissRetriever):
            return NotImplemented
        return self._identity() == other._identity()

    def __hash__(self) -> int:
        return hash((FaissRetriever, *self._identity()))

    def _identity(self) -> tuple[FaissIndex, int, bool]:
        return self.index, self.num_results, self.drop_query_vec

    def __repr__(self) -> str:
        return f"{self.index!r}.retriever(num_results={self.num_results})"
