"""A collection that is derived from another one; everything it does not change is the other's."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass

import pandas as pd

from pyterrier_merge.collections.base import TestCollection


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class DerivedCollection(TestCollection):
    """A collection over another one's documents.

    Attributes:
        whole: The other one.
    """

    whole: TestCollection

    @property
    def num_docs(self) -> int:
        """Number of documents."""
        return self.whole.num_docs

    @property
    def fingerprint(self) -> str:
        """Fingerprint of the documents."""
        return self.whole.fingerprint

    @property
    def origin(self) -> tuple[str, str]:
        """Name and fingerprint of the whole."""
        return self.whole.origin

    @property
    def missing_bytes(self) -> int | None:
        """Bytes of the whole that are still to be downloaded."""
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
        return self.whole.topics(split)

    def _qrels(self, split: str) -> pd.DataFrame:
        return self.whole.qrels(split)

    def _candidates(self, split: str) -> pd.DataFrame:
        return self.whole.candidates(split)
