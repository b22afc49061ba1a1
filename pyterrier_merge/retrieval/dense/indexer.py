"""Filling an index, so that a killed job goes on where it stopped and encodes nothing twice."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Mapping
from operator import length_hint
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import pandas as pd
import pyterrier as pt

from pyterrier_merge.collections.names import name_fault
from pyterrier_merge.executor import Executor, InProcess, LostItemError
from pyterrier_merge.fingerprint import fingerprint_texts
from pyterrier_merge.progress import progress
from pyterrier_merge.retrieval.dense.build import VectorBuild
from pyterrier_merge.retrieval.dense.shards import (
    Document,
    EncodedShard,
    Shard,
    ShardEncoder,
    ShardFolder,
    encoder_identity,
    encoder_model,
    given_vector,
)
from pyterrier_merge.retrieval.dense.vectors import read_metadata
from pyterrier_merge.schematic import labelled

if TYPE_CHECKING:
    from pyterrier_merge.retrieval.dense.index import FaissIndex

logger = logging.getLogger(__name__)

MODES = ("create", "overwrite")


class FaissIndexer(pt.Indexer):
    """Writes documents into a :class:`FaissIndex`, in shards that survive the job.

    Called again with the same documents, it skips those of the finished shards, after checking that their docnos and
    texts are what they were. It encodes by itself where the encoder is known: given as ``encoder``, or standing just
    before the index in ``encoder >> index``, in brackets after other stages: ``stages >> (encoder >> index)``. Then
    what is skipped is not encoded either.
    """

    schematic: ClassVar = labelled("FaissIndexer")

    def __init__(
        self,
        index: FaissIndex,
        *,
        mode: str = "create",
        encoder: pt.Transformer | None = None,
        shard_size: int = 1_000,
        executor: Executor | None = None,
    ) -> None:
        """Prepare the indexer; nothing is touched yet.

        Args:
            index: The index to fill.
            mode: ``create`` refuses to touch a finished index; ``overwrite`` replaces it, when the new one is complete.
            encoder: Adds ``doc_vec`` to documents, one row for each, in their order.
            shard_size: Documents that are encoded and made safe on disk together: what a killed job loses at most, of
                each process.
            executor: Where shards are encoded, if the encoder is known; in this process when None. With
                :class:`~pyterrier_merge.executor.OnRay` all nodes must see the folder of the index.

        Raises:
            ValueError: An unknown mode, or a shard without documents.
        """
        if mode not in MODES:
            raise ValueError(f"unknown mode {mode!r}: choose one of {', '.join(MODES)}")
        if shard_size < 1:
            raise ValueError(f"shard_size is at least 1, found {shard_size!r}")
        self._index = index
        self.mode = mode
        self.encoder = encoder
        self.shard_size = shard_size
        self.executor = executor

    def index_inputs(self) -> list[list[str]]:
        """The columns that documents have."""
        if self.encoder is None:
            return [["docno", "doc_vec"]]
        return [["docno", getattr(self.encoder, "text_field", "text")]]

    def index(  # type: ignore[override]
        self, documents: Iterable[Document] | pd.DataFrame, batch_size: int | None = None
    ) -> FaissIndex:
        """Index ``documents``, or those that an earlier call had not reached.

        Args:
            documents: Dictionaries, or a frame, with ``docno`` and ``doc_vec`` (``text`` where the encoder is known).
            batch_size: Stands in for ``shard_size``: PyTerrier's pipelines take it, and ``encoder >> index`` is one.

        Returns:
            The index, finished.

        Raises:
            FileExistsError: There is an index already and the mode is ``create``, or something that is not an index.
            ValueError: No document; a docno that is empty, no string, or not unique; no text; a vector of a wrong
                dimension, not finite, no numbers, or beyond the range of float16 where that is what is stored;
                documents, an encoder or a dtype other than those of the shards that are there; vectors of several
                encoders.
            IndexBusyError: Another process is building the index.
            OSError: The disk has no room: for all documents where ``len`` or ``operator.length_hint`` says how many
                they are (of ``corpus_iter()``, too), else for the next shard. Finished shards are kept.
            RuntimeError: The documents themselves raised an error, or a shard has killed its process three times.
        """
        if batch_size is not None:
            return self._copy(self.encoder, batch_size).index(documents)
        records: Any = documents.to_dict(orient="records") if isinstance(documents, pd.DataFrame) else documents
        identity = None if self.encoder is None else encoder_identity(self.encoder)
        name = None if identity is None or " at 0x" in repr(self.encoder) else repr(encoder_model(self.encoder))
        with VectorBuild(self._index.path, encoder=identity, encoder_name=name, dtype=self._index.dtype) as build:
            self._refuse_existing()
            done = build.count
            if done:
                logger.info("%s: resuming at document %d", self._index.path, done)
                if build.encoder is None:
                    logger.warning("%s: it was begun by an unknown encoder; was it this one?", self._index.path)
            total, executor = length_hint(records) or None, self._where(build)
            with progress(total=total, initial=done, desc="indexing", unit="doc", verbose=self._index.verbose) as bar:
                for shard in self._encoded(_naming_failures(records), build, total or 0, executor):
                    coming = max(len(shard.fingerprints), (total or 0) - build.count)
                    build.require_room(coming, dim=int(np.size(shard.vectors[0])))
                    build.append(shard.fingerprints, shard.vectors, truncated=shard.truncated)
                    bar.update(len(shard.fingerprints))
                    if not isinstance(executor, InProcess):
                        each = (bar.format_dict["rate"] or 0) / executor.workers
                        bar.set_postfix_str(
                            f"{each:.1f} doc/s of {executor.workers} workers, {executor.retries} retries"
                        )
            build.finish(overwrite=self.mode == "overwrite")
            if build.truncated:
                logger.info("%d of %d documents were too long for the encoder: cut", build.truncated, build.count)
        return self._index

    def fuse_left(self, left: pt.Transformer) -> FaissIndexer | None:
        """Take in the encoder before this indexer in a pipeline, so that what is indexed already is not encoded."""
        if self.encoder is not None or not hasattr(encoder_model(left), "encode_docs"):
            return None
        return self._copy(left, self.shard_size)

    def _copy(self, encoder: pt.Transformer | None, shard_size: int) -> FaissIndexer:
        return FaissIndexer(self._index, mode=self.mode, encoder=encoder, shard_size=shard_size, executor=self.executor)

    def _refuse_existing(self) -> None:
        path = self._index.path
        if not path.exists():
            return
        if read_metadata(path) is None:
            raise FileExistsError(
                f"{path} is not a dense index and is not overwritten: choose another path, or delete it"
            )
        if self.mode == "create":
            raise FileExistsError(
                f"{path} is a finished index: search it, choose another path, or use indexer(mode='overwrite')"
            )

    def _encoded(
        self, documents: Iterable[Document], build: VectorBuild, total: int, executor: Executor
    ) -> Iterator[EncodedShard]:
        """Yield the shards that are not in the build yet, with vectors."""
        encode, ahead = ShardEncoder(self.encoder), set[str]()
        shards = self._new_shards(documents, build, ahead, total)
        if isinstance(executor, InProcess):
            for encoded in executor.map(encode, shards):
                yield encoded
                ahead.difference_update(encoded.fingerprints)
            return
        files = ShardFolder(encode, build.shard_folder(), str(build.encoder))
        try:
            for name in executor.map(files, shards):
                encoded = files.take(name)
                yield encoded
                ahead.difference_update(encoded.fingerprints)
                files.drop(name)
        except LostItemError as error:
            docnos = list(error.item.fingerprints)
            raise RuntimeError(
                f"{error}; it has the documents {docnos[0]!r} to {docnos[-1]!r}, one of which may be too much for a "
                "process; the other shards are kept"
            ) from error

    def _where(self, build: VectorBuild) -> Executor:
        """Where shards are encoded: in this process where vectors alone can tell which encoder made them."""
        if self.executor is None or self.encoder is None:
            return InProcess()
        if build.encoder is None:
            logger.warning("%r has no fingerprint and no telling repr: it encodes in this process", self.encoder)
            return InProcess()
        return self.executor

    def _new_shards(
        self, documents: Iterable[Document], build: VectorBuild, ahead: set[str], total: int
    ) -> Iterator[Shard]:
        """Yield the documents that are not in the build yet, shard by shard; check all.

        Args:
            documents: All of them.
            build: Holds those that are safe on disk.
            ahead: Is given the docnos of what is yielded.
            total: Number of documents; 0 where it is not known.
        """
        indexed, done, place = build.entries(), build.count, -1
        shard: dict[str, Document] = {}
        for place, document in enumerate(documents):
            if not isinstance(document, Mapping):
                raise ValueError(f"document {place} is {document!r}, expected a mapping with 'docno'")  # noqa: TRY004
            if place < done:
                self._require_unchanged(place, document, *next(indexed), build)
                continue
            docno = document.get("docno")
            if fault := name_fault(docno, shard) or name_fault(docno, ahead) or name_fault(docno, build.docnos):
                raise ValueError(
                    f"document {place} has the docno {docno!r}, which {fault}; "
                    "expected unique Unicode text with no NUL and no white space around it"
                )
            shard[document["docno"]] = document
            if len(shard) == self.shard_size:
                yield self._closed(shard, build, ahead, total)
                shard = {}
        if place + 1 < done:
            raise ValueError(
                f"only {place + 1} documents came, and {done} are indexed: the documents changed. {_mend(build)}"
            )
        if shard:
            yield self._closed(shard, build, ahead, total)

    def _closed(self, shard: dict[str, Document], build: VectorBuild, ahead: set[str], total: int) -> Shard:
        build.require_room(len(ahead) + max(len(shard), total - build.count - len(ahead)))
        ahead.update(shard)
        return Shard({docno: self._fingerprint(document) for docno, document in shard.items()}, list(shard.values()))

    def _require_unchanged(
        self, place: int, document: Document, docno: str, fingerprint: str, build: VectorBuild
    ) -> None:
        if document.get("docno") != docno:
            raise ValueError(
                f"document {place} is {document.get('docno')!r}, and {docno!r} is indexed there: "
                f"the documents changed. {_mend(build)}"
            )
        if self._fingerprint(document) != fingerprint:
            raise ValueError(f"document {docno!r} is indexed already, with another text or vector. {_mend(build)}")

    def _fingerprint(self, document: Document) -> str:
        """Return the fingerprint of what the vector is made of: the text, or the vector where no text came with it."""
        [[_, column]] = self.index_inputs()
        if self.encoder is None and column not in document:
            raise ValueError(
                f"document {document['docno']!r} has no doc_vec, only {', '.join(document)}: "
                "put an encoder before the index, as in (encoder >> index).index(documents)"
            )
        text = document.get("text" if self.encoder is None else column)
        if isinstance(text, str):
            return fingerprint_texts([text])
        if self.encoder is None:
            return fingerprint_texts([given_vector(document).tobytes().hex()])
        raise ValueError(f"document {document['docno']!r} has {text!r} as its {column}, expected a string")

    def __repr__(self) -> str:
        encoder = "" if self.encoder is None else f", encoder={self.encoder!r}"
        return f"{self._index!r}.indexer(mode={self.mode!r}{encoder})"


def _mend(build: VectorBuild) -> str:
    return f"Give the same ones, or delete {build.part} to start from scratch"


def _naming_failures(documents: Iterable[Document]) -> Iterator[Document]:
    last = None
    try:
        for document in documents:
            yield document
            last = document["docno"]
    except Exception as error:
        place = "before the first document" if last is None else f"after document {last!r}"
        raise RuntimeError(
            f"the documents failed {place} ({type(error).__name__}: {error}); finished shards are kept: "
            "fix the cause and make the same call again"
        ) from error
