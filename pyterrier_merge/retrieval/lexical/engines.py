"""The two engines of ``bm25``: how each builds an index in a folder, and how it searches it."""

from __future__ import annotations

import ctypes
import itertools
import os
import re
import shutil
import signal
import sys
import threading
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pandas as pd
import pyterrier as pt
from more_itertools import before_and_after

from pyterrier_merge.fingerprint import fingerprint
from pyterrier_merge.storage import cache_folder, finished_folder, require_room

TERRIER_VERSION = "5.11"
TERRIER_HELPER_VERSION = "0.0.8"
MAX_TERRIER_DOCNO = 256  # characters; Terrier silently cuts docnos above the configured length

ROWS = 4_000_000  # results held at once if PISA scores all documents
_SMALL = 1 << 18  # maximum bytes of the smallest index
_PISA_TERM = re.compile("[A-Za-z0-9]")  # characters of PISA's terms
# Language -> prefix of the name of Terrier's stemmer class.
SNOWBALL_STEMMERS = {
    "da": "Danish",
    "de": "German",
    "es": "Spanish",
    "fi": "Finnish",
    "fr": "French",
    "hu": "Hungarian",
    "it": "Italian",
    "nl": "Dutch",
    "no": "Norwegian",
    "pt": "Portuguese",
    "ro": "Romanian",
    "ru": "Russian",
    "sv": "Swedish",
    "tr": "Turkish",
}


class Search(ABC):
    """An open index with k1 and b."""

    @abstractmethod
    def top(self, queries: pd.DataFrame, depth: int) -> pd.DataFrame:
        """Return ``qid``, ``docno`` and ``score`` of the best documents for each ``qid`` and ``query``."""

    @abstractmethod
    def scored(self, given: pd.DataFrame) -> pd.DataFrame:
        """Return ``qid``, ``docno`` and ``score`` for each row with ``qid``, ``query`` and ``docno``.

        Scores are those of :meth:`top`; 0 for a document without a term of the query.
        """


class Engine(ABC):
    """A search engine with BM25, set up for one language.

    Args:
        language: One of ``languages``; None if documents and queries are terms separated by spaces, to be used
            unchanged.

    Attributes:
        label: Its name in tables.
        languages: ISO 639-1 codes that it analyses itself.
    """

    label: str
    languages: tuple[str, ...]

    def __init__(self, language: str | None) -> None:
        self.language = language

    @abstractmethod
    def settings(self) -> dict[str, str]:
        """Return the settings that an index depends on besides the documents."""

    @abstractmethod
    def fault(self, docno: str) -> str | None:
        """Return what is wrong with a docno that this engine would not return unchanged; None if it is valid."""

    @abstractmethod
    def disk_bytes(self, docs: int, size: int) -> int:
        """Return the peak disk usage of building an index, in bytes.

        Args:
            docs: Number of documents.
            size: Bytes of their docnos and texts.
        """

    @abstractmethod
    def build(self, folder: Path, docs: Iterable[dict[str, str]], *, threads: int, verbose: bool) -> int:
        """Index ``docs`` (``docno`` and ``text``) in an empty folder.

        Returns:
            The number of documents in the index; 0 if none has a term, and the index cannot be opened.
        """

    @abstractmethod
    def open(self, folder: Path, *, k1: float, b: float, threads: int, verbose: bool) -> Search:
        """Open an index that ``build`` made."""


