"""Filling an index, so that a killed job goes on where it stopped and encodes nothing twice."""

from __future__ import annotations

import inspect
import logging
from collections.abc import Iterable, Iterator, Mapping
from operator import length_hint
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import pandas as pd
import pyterrier as pt
from more_itertools import chunked

from pyterrier_merge.retrieval.docnos import is_docno
from pyterrier_merge.retrieval.vectors import VectorBuild, read_metadata

if TYPE_CHECKING:
    from pyterrier_merge.retrieval.index import FaissIndex

logger = logging.getLogger(__name__)

MODES = ("create", "overwrite")
Document = Mapping[str, Any]


class FaissIndexer(pt.Indexer):
    """Writes documents into a :class:`FaissIndex`, in shards that survive the job.

    Called again with the same documents, it skips those of the finished shards, after checking that their docnos are
    what they were. It encodes by itself where the encoder is known: given as ``encoder``, or standing just before the
    index in ``encoder >> index``. Then what is skipped is not encoded either.
    """

    schematic: ClassVar = {"label": "FaissIndexer"}

    def __init__(
        self,
        index: FaissIndex,
        *,
        mode: str = "create",
        encoder: pt.Transformer | None = None,
        shard_size: int = 1_000,
    ) -> None:
        """Prepare the indexer; nothing is touched yet.

        Args:
            index: The index to fill.
            mode: ``create`` refuses to touch a finished index; ``overwrite`` replaces it, when the new one is complete.
            encoder: Adds ``doc_vec`` to documents, one row for each, in their order.
            shard_size: Documents that are encoded and made safe on disk together: what a killed job loses at most.

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

    def index_inputs(self) -> list[list[str]]:
        """The columns that documents have."""
        if self.encoder is None:
            return [["docno", "doc_vec"]]
        return [["docno", getattr(self.encoder, "text_field", "text")]]

    def index(self, documents: Iterable[Document] | pd.DataFrame) -> FaissIndex:  # type: ignore[override]
        """Index ``documents``, or those that an earlier call had not reached.

        Args:
            documents: Dictionaries, or a frame, with ``docno`` and ``doc_vec`` (``text`` where the encoder is known).

        Returns:
            The index, finished.

        Raises:
            FileExistsError: There is an index already and the mode is ``create``, or something that is no index.
            ValueError: No document; a docno that is empty, no string, or not unique; a vector of a wrong dimension, or
                not finite; documents or an encoder other than those of the shards that are there.
            RuntimeError: The documents themselves raised an error, or another process is building the index.
        """
        stages, corpus = _composed(documents)
        if self.encoder is None and stages is not None:
            pipeline: Any = (stages >> self).compile()
            last = pipeline[-1] if isinstance(pipeline, pt.Compose) else pipeline
            if last is not self:  # it took in the encoder before it
                return pipeline.index(corpus)

        self._refuse_existing()
        records: Any = documents.to_dict(orient="records") if isinstance(documents, pd.DataFrame) else documents
        identity = None if self.encoder is None else encoder_identity(self.encoder)
        with VectorBuild(self._index.path, encoder=identity) as build:
            done = len(build.docnos)
            if done:
                logger.info("%s: resuming at document %d", self._index.path, done)
            new_documents = _new_documents(_naming_failures(records), build)
            total = length_hint(records) or None
            with pt.tqdm(
                total=total, initial=done, desc="indexing", unit="doc", disable=not self._index.verbose
            ) as progress:
                for shard in chunked(new_documents, self.shard_size):
                    build.append([document["docno"] for document in shard], self._vectors(shard))
                    progress.update(len(shard))
            build.finish(overwrite=self.mode == "overwrite")
        return self._index

    def fuse_left(self, left: pt.Transformer) -> FaissIndexer | None:
        """Take in the encoder before this indexer in a pipeline, so that what is indexed already is not encoded."""
        if self.encoder is not None or not hasattr(encoder_model(left), "encode_docs"):
            return None
        return FaissIndexer(self._index, mode=self.mode, encoder=left, shard_size=self.shard_size)

    def _refuse_existing(self) -> None:
        path = self._index.path
        if not path.exists():
            return
        if read_metadata(path) is None:
            raise FileExistsError(f"{path} is no dense index and is not overwritten: choose another path, or delete it")
        if self.mode == "create":
            raise FileExistsError(
                f"{path} is a finished index: search it, choose another path, or use indexer(mode='overwrite')"
            )

    def _vectors(self, shard: list[Document]) -> list[np.ndarray]:
        if self.encoder is not None:
            encoded = self.encoder.transform(pd.DataFrame(shard))
            if encoded["docno"].tolist() != [document["docno"] for document in shard]:
                raise ValueError(f"{self.encoder!r} does not keep the documents: expected one row for each, in order")
            return list(encoded["doc_vec"])
        for document in shard:
            if "doc_vec" not in document:
                raise ValueError(
                    f"document {document['docno']!r} has no doc_vec, only {', '.join(document)}: "
                    "put an encoder before the index, as in (encoder >> index).index(documents)"
                )
        return [document["doc_vec"] for document in shard]

    def __repr__(self) -> str:
        encoder = "" if self.encoder is None else f", encoder={self.encoder!r}"
        return f"{self._index!r}.indexer(mode={self.mode!r}{encoder})"


def encoder_model(stage: pt.Transformer) -> Any:
    """Return the encoder behind ``encoder.doc_encoder()`` and ``encoder.query_encoder()``, or ``stage`` itself."""
    return getattr(stage, "bi_encoder_model", stage)


def encoder_identity(stage: pt.Transformer) -> str | None:
    """Return the encoder's ``fingerprint``, else its ``repr``, else, where that names a place in memory, None."""
    model = encoder_model(stage)
    identity = getattr(model, "fingerprint", None) or repr(model)
    return None if " at 0x" in identity else identity


