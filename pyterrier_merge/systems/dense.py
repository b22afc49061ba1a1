"""The dense retriever of a system, whose index is built or opened at the first query."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any, ClassVar

import pandas as pd
import pyterrier as pt

from pyterrier_merge.models import locate_parts, pinned_name
from pyterrier_merge.retrieval.dense.pipeline import dense_index, dense_retriever
from pyterrier_merge.schematic import labelled
from pyterrier_merge.systems.base import Bench, Prepared

if TYPE_CHECKING:
    from pyterrier_merge.encoding.encoders import E5Encoder


class Dense(pt.Transformer):
    """``dense_retriever(encoder, collection)``, made at the first query, because stored results need no index.

    Args:
        encoder: The encoder of documents and queries.
        bench: The bench with the collection and the number of results.
    """

    schematic: ClassVar = labelled("Dense")

    def __init__(self, encoder: E5Encoder, bench: Bench) -> None:
        self.encoder = encoder
        self.bench = bench
        self._loaded: E5Encoder | None = None

    def ready(self) -> None:
        """Build the index if it is missing, with the model of the search that follows."""
        self._loaded = copy.copy(self.encoder)
        bench = self.bench
        dense_index(self._loaded, bench.collection, executor=bench.executor, verbose=bench.verbose)

    def transform(self, inp: pd.DataFrame) -> pd.DataFrame:
        """Search."""
        bench, encoder = self.bench, self._loaded or copy.copy(self.encoder)
        self._loaded = None  # a copy loads weights, and releases them after this call
        retriever = dense_retriever(
            encoder,
            bench.collection,
            num_results=bench.num_results,
            executor=bench.executor,
            verbose=bench.verbose,
        )
        found: pd.DataFrame = retriever.transform(inp)
        return found.drop(columns="query_vec", errors="ignore")


def dense(encoder: E5Encoder, bench: Bench, **said: Any) -> Prepared:
    """Return the prepared system of an encoder; ``said`` are further fields of ``Prepared``."""
    bare = copy.copy(encoder)  # without weights: memory may have room for only one of an experiment's models
    return Prepared(transformer=Dense(bare, bench), identity=encoder.fingerprint, encoder=bare, **said)


def described(model: str) -> str:
    """Return a model's name, with its commit if it is from the hub, and the fingerprint of its content."""
    return f"{pinned_name(model)} (content {locate_parts(model).fingerprint})"
