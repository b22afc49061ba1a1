"""The input of a BM25 engine: a collection's documents, checked one by one, also for room on the disk."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator
from contextlib import suppress
from operator import itemgetter
from typing import TYPE_CHECKING

from more_itertools import constrained_batches

from pyterrier_merge.collections.names import clean_text, name_fault
from pyterrier_merge.progress import progress
from pyterrier_merge.storage import require_room

if TYPE_CHECKING:
    from pathlib import Path

    from pyterrier_merge.collections.base import TestCollection
    from pyterrier_merge.retrieval.lexical.analysis import Analysis
    from pyterrier_merge.retrieval.lexical.engines import Engine


logger = logging.getLogger(__name__)

_KANA = re.compile("[\u3041-\u30ff]")  # only in Japanese
_BLOCK = 1 << 20  # bytes of text passed on at once
_LOOKED_AT, _MANY = 100, 20  # documents examined; with so many containing kana, the texts are Japanese


class CheckedCorpus:
    """The checked documents for an engine, in blocks that are passed on only if the disk has room for them.

    Both engines read documents in their own thread, where an error would be lost and leave an index of half the corpus:
    it is stored here instead. They also do not handle a full disk: PISA ends the process, and Terrier reports documents
    without terms. They always finish an index of the documents they were given, so room is checked before.
    """

    def __init__(
        self,
        collection: TestCollection,
        engine: Engine,
        analysis: Analysis | None,
        folder: Path,
        *,
        verbose: bool | None,
    ) -> None:
        self.error: Exception | None = None
        self.last_docno: str | None = None
        self._collection = collection
        self._engine = engine
        self._analysis = analysis
        self._folder = folder
        self._verbose = verbose

    def __iter__(self) -> Iterator[dict[str, str]]:
        docs = size = 0
        try:
            measured = ((doc, _size(doc)) for doc in self._documents())
            for block in constrained_batches(measured, _BLOCK, get_len=itemgetter(1), strict=False):
                docs += len(block)
                size += sum(each for _, each in block)
                self._require_room(docs, size)
                for doc, _ in block:
                    self.last_docno = doc["docno"]
                    yield doc
        except Exception as error:  # noqa: BLE001 (it is raised again in the caller's thread)
            self.error = error

    def _documents(self) -> Iterator[dict[str, str]]:
        seen: set[str] = set()
        in_kana = 0
        documents = self._collection.corpus_iter()
        for doc in progress(documents, desc=self._collection.name, unit="doc", verbose=self._verbose):
            docno = doc["docno"]
            self._check(docno, seen)
            seen.add(docno)
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

    def _require_room(self, docs: int, size: int) -> None:
        held = 0
        for file in self._folder.iterdir():
            with suppress(FileNotFoundError):  # the engine deletes merged files
                held += 512 * file.stat().st_blocks
        require_room(
            self._folder.parent,
            self._engine.disk_bytes(docs, size) - held,
            f"{self._engine.label}'s index of the first {docs:,} documents of {self._collection.name}",
            mend="put index_path or the cache (PYTERRIER_MERGE_CACHE) on a larger disk",
        )

    def _check(self, docno: str, seen: set[str]) -> None:
        if fault := name_fault(docno, seen) or self._engine.fault(docno):
            raise ValueError(f"docno {docno!r} of {self._collection.name} {fault}; rename that document")


def _size(doc: dict[str, str]) -> int:
    return len(doc["docno"].encode()) + len(doc["text"].encode())
