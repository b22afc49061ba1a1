"""What a BM25 engine reads: a collection's documents, each checked on its way."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from pyterrier_merge.collections.names import clean_text, name_fault

if TYPE_CHECKING:
    from pyterrier_merge.collections.base import TestCollection
    from pyterrier_merge.retrieval.lexical.analysis import Analysis
    from pyterrier_merge.retrieval.lexical.engines import Engine


class CheckedCorpus:
    """The documents for an engine, each checked.

    Both engines read them in a thread of their own, where an error would go unheard and leave an index of half the
    corpus: it is kept here instead.
    """

    def __init__(self, collection: TestCollection, engine: Engine, analysis: Analysis | None, *, verbose: bool) -> None:
        self.error: Exception | None = None
        self.last_docno: str | None = None
        self._collection = collection
        self._engine = engine
        self._analysis = analysis
        self._verbose = verbose

    def __iter__(self) -> Iterator[dict[str, str]]:
        seen: set[str] = set()
        try:
            for doc in self._collection.corpus_iter(verbose=self._verbose):
                docno = doc["docno"]
                self._check(docno, seen)
                seen.add(docno)
                self.last_docno = docno
                text = clean_text(doc["text"])
                yield {"docno": docno, "text": self._analysis.encoded(text) if self._analysis else text}
        except Exception as error:  # noqa: BLE001 (it is raised again where it is heard)
            self.error = error

    def _check(self, docno: str, seen: set[str]) -> None:
        if fault := name_fault(docno, seen) or self._engine.fault(docno):
            raise ValueError(f"docno {docno!r} of {self._collection.name} {fault}; rename that document")
