"""The base class of collections that are read with ``ir_datasets``."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from pyterrier_merge.collections.base import TestCollection
from pyterrier_merge.collections.reading.irds_source import IrdsSource
from pyterrier_merge.fingerprint import fingerprint


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class SourcedCollection(TestCollection):
    """A collection whose documents ir_datasets reads; a subclass formats them.

    Attributes:
        source: The source in ir_datasets.
    """

    source: IrdsSource

    @property
    def num_docs(self) -> int:
        """Number of documents."""
        return self.source.num_docs()

    @cached_property
    def fingerprint(self) -> str:
        """Fingerprint of the checksums of the documents' archives and of the fields that form their text."""
        return fingerprint([self.source.fingerprint, *self._form()])

    @property
    def missing_bytes(self) -> int | None:
        """Bytes of the missing ir_datasets downloads."""
        return self.source.missing_bytes(*self._further_files())

    @property
    def document_fields(self) -> tuple[str, ...]:
        """Names of the fields that documents have besides ``docno``."""
        return self.source.document_fields()

    def documents_of(self, docnos: Collection[str]) -> Iterator[dict[str, str]]:
        """Look documents up in ir_datasets' document store."""
        return map(self._document, self.source.documents(docnos))

    def _documents(self) -> Iterator[dict[str, str]]:
        return map(self._document, self.source.documents())

    def _further_files(self) -> tuple[str, ...]:
        """Names of the downloads that topics and judgements need, if they differ from the documents' own."""
        return ()

    @abstractmethod
    def _document(self, doc: Any) -> dict[str, str]: ...

    @abstractmethod
    def _form(self) -> tuple[str, ...]:
        """The fields that form a document's text, and everything else that changes the documents."""
