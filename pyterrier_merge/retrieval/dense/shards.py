"""Shards of documents, encoded in this process, or in others that leave the vectors in a folder."""

from __future__ import annotations

import io
import json
import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import pyterrier as pt

from pyterrier_merge.encoding.encoded_vector import TRUNCATED
from pyterrier_merge.fingerprint import fingerprint
from pyterrier_merge.retrieval.dense.vectors import FloatArray, as_vector, stack_vectors
from pyterrier_merge.storage import write_file

Document = Mapping[str, Any]
HARMLESS = "a sentence"  # a text that every encoder can read
# errors that a document may cause, unlike a missing file or a full disk
_OF_A_DOCUMENT = (ArithmeticError, LookupError, RuntimeError, TypeError, ValueError)


class Shard(NamedTuple):
    """Documents that are encoded and stored together.

    Attributes:
        fingerprints: Docno -> fingerprint of what its vector is made of.
        documents: In the same order.
    """

    fingerprints: dict[str, str]
    documents: list[Document]


class EncodedShard(NamedTuple):
    """The vectors of a shard.

    Attributes:
        fingerprints: As in the shard.
        vectors: In the same order.
        truncated: How many of the documents the encoder has cut.
    """

    fingerprints: dict[str, str]
    vectors: Sequence[Any]
    truncated: int


@dataclass(frozen=True)
class ShardEncoder:
    """Encodes shards.

    Attributes:
        encoder: Adds ``doc_vec`` to documents; None where they have it.
    """

    encoder: pt.Transformer | None

    def __call__(self, shard: Shard) -> EncodedShard:
        """Encode a shard.

        Raises:
            ValueError: A document cannot be encoded; the message names it.
        """
        try:
            return EncodedShard(shard.fingerprints, *self._encode(shard.documents))
        except _OF_A_DOCUMENT as error:
            if (docno := self._faulty_document(shard.documents)) is None:
                raise
            raise ValueError(f"document {docno!r} cannot be encoded: {error}") from error

    def _encode(self, documents: list[Document]) -> tuple[Sequence[Any], int]:
        """Return vectors, and how many of the texts the encoder says that it has cut."""
        if self.encoder is None:
            return [given_vector(document) for document in documents], 0
        # a bi-encoder itself would score documents that come with a query
        encoder: Any = self.encoder.doc_encoder(verbose=False) if hasattr(self.encoder, "doc_encoder") else self.encoder
        if hasattr(encoder, "encode_texts"):
            vectors, truncated = encoder.encode_texts([document[encoder.text_field] for document in documents])
            return vectors, truncated
        encoded = encoder.transform(pd.DataFrame(documents, dtype=object))  # pandas cannot store surrogates as strings
        if encoded["docno"].tolist() != [document["docno"] for document in documents]:
            raise ValueError(f"{self.encoder!r} does not keep the documents: expected one row for each, in order")
        return list(encoded["doc_vec"]), int(encoded.attrs.get(TRUNCATED, 0))

    def _faulty_document(self, documents: list[Document]) -> str | None:
        """Return the first document that cannot be encoded; None if no text can be."""
        column = getattr(self.encoder, "text_field", "text")
        if self.encoder is None or self._fails([{**documents[0], column: HARMLESS}]):
            return None
        while len(documents) > 1:
            half = len(documents) // 2
            parts = (part for part in (documents[:half], documents[half:]) if self._fails(part))
            if (first := next(parts, None)) is None:
                return None  # it does not fail again
            documents = first
        docno: str = documents[0]["docno"]
        return docno

    def _fails(self, documents: list[Document]) -> bool:
        try:
            self._encode(documents)
        except _OF_A_DOCUMENT:
            return True
        return False


@dataclass(frozen=True)
class ShardFolder:
    """Encodes shards into files: each is there when it is complete, and is not encoded again.

    Attributes:
        encode: Encodes a shard.
        folder: Seen by all nodes.
        encoder: Identity of the encoder.
    """

    encode: ShardEncoder
    folder: Path
    encoder: str

    def __call__(self, shard: Shard) -> str:
        """Return the name of the shard's file.

        Raises:
            RuntimeError: This node does not see the folder, or its encoder differs from the index's.
            ValueError: A document cannot be encoded, or a vector is not finite.
        """
        if not self.folder.is_dir():
            raise RuntimeError(
                f"{platform.node()} does not see {self.folder}: build the index in a folder that all nodes see"
            )
        found = encoder_identity(self.encode.encoder)
        if found != self.encoder:
            raise RuntimeError(
                f"the encoder is {found} on {platform.node()}, and that of the index is {self.encoder}: dtype 'auto' "
                "depends on the device, and a model on the files of a node; give the dtype and the revision"
            )
        file = self.folder / f"{fingerprint([self.encoder, list(shard.fingerprints.items())])}.npz"
        if not file.is_file():
            encoded = self.encode(shard)
            content = io.BytesIO()
            fingerprints = np.frombuffer(json.dumps(encoded.fingerprints).encode(), dtype=np.uint8)
            np.savez(content, fingerprints=fingerprints, vectors=_sound(encoded), truncated=encoded.truncated)
            write_file(file, content.getbuffer())
        return file.name

    def take(self, name: str) -> EncodedShard:
        """Read a shard's file."""
        with np.load(self.folder / name, allow_pickle=False) as stored:
            fingerprints = json.loads(stored["fingerprints"].tobytes())
            return EncodedShard(fingerprints, stored["vectors"], int(stored["truncated"]))

    def drop(self, name: str) -> None:
        """Delete a shard's file: its vectors are in the index."""
        (self.folder / name).unlink(missing_ok=True)


def encoder_model(stage: pt.Transformer | None) -> Any:
    """Return the encoder behind ``encoder.doc_encoder()`` and ``encoder.query_encoder()``, or ``stage`` itself."""
    return getattr(stage, "bi_encoder_model", stage)


def encoder_identity(stage: pt.Transformer | None) -> str | None:
    """Return the encoder's ``fingerprint``, else its ``repr`` where that says which it is, else None."""
    model = encoder_model(stage)
    # of two functions in pt.apply the repr is the same, and of a class without a repr of its own it is never
    telling = hasattr(model, "encode_docs") and " at 0x" not in repr(model)
    return getattr(model, "fingerprint", None) or (repr(model) if telling else None)


def _sound(encoded: EncodedShard) -> FloatArray:
    """Return the vectors of a shard, if an index can take them."""
    owners = [f"document {docno!r}" for docno in encoded.fingerprints]
    return stack_vectors(owners, encoded.vectors, int(np.size(encoded.vectors[0])))


def given_vector(document: Document) -> FloatArray:
    """Return the vector that a document comes with."""
    return as_vector(f"document {document['docno']!r}", document["doc_vec"])
