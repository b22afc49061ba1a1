"""Documents read from files as a stream: checked and counted, without holding texts in memory."""

from __future__ import annotations

import json
import logging
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from pyterrier_merge.collections.names import clean_text, name_fault
from pyterrier_merge.collections.reading.files import place
from pyterrier_merge.fingerprint import fingerprint, fingerprint_file
from pyterrier_merge.storage import cache_folder, write_file

logger = logging.getLogger(__name__)

Reader = Callable[[Path], Iterator[tuple[int, dict[str, str]]]]


class Counts(NamedTuple):
    """Counts from a whole pass over the documents; ``docs`` includes documents without text."""

    documents: int
    empty: int


class FileCorpus:
    """The documents of some files, in the order of the files and of their lines.

    After the first whole pass, logs the number of empty documents (they are kept) and of missing judged documents. The
    package's cache stores these counts by the content of the files.

    Args:
        name: The collection, for messages.
        files: The files, read one after the other.
        read: Yields line number and document of a file; a document has ``docno`` and ``text``.
        form: Everything else that decides the text; part of the fingerprint.
        judged: Returns the judged docnos.
    """

    def __init__(
        self, name: str, files: Sequence[Path], read: Reader, *, form: str, judged: Callable[[], set[str]]
    ) -> None:
        self.name = name
        self.files = tuple(files)
        self._read = read
        self._form = form
        self._judged = judged
        self._reported = False
        self._taken: tuple[list[tuple[int, int]], str] | None = None

    def __iter__(self) -> Iterator[dict[str, str]]:
        """Yield the documents.

        Raises:
            ValueError: A docno is not a name or occurs twice, there is no document, or a file is not in the expected
                format.
        """
        seen: set[str] = set()
        empty = 0
        for path, line, doc in self._lines():
            docno = doc["docno"]
            if docno in seen:
                raise ValueError(
                    f"{place(path, line)}: docno {docno!r} occurs twice; first in {self._first(docno)}; docnos "
                    "must be unique"
                )
            if fault := name_fault(docno):
                raise ValueError(f"{place(path, line)}: docno {docno!r} {fault}")
            seen.add(docno)
            empty += not doc["text"].strip()
            yield {field: clean_text(value) for field, value in doc.items()}
        if not seen:
            raise ValueError(f"{self.name}: there are no documents in {', '.join(map(str, self.files))}")
        self._finish(Counts(len(seen), empty), seen)

    @property
    def counts(self) -> Counts:
        """Counts of documents and of empty ones; makes a pass over the files if they are not counted yet."""
        if not self._counts_file.is_file():
            deque(self, maxlen=0)
        return Counts(**json.loads(self._counts_file.read_text(encoding="utf-8")))

    @property
    def fingerprint(self) -> str:
        """Fingerprint of the content of the files and of the form of the text.

        Reads the files once, at about 1 GB per second, and again if the size or time of a file has changed.
        """
        state = [(stat.st_size, stat.st_mtime_ns) for stat in map(Path.stat, self.files)]
        if self._taken is None or self._taken[0] != state:
            content = [fingerprint_file(path) for path in self.files]
            self._taken = state, fingerprint([self._form, *content])
        return self._taken[1]

    def _lines(self) -> Iterator[tuple[Path, int, dict[str, str]]]:
        for path in self.files:
            for line, doc in self._read(path):
                yield path, line, doc

    def _first(self, docno: str) -> str:
        return next(place(path, line) for path, line, doc in self._lines() if doc["docno"] == docno)

    def _finish(self, counts: Counts, docnos: set[str]) -> None:
        write_file(self._counts_file, json.dumps(counts._asdict()))
        if self._reported:
            return
        self._reported = True
        if counts.empty:
            logger.warning("%s: %d of the %d documents are empty; they are kept", self.name, counts.empty, len(docnos))
        judged = self._judged()
        if lacking := len(judged - docnos):
            logger.warning("%s: %d of the %d judged documents are not in the corpus", self.name, lacking, len(judged))

    @property
    def _counts_file(self) -> Path:
        return cache_folder("collections") / f"{self.fingerprint}.json"
