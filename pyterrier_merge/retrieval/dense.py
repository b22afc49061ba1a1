"""A dense retriever over a collection: the right index is built, or opened again, by itself."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pyterrier as pt

from pyterrier_merge.fingerprint import fingerprint
from pyterrier_merge.retrieval.index import FaissIndex
from pyterrier_merge.storage import cache_folder

if TYPE_CHECKING:
    from pyterrier_merge.collections.base import TestCollection
    from pyterrier_merge.encoding.encoders import E5Encoder


def dense_index(encoder: E5Encoder, collection: TestCollection, *, root: str | Path | None = None) -> FaissIndex:
    """Return the finished index of a collection by an encoder; what is missing of it is built.

    The folder's name holds a fingerprint of the encoder (models, alphas, prompts, length, dtype) and of the collection,
    so no index is ever searched with vectors of another merge.

    Args:
        encoder: Encodes the documents.
        collection: Gives them.
        root: Folder of the indexes; the package's cache when None.
    """
    identity = fingerprint({"encoder": encoder.fingerprint, "collection": collection.fingerprint})
    index = FaissIndex(Path(root or cache_folder("indexes")) / f"{collection.name}-{identity}.flex")
    if not index.built():
        index.indexer(encoder=encoder).index(collection.corpus_iter(verbose=encoder.verbose))
    return index


def dense_retriever(
    encoder: E5Encoder, collection: TestCollection, *, num_results: int = 1000, root: str | Path | None = None
) -> pt.Transformer:
    """Return the pipeline from queries to results, its index built or opened again (see :func:`dense_index`)."""
    return encoder >> dense_index(encoder, collection, root=root).retriever(num_results=num_results)
