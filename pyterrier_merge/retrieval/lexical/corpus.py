"""What a BM25 engine reads: a collection's documents, each checked on its way."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator
from typing import TYPE_CHECKING

from pyterrier_merge.collections.names import clean_text, name_fault

if TYPE_CHECKING:
    from pyterrier_merge.collections.base import TestCollection
    from pyterrier_merge.retrieval.lexical.analysis import Analysis
    from pyterrier_merge.retrieval.lexical.engines import Engine


logger = logging.getLogger(__name__)

_KANA = re.compile("[\u3041-\u30ff]")  # of Japanese alone
_LOOKED_AT, _MANY = 100, 20  # documents, and how many of them with kana are no foreign words by chance


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
        in_kana = 0
        try:
            for doc in self._collection.corpus_iter(verbose=self._verbose):
                docno = doc["docno"]
                self._check(docno, seen)
                seen.add(docno)
                self.last_docno = docno
                text = clean_text(doc["text"])
                if len(seen) <= _LOOKED_AT and self._collection.language != "ja":
                    in_kana += bool(_KANA.search(text))
                    if in_kana == _MANY:
                        logger.warning(
                            "%s has Japanese texts and its language is %r: give language='ja' to find their words",
                            self._collection.name,
                            self._collection.language,
                        )
                yield {"docno": docno, "text": self._analysis.encoded(text) if self._analysis else text}
        except Exception as error:  # noqa: BLE001 (it is raised again where it is heard)
            self.error = error

    def _check(self, docno: str, seen: set[str]) -> None:
        if fault := name_fault(docno, seen) or self._engine.fault(docno):
            raise ValueError(f"docno {docno!r} of {self._collection.name} {fault}; rename that document")