class Pisa(Engine):
    """PISA: no Java; English tokens, Porter2 stemmer, Terrier's stop words removed from the query."""

    label = "PISA"
    languages = ("en",)

    def settings(self) -> dict[str, str]:
        """Return analysis and version."""
        stemmer, stopwords = ("porter2", "terrier") if self.language else ("none", "none")
        return {"stemmer": stemmer, "stopwords": stopwords, "version": version("pyterrier-pisa")}

    def fault(self, docno: str) -> str | None:
        """White space ends a docno in PISA's input."""
        return "has white space in it, which PISA cannot store" if len(docno.split()) != 1 else None

    def disk_bytes(self, docs: int, size: int) -> int:
        """Return a bound for text: measured were 1.9 to 2.9 bytes per byte, and 9 for text without repeated words."""
        return 4 * size + 32 * docs + _SMALL

    def build(self, folder: Path, docs: Iterable[dict[str, str]], *, threads: int, verbose: bool) -> int:
        """Write the inverted index."""
        from pyterrier_pisa import PisaIndex

        # an index without a term kills the process
        without, rest = before_and_after(lambda doc: not _PISA_TERM.search(doc["text"]), docs)
        held = [*without, *itertools.islice(rest, 1)]
        if not _PISA_TERM.search(held[-1]["text"]):
            return 0
        with nullcontext() if verbose else _silence():
            stemmer = self.settings()["stemmer"]
            index = PisaIndex(str(folder), text_field="text", stemmer=stemmer, threads=threads)
            index.index(itertools.chain(held, rest))
            return int(index.num_docs())

    def open(self, folder: Path, *, k1: float, b: float, threads: int, verbose: bool) -> Search:
        """Open the index in a folder of links to it: PISA writes score bounds for k1 and b next to its input files."""
        from pyterrier_pisa import PisaIndex

        def retriever(path: Path) -> tuple[Any, int]:
            settings = self.settings()
            index = PisaIndex(str(path), stemmer=settings["stemmer"], stops=settings["stopwords"], threads=threads)
            # not verbose: threads would share the progress bar's iterator, which is an error
            return index.bm25(k1=k1, b=b), int(index.num_docs())

        built = folder.stat().st_mtime_ns  # an index that replaced another has its own bounds
        bounded = cache_folder("bounds") / fingerprint([folder.resolve(), built, k1, b])
        with nullcontext() if verbose else _silence():
            # PISA writes the bounds when it first opens an index: hide them from other processes until complete.
            with suppress(FileExistsError), finished_folder(bounded) as beside:
                files = list(filter(Path.is_file, folder.iterdir()))
                self._require_room(bounded.parent, files)
                for file in files:
                    (beside / file.name).symlink_to(file.resolve())
                retriever(beside)
            return PisaSearch(*retriever(bounded))

    @staticmethod
    def _require_room(folder: Path, index: list[Path]) -> None:
        """Bounds took a tenth to a third of the index, .9 without repeated words; a full disk ends the process."""
        size = sum(file.stat().st_size for file in index) + _SMALL
        require_room(folder, size, "PISA's score bounds", mend="set PYTERRIER_MERGE_CACHE to a folder of a larger disk")