def _composed(documents: Any) -> tuple[pt.Transformer | None, Any]:
    """Return the stages and the corpus behind the documents of a pipeline, (None, documents) where there are none.

    ``Compose.index()`` hands on a generator of encoded documents and never compiles, so that an indexer has no say in
    what is encoded. Before it starts, the generator still holds both. Should PyTerrier change this, all documents are
    encoded again upon resumption, and the result is the same.
    """
    if inspect.isgenerator(documents) and documents.__qualname__ == "Compose.index.<locals>.gen":
        held = inspect.getgeneratorlocals(documents)
        if {"prev_transformer", "iter"} <= held.keys():
            return held["prev_transformer"], held["iter"]
    return None, documents


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
            "mend the cause and make the same call again"
        ) from error


def _new_documents(documents: Iterable[Document], build: VectorBuild) -> Iterator[Document]:
    """Yield the documents that are not in the build yet; check the docnos of all."""
    indexed = build.docnos.copy()
    seen = set(indexed)
    place = -1
    for place, document in enumerate(documents):
        docno = document.get("docno")
        if place < len(indexed):
            if docno != indexed[place]:
                raise ValueError(
                    f"document {place} is {docno!r}, and {indexed[place]!r} is indexed there: the documents changed. "
                    f"Give the same ones, or delete {build.part} to start afresh"
                )
            continue
        if not is_docno(docno):
            raise ValueError(
                f"document {place} has the docno {docno!r}, expected Unicode text that is not empty and has no NUL"
            )
        if docno in seen:
            raise ValueError(f"document {place} has the docno {docno!r}, and so has one before it: make docnos unique")
        seen.add(docno)
        yield document
    if place + 1 < len(indexed):
        raise ValueError(
            f"only {place + 1} documents came, and {len(indexed)} are indexed: the documents changed. "
            f"Give the same ones, or delete {build.part} to start afresh"
        )
