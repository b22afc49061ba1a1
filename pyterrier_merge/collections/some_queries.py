"""A collection with some of its queries: a sample of the labelled ones, or those that are held out."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass

import pandas as pd

from pyterrier_merge.collections.base import TestCollection


def with_queries(collection: TestCollection, split: str, qids: Collection[str]) -> TestCollection:
    """Return the collection with these queries of one split, which is the only one that is left.

    Documents, name and fingerprint stay: an index of the whole serves it, and labels have the same names.

    Raises:
        ValueError: There is no such split, or a qid is not among its queries.
    """
    wanted = frozenset(qids)
    if unknown := sorted(wanted.difference(collection.topics(split)["qid"])):
        raise ValueError(f"{collection.name}: {len(unknown)} qids are not queries of {split}, such as {unknown[0]!r}")
    return SomeQueries(**{**collection.description, "splits": (split,)}, whole=collection, qids=wanted)


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class SomeQueries(TestCollection):
    """What ``with_queries`` makes."""

    whole: TestCollection
    qids: frozenset[str]

    @property
    def num_docs(self) -> int:
        """Number of documents: all of them."""
        return self.whole.num_docs

    @property
    def fingerprint(self) -> str:
        """That of the whole, for the documents are the same."""
        return self.whole.fingerprint

    @property
    def origin(self) -> tuple[str, str]:
        """Name and fingerprint of the whole."""
        return self.whole.origin

    @property
    def missing_bytes(self) -> int | None:
        """Bytes to download at first use."""
        return self.whole.missing_bytes

    @property
    def document_fields(self) -> tuple[str, ...]:
        """Names of the fields that documents have besides ``docno``."""
        return self.whole.document_fields

    def documents_of(self, docnos: Collection[str]) -> Iterator[dict[str, str]]:
        """Look documents up in the whole."""
        return self.whole.documents_of(docnos)

    def _documents(self) -> Iterator[dict[str, str]]:
        return self.whole.corpus_iter()

    def _topics(self, split: str) -> pd.DataFrame:
        return self._asked(self.whole.topics(split))

    def _qrels(self, split: str) -> pd.DataFrame:
        return self._asked(self.whole.qrels(split))

    def _candidates(self, split: str) -> pd.DataFrame:
        return self._asked(self.whole.candidates(split))

    def _asked(self, frame: pd.DataFrame) -> pd.DataFrame:
        return frame[frame["qid"].isin(self.qids)]