class PisaSearch(Search):
    """Searches with PISA."""

    def __init__(self, pisa: Any, num_docs: int) -> None:
        self._pisa = pisa
        self._num_docs = num_docs

    def top(self, queries: pd.DataFrame, depth: int) -> pd.DataFrame:
        """Search."""
        self._pisa.num_results = depth
        # PISA takes queries as C strings, which cannot contain NUL.
        found = self._pisa.transform(queries.assign(query=queries["query"].str.replace("\0", " ", regex=False)))
        return found[["qid", "docno", "score"]]

    def scored(self, given: pd.DataFrame) -> pd.DataFrame:
        """Search all documents, because PISA cannot score given ones, and keep those."""
        queries = given[["qid", "query"]].drop_duplicates("qid")
        step = max(1, ROWS // self._num_docs)
        found = [
            self.top(queries[start : start + step], self._num_docs).merge(given[["qid", "docno"]])
            for start in range(0, len(queries), step)
        ]
        return _for_each(given, pd.concat(found))


class Terrier(Engine):
    """Terrier: needs Java; English tokens, Porter stemmer and Terrier's stop words in documents and queries.

    Other languages: words of Unicode letters and digits, the Snowball stemmer, no stop words.
    """

    label = "Terrier"
    languages = ("en", *SNOWBALL_STEMMERS)

    def settings(self) -> dict[str, str]:
        """Return analysis and version: the user's if chosen, else the tested one."""
        chosen = str(pt.terrier.java.configure["terrier_version"] or TERRIER_VERSION)
        if self.language == "en":
            return {"stemmer": "porter", "stopwords": "terrier", "version": chosen}
        stemmer = f"{SNOWBALL_STEMMERS[self.language]}SnowballStemmer" if self.language else "none"
        return {"stemmer": stemmer, "stopwords": "none", "version": chosen}

    def fault(self, docno: str) -> str | None:
        """Return a fault for docnos above Terrier's maximum length."""
        return f"has more than {MAX_TERRIER_DOCNO} characters" if len(docno) > MAX_TERRIER_DOCNO else None

    def disk_bytes(self, docs: int, size: int) -> int:
        """Return a bound for text: its store of docnos takes 1.6 kB per document, twice that during merging."""
        return 2 * size + 3_500 * docs + _SMALL

    def build(self, folder: Path, docs: Iterable[dict[str, str]], *, threads: int, verbose: bool) -> int:  # noqa: ARG002
        """Write the index with one thread: with more, the order of the documents varies between runs."""
        start_java()
        settings = self.settings()
        indexer = pt.IterDictIndexer(
            str(folder),
            meta={"docno": 2 * MAX_TERRIER_DOCNO},
            text_attrs=["text"],
            stemmer=settings["stemmer"],
            stopwords=settings["stopwords"],
            tokeniser=self._tokeniser,
        )
        index = pt.IndexFactory.of(indexer.index(iter(docs)))
        try:
            statistics = index.getCollectionStatistics()
            return int(statistics.getNumberOfDocuments()) if statistics.getNumberOfUniqueTerms() else 0
        finally:
            index.close()

    def open(self, folder: Path, *, k1: float, b: float, threads: int, verbose: bool) -> Search:  # noqa: ARG002
        """Open the index."""
        start_java()
        controls = {"bm25.k_1": str(k1), "bm25.b": str(b)}
        retriever: Any = pt.terrier.Retriever(str(folder), wmodel="BM25", controls=controls, verbose=verbose)
        # Terrier would parse punctuation as its query language
        tokenise: Any = pt.rewrite.tokenise(self._tokeniser)

        return TerrierSearch(retriever, tokenise)

    @property
    def _tokeniser(self) -> str:
        return {"en": "english", None: "whitespace"}.get(self.language, "utf")


class TerrierSearch(Search):
    """Searches with Terrier."""

    def __init__(self, retriever: Any, tokenise: Any) -> None:
        self._retriever = retriever
        self._tokenise = tokenise

    def top(self, queries: pd.DataFrame, depth: int) -> pd.DataFrame:
        """Search."""
        self._retriever.controls["end"] = str(depth - 1)
        return self._transformed(queries)

    def scored(self, given: pd.DataFrame) -> pd.DataFrame:
        """Score only the given documents."""
        self._retriever.controls["end"] = str(len(given) - 1)
        return _for_each(given, self._transformed(given[["qid", "query", "docno"]]))

    def _transformed(self, asked: pd.DataFrame) -> pd.DataFrame:
        tokens = self._tokenise.transform(asked)
        found: pd.DataFrame = self._retriever.transform(tokens[tokens["query"] != ""])
        return found[["qid", "docno", "score"]]


def _for_each(given: pd.DataFrame, found: pd.DataFrame) -> pd.DataFrame:
    """The score of each given row; 0 for rows that were not found."""
    return given[["qid", "docno"]].merge(found, on=["qid", "docno"], how="left").fillna({"score": 0.0})


def start_java() -> None:
    """Start Java with the tested Terrier, unless it is running or the user has set another version.

    Raises:
        RuntimeError: There is no Java, or Terrier could not be downloaded.
    """
    if pt.java.started():
        return
    if not (shutil.which("java") or any(os.environ.get(home) for home in ("JAVA_HOME", "JDK_HOME", "JRE_HOME"))):
        raise RuntimeError(
            "BM25 with engine='terrier' needs Java 11 or newer, and there is none: install one "
            "(apt install default-jdk-headless, or conda install openjdk), or use engine='pisa', which needs no Java"
        )
    if pt.terrier.java.configure["terrier_version"] is None:
        pt.terrier.set_version(TERRIER_VERSION)
    if pt.terrier.java.configure["helper_version"] is None:
        pt.terrier.set_helper_version(TERRIER_HELPER_VERSION)
    try:
        pt.java.init()
    except Exception as error:  # jnius raises plain Exceptions
        raise RuntimeError(
            f"Terrier did not start: {error}. It needs Java 11 or newer and, once, a network: PyTerrier downloads it "
            f"(100 MB, Maven Central) into {pt.io.pyterrier_home()}. engine='pisa' needs neither"
        ) from error
    _take_signals_back()


def _take_signals_back() -> None:
    """Restore Python's handlers of Ctrl-C and SIGTERM: Java's end the process without a message or clean-up."""
    if threading.current_thread() is threading.main_thread():
        for number in (signal.SIGINT, signal.SIGTERM):
            if (handler := signal.getsignal(number)) is not None:
                signal.signal(number, handler)


@contextmanager
def _silence() -> Iterator[None]:
    """Discard stdout and stderr at the level of file descriptors, which PISA's C++ code writes to."""
    libc = ctypes.CDLL(None)
    sys.stdout.flush()
    sys.stderr.flush()
    saved = {target: os.dup(target) for target in (1, 2)}
    nowhere = os.open(os.devnull, os.O_WRONLY)
    try:
        for target in saved:
            os.dup2(nowhere, target)
        yield
    finally:
        libc.fflush(None)
        for target, copy in saved.items():
            os.dup2(copy, target)
            os.close(copy)
        os.close(nowhere)
