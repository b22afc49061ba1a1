"""A dense retriever over a collection: the right index is built, or opened again, by itself."""

from __future__ import annotations

import logging
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pyterrier as pt

from pyterrier_merge.collections.base import require_collection
from pyterrier_merge.fingerprint import fingerprint
from pyterrier_merge.progress import verbosity
from pyterrier_merge.retrieval.candidates import GivenCandidates
from pyterrier_merge.retrieval.dense.build import IndexBusyError
from pyterrier_merge.retrieval.dense.index import FaissIndex
from pyterrier_merge.retrieval.identical_ids import WithoutIdenticalIds
from pyterrier_merge.storage import cache_folder, user_path

if TYPE_CHECKING:
    from pyterrier_merge.collections.base import TestCollection
    from pyterrier_merge.encoding.encoders import E5Encoder
    from pyterrier_merge.executor import Executor

logger = logging.getLogger(__name__)

POLL_SECONDS = 1.0


@verbosity
def dense_index(
    encoder: E5Encoder,
    collection: TestCollection,
    *,
    root: str | Path | None = None,
    executor: Executor | None = None,
    verbose: bool | None = None,
) -> FaissIndex:
    """Return the finished index of a collection by an encoder; what is missing of it is built.

    The folder's name holds a fingerprint of the encoder (models, alphas, prompts, length, dtype) and of the collection,
    so no index is ever searched with vectors of another merge. Where another process is building it, this one waits.

    Args:
        encoder: Encodes the documents.
        collection: Gives them.
        root: Folder of the indexes; the package's cache when None.
        executor: Where documents are encoded; in this process when None.
        verbose: Show a progress bar over the documents; in terminals and notebooks when None.
    """
    require_collection(collection)
    if not hasattr(encoder, "fingerprint"):
        raise TypeError(f"expected an encoder, such as E5Encoder('intfloat/e5-small-v2'), found {encoder!r}")
    index = index_of(encoder, collection, root=root)
    index.verbose = verbose
    waits = False
    while not index.built():
        try:
            index.indexer(encoder=encoder, executor=executor).index(collection.corpus_iter())
        except IndexBusyError:
            if not waits:
                logger.info("%s is being built by another process: waiting for it", index.path)
            waits = True
            time.sleep(POLL_SECONDS)
        except FileExistsError:
            if not index.built():  # else another process was faster
                raise
    return index


def index_of(encoder: E5Encoder, collection: TestCollection, *, root: str | Path | None = None) -> FaissIndex:
    """Return the index of :func:`dense_index`, built or not: nothing is encoded."""
    read = {} if encoder.text_field == "text" else {"text_field": encoder.text_field}
    identity = fingerprint({"encoder": encoder.fingerprint, "collection": collection.fingerprint, **read})
    return FaissIndex(user_path(root or cache_folder("indexes")) / f"{collection.name}-{identity}.flex", verbose=False)


def dense_retriever(
    encoder: E5Encoder,
    collection: TestCollection,
    *,
    num_results: int = 1000,
    root: str | Path | None = None,
    executor: Executor | None = None,
    verbose: bool | None = None,
) -> pt.Transformer:
    """Return the pipeline from queries to results, its index built or opened again (see :func:`dense_index`).

    The topics of a re-ranking collection (``collection.reranking``) are answered from their own candidates, those of
    any other from all documents; a query's own document is left out where the collection says so
    (``collection.ignore_identical_ids``).

    Args:
        encoder: Encodes documents and queries.
        collection: Gives the documents, and the candidates where it has them.
        num_results: Documents a query at most.
        root: Folder of the indexes; the package's cache when None.
        executor: Where documents are encoded and searched; in this process when None.
        verbose: Show a progress bar over the documents; in terminals and notebooks when None.
    """
    index = dense_index(encoder, collection, root=root, executor=executor, verbose=verbose)
    if collection.reranking:
        return (encoder >> GivenCandidates(collection) >> index.scorer()) % num_results
    if collection.ignore_identical_ids:
        retriever = index.retriever(num_results=num_results + 1, executor=executor)
        return encoder >> retriever >> WithoutIdenticalIds(num_results)
    return encoder >> index.retriever(num_results=num_results, executor=executor)
