"""A dense index: where vectors are stored, and where retriever and scorer come from."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pandas as pd
import pyterrier as pt

from pyterrier_merge.encoding.encoded_vector import encoders_of
from pyterrier_merge.equality import EqualByIdentity
from pyterrier_merge.executor import Executor
from pyterrier_merge.retrieval.dense.build import part_folder
from pyterrier_merge.retrieval.dense.indexer import FaissIndexer
from pyterrier_merge.retrieval.dense.retriever import EXACT, FaissRetriever
from pyterrier_merge.retrieval.dense.scorer import FaissScorer
from pyterrier_merge.retrieval.dense.shards import Document, encoder_model
from pyterrier_merge.retrieval.dense.structure import structures
from pyterrier_merge.retrieval.dense.vec_loader import FaissVecLoader
from pyterrier_merge.retrieval.dense.vectors import (
    ARTIFACT_TYPE,
    FORMATS,
    METADATA,
    IntArray,
    StoredVectors,
    read_metadata,
)
from pyterrier_merge.schematic import labelled
from pyterrier_merge.storage import user_path

NAMED = 3  # missing docnos that an error names


class FaissIndex(EqualByIdentity, pt.Artifact, pt.Indexer):
    """A dense index on disk, in the FLEX layout: in float32, ``pyterrier_dr.FlexIndex(path)`` opens it too.

    ``(encoder >> index).index(documents)`` builds it, and ``encoder >> index.retriever()`` searches it. Indexing is
    atomic and resumable: the index appears when it is complete, and a killed job, started again, encodes only what the
    finished shards lack. An object serves what is on disk now, also after the index was overwritten.
    """

    ARTIFACT_TYPE = ARTIFACT_TYPE
    ARTIFACT_FORMAT = FORMATS["float32"].name

    schematic: ClassVar = labelled("FaissIndex")

    def __init__(self, path: str | Path, *, dtype: str = "float32", verbose: bool | None = None) -> None:
        """Name an index; no file is touched.

        Args:
            path: The folder of the index, which need not exist yet.
            dtype: What vectors are stored in when it is built: ``float32``, or ``float16``, which takes half the disk
                and is searched in float32 all the same. A finished index has its own: ``metadata["vec_dtype"]``.
            verbose: Show a progress bar when indexing, and when building a structure; in terminals and
                notebooks when None.

        Raises:
            ValueError: An unknown dtype.
        """
        if dtype not in FORMATS:
            raise ValueError(f"unknown dtype {dtype!r}: choose one of {', '.join(FORMATS)}")
        self.path: Path = user_path(path)
        super().__init__(self.path)
        self.dtype = dtype
        self.verbose = verbose
        self._opened: tuple[tuple[int, int] | None, StoredVectors] | None = None

    def built(self) -> bool:
        """Whether a finished index stands at the path."""
        return read_metadata(self.path) is not None

    @property
    def metadata(self) -> dict[str, Any]:
        """What ``pt_meta.json`` says: ``doc_count``, ``vec_size``, ``bytes``, ``truncated``, ``encoder`` and more."""
        if (found := read_metadata(self.path)) is None:
            part = read_metadata(part_folder(self.path))
            begun = f"; {part['doc_count']} documents of an unfinished one are kept" if part else ""
            raise FileNotFoundError(
                f"no finished index at {self.path}{begun}: build it with (encoder >> index).index(documents)"
            )
        return found

    @property
    def fingerprint(self) -> str | None:
        """Sixteen hexadecimal digits of the content; None where nothing is built, or pyterrier_dr built it."""
        return self.metadata.get("fingerprint") if self.built() else None

    @property
    def structures(self) -> list[dict[str, Any]]:
        """The FAISS structures that are kept: ``factory``, ``seed``, ``bytes``, ``build_seconds``, ``trained_with``."""
        return structures(self.open())

    def index_inputs(self) -> list[list[str]]:
        """The columns that documents have."""
        return self.indexer().index_inputs()

    def index(self, documents: Iterable[Document] | pd.DataFrame) -> FaissIndex:  # type: ignore[override]
        """Index documents with ``docno`` and ``doc_vec``, or go on with that: see :meth:`FaissIndexer.index`."""
        return self.indexer().index(documents)

    def indexer(
        self,
        *,
        mode: str = "create",
        encoder: pt.Transformer | None = None,
        shard_size: int = 1_000,
        executor: Executor | None = None,
    ) -> FaissIndexer:
        """Return an indexer with other settings: see :class:`FaissIndexer`."""
        return FaissIndexer(self, mode=mode, encoder=encoder, shard_size=shard_size, executor=executor)

    def retriever(
        self,
        num_results: int = 1_000,
        *,
        factory: str = EXACT,
        nprobe: int | None = None,
        ef_search: int | None = None,
        candidates: int | None = None,
        seed: int = 0,
        device: str | Sequence[str] | None = None,
        drop_query_vec: bool = False,
        executor: Executor | None = None,
        verbose: bool | None = None,
    ) -> FaissRetriever:
        """Return a transformer that searches this index, exactly or by a structure: see :class:`FaissRetriever`."""
        return FaissRetriever(
            self,
            num_results,
            factory=factory,
            nprobe=nprobe,
            ef_search=ef_search,
            candidates=candidates,
            seed=seed,
            device=device,
            drop_query_vec=drop_query_vec,
            executor=executor,
            verbose=verbose,
        )

    def scorer(self, *, drop_query_vec: bool = False) -> FaissScorer:
        """Return a transformer that scores given documents: see :class:`FaissScorer`."""
        return FaissScorer(self, drop_query_vec=drop_query_vec)

    def vec_loader(self) -> FaissVecLoader:
        """Return a transformer that adds the vectors of given documents: see :class:`FaissVecLoader`."""
        return FaissVecLoader(self)

    def docids(self, docnos: Sequence[str]) -> IntArray:
        """Return the places of documents in the index, ``(len(docnos),)``.

        Raises:
            ValueError: A docno that is not in the index.
        """
        docids = self.open().docids(docnos)
        if len(missing := np.flatnonzero(docids < 0)):
            named = ", ".join(repr(docnos[place]) for place in missing[:NAMED])
            raise ValueError(
                f"{len(missing)} of {len(docids)} rows have documents that are not in {self!r}: {named} ...; "
                "give documents of the collection that was indexed"
            )
        return docids

    def fuse_left(self, left: pt.Transformer) -> FaissIndexer | None:
        """Take in the encoder before this index in a pipeline."""
        return self.indexer().fuse_left(left)

    def open(self) -> StoredVectors:
        """Return the vectors that stand at the path now, mapped: they stay what they are when it is overwritten.

        Raises:
            FileNotFoundError: No finished index is there.
            RuntimeError: The vectors are damaged.
        """
        while self._opened is None or self._opened[0] != self._stamp():
            stamp = self._stamp()
            try:
                vectors = StoredVectors(self.path, self.metadata)
                _ = vectors.matrix, vectors.names  # of the same index as the metadata, or the stamp has changed by now
            except (OSError, RuntimeError, ValueError):
                if stamp == self._stamp():
                    raise
                continue  # it was overwritten in between
            self._opened = stamp, vectors
        return self._opened[1]

    def _stamp(self) -> tuple[int, int] | None:
        file = self.path / METADATA
        return (file.stat().st_ino, file.stat().st_mtime_ns) if file.is_file() else None

    def require_encoder(self, found: str | None) -> None:
        """Refuse queries of an encoder other than the one that the documents were encoded with.

        Args:
            found: Fingerprint of the queries' encoder; None where it is not known.

        Raises:
            ValueError: Both fingerprints are known, and they differ.
        """
        indexed = self.metadata.get("encoder") if found else None
        if indexed and found != indexed:
            name = self.metadata.get("encoder_name")
            raise ValueError(
                f"{self!r} was encoded with {indexed}, the queries with {found}: "
                f"search with the same encoder{f', {name},' if name else ''} or index the documents with this one"
            )

    def require_encoder_of(self, vectors: Iterable[Any]) -> None:
        """Refuse query vectors as :meth:`require_encoder` does: those of this package's encoders know their own."""
        for found in encoders_of(vectors):
            self.require_encoder(found)

    def require_encoder_before(self, left: pt.Transformer) -> None:
        """Refuse the encoder ``left`` of a pipeline as :meth:`require_encoder` does, where the index is built."""
        if self.built() and self.metadata.get("encoder"):
            self.require_encoder(getattr(encoder_model(left), "fingerprint", None))

    def __getstate__(self) -> dict[str, Any]:
        """What a copy or another process gets: the settings; it opens the files itself."""
        return {**self.__dict__, "_opened": None}

    def __len__(self) -> int:
        return self.open().shape[0]

    def __bool__(self) -> bool:
        return True  # an index without documents is an index all the same

    def _identity(self) -> tuple[Path, str | None]:
        return self.path, self.fingerprint

    def __repr__(self) -> str:
        dtype = "" if self.dtype == "float32" else f", dtype={self.dtype!r}"
        return f"FaissIndex({str(self.path)!r}{dtype})"
