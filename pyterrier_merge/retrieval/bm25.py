"""BM25 over a test collection, with PISA (no Java) or Terrier. Neither ever stands in for the other."""

from __future__ import annotations

import copy
import itertools
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd
import pyterrier as pt

from pyterrier_merge.fingerprint import fingerprint
from pyterrier_merge.retrieval.bm25_engines import Engine, Pisa, Search, Terrier
from pyterrier_merge.storage import cache_folder, finished_folder, write_file

if TYPE_CHECKING:
    from pyterrier_merge.collections.base import TestCollection

ENGINES: dict[str, Engine] = {"pisa": Pisa(), "terrier": Terrier()}
_IDENTITY_FILE = "bm25.json"


class BM25(pt.Transformer):
    """A BM25 retriever over a collection: queries in, ``docno``, ``score`` and ``rank`` out.

    The index is built when it is first searched, and kept. Documents of one score stand in the order of their docno.
    ``bm25`` is another name of this class.

    Defaults are Robertson's and Terrier's k1 = 1.2 and b = 0.75; Anserini's are 0.9 and 0.4. nDCG@10 with PISA is
    .387 with the former and .373 with the latter on "hpo", .688 and .678 on "scifact".

    Args:
        collection: What to search.
        engine: "pisa" (installed with pip) or "terrier" (needs Java). Stemmer and idf differ, so scores do.
        k1: Saturation of term frequency, at least 0.
        b: Length normalisation, from 0 to 1.
        num_results: Results per query, at least 1.
        index_path: Folder of the index; by default one in PyTerrier's home, named after documents, engine and analysis.
        threads: Threads that PISA builds and searches with; by default one per processor. Terrier uses one.
        verbose: Show progress and the engine's own messages.

    Attributes:
        name: "BM25 (PISA)" or "BM25 (Terrier)", for tables.

    Raises:
        ValueError: The engine is unknown or does not analyse the collection's language, or a number is out of range.
    """

    def __init__(
        self,
        collection: TestCollection,
        *,
        engine: str = "pisa",
        k1: float = 1.2,
        b: float = 0.75,
        num_results: int = 1000,
        index_path: str | Path | None = None,
        threads: int | None = None,
        verbose: bool = False,
    ) -> None:
        if engine not in ENGINES:
            raise ValueError(f"there is no BM25 engine {engine!r}; there are {', '.join(ENGINES)}")
        languages = ENGINES[engine].languages
        if collection.language not in languages:
            raise ValueError(
                f"the engine {engine!r} cannot analyse {collection.name}: its language is {collection.language!r}, and "
                f"supported are {', '.join(languages)}"
            )
        if not k1 >= 0:
            raise ValueError(f"k1 must be at least 0, not {k1}")
        if not 0 <= b <= 1:
            raise ValueError(f"b must be from 0 to 1, not {b}")
        if num_results < 1:
            raise ValueError(f"num_results must be at least 1, not {num_results}")
        self.collection = collection
        self.engine = engine
        self.k1 = float(k1)
        self.b = float(b)
        self.num_results = num_results
        self.index_path = None if index_path is None else Path(index_path)
        self.threads = threads
        self.verbose = verbose
        self.name = f"BM25 ({ENGINES[engine].label})"
        self.schematic = {"label": self.name}
        self._opened: tuple[tuple[float, float], Search] | None = None

    def transform(self, inp: pd.DataFrame) -> pd.DataFrame:
        """Search each query. A query without a term of the index has no results.

        Args:
            inp: Columns ``qid`` and ``query``.

        Returns:
            The columns of ``inp``, ``docno``, ``score`` and ``rank`` (from 0): the queries in their order, best first.

        Raises:
            ValueError: The corpus is empty or a document of it cannot be indexed.
            RuntimeError: The engine is missing something, or did not index the whole corpus.
        """
        pt.validate.query_frame(inp, extra_columns=["query"])
        queries = inp.drop(columns=["score", "rank"], errors="ignore")
        if len(queries) == 0:
            return queries.assign(docno=pd.Series(dtype=str), score=pd.Series(dtype=float), rank=pd.Series(dtype=int))
        found = self._search(queries["query"])
        result = queries.iloc[found["position"]].reset_index(drop=True)
        return result.assign(docno=found["docno"], score=found["score"].astype(float), rank=found["rank"])

    def fuse_rank_cutoff(self, k: int) -> BM25:
        """Return a retriever of the first ``k`` results: this one where it gives no more."""
        if k >= self.num_results:
            return self
        tighter = copy.copy(self)
        tighter.num_results = k
        return tighter

    def index(self) -> Path:
        """Return the folder of the index, built now where it is not there yet.

        Raises:
            ValueError: There is another index or something else in ``index_path``, or the corpus cannot be indexed.
        """
        identity = {
            "documents": self.collection.fingerprint,
            "engine": self.engine,
            "language": self.collection.language,
            **ENGINES[self.engine].settings(),
        }
        path = self.index_path or cache_folder("indexes") / f"bm25-{self.engine}-{fingerprint(identity)}"
        if not path.exists():
            try:
                with finished_folder(path) as beside:
                    self._build(beside)
                    write_file(beside / _IDENTITY_FILE, json.dumps(identity, indent=2))
            except FileExistsError:
                pass  # another process has built the same meanwhile
        found = json.loads((path / _IDENTITY_FILE).read_text()) if (path / _IDENTITY_FILE).exists() else None
        if found != identity:
            raise ValueError(
                f"{path} holds {found or 'no BM25 index'}, expected {identity}; choose another index_path or delete it"
            )
        return path

    def _build(self, folder: Path) -> None:
        engine = ENGINES[self.engine]
        corpus = _CheckedCorpus(self.collection, engine, verbose=self.verbose)
        docs = iter(corpus)
        head = list(itertools.islice(docs, 1))  # without documents PISA raises StopIteration and Terrier says nothing
        indexed = 0
        if head:
            docs = itertools.chain(head, docs)
            indexed = engine.build(folder, docs, threads=self._num_threads(), verbose=self.verbose)
        if corpus.error is not None:
            raise corpus.error
        if not head:
            raise ValueError(f"{self.collection.name} has no documents to index")
        if indexed != corpus.count or not corpus.exhausted:
            raise RuntimeError(
                f"{engine.label} indexed {indexed} of {self.collection.num_docs} documents of {self.collection.name}; "
                f"the last one that it read is {corpus.last_docno!r}"
            )

    def _search(self, queries: pd.Series) -> pd.DataFrame:
        """Return position (in ``queries``), docno, score and rank.

        An engine cuts among documents of one score by its own numbering. To cut by docno, and so in the same place
        however deep the search, one more result is fetched than asked for; where that one has the score of the last to
        keep, twice as many are fetched, and so on.
        """
        search = self._open()
        pending = pd.DataFrame({"qid": range(len(queries)), "query": queries.to_numpy()}).astype(str)
        depth = self.num_results + 1
        complete = []
        while len(pending):
            found = search(pending, depth)[["qid", "docno", "score"]].astype({"qid": int})
            found = found.sort_values(["qid", "score", "docno"], ascending=[True, False, True], ignore_index=True)
            found["rank"] = found.groupby("qid").cumcount()
            last_kept = found[found["rank"] == self.num_results - 1].set_index("qid")["score"]
            last_found = found[found["rank"] == depth - 1].set_index("qid")["score"]
            tied = last_found.index[last_found == last_kept.reindex(last_found.index)]
            complete.append(found[(found["rank"] < self.num_results) & ~found["qid"].isin(tied)])
            pending = pending[pending["qid"].isin(tied.astype(str))]
            depth *= 2
        return pd.concat(complete).sort_values(["qid", "rank"], ignore_index=True).rename(columns={"qid": "position"})

    def _open(self) -> Search:
        if self._opened is None or self._opened[0] != (self.k1, self.b):  # a grid search sets k1 and b
            engine, path = ENGINES[self.engine], self.index()
            search = engine.open(path, k1=self.k1, b=self.b, threads=self._num_threads(), verbose=self.verbose)
            self._opened = ((self.k1, self.b), search)
        return self._opened[1]

    def _num_threads(self) -> int:
        return self.threads or os.cpu_count() or 1

    def _identity(self) -> tuple[Any, ...]:
        return self.collection.fingerprint, self.engine, self.k1, self.b, self.num_results, self.index_path

    def __eq__(self, other: object) -> bool:
        return isinstance(other, BM25) and self._identity() == other._identity()

    def __hash__(self) -> int:
        return hash(self._identity())

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_opened": None}  # an open index belongs to its process

    def __repr__(self) -> str:
        where = "" if self.index_path is None else f", index_path={str(self.index_path)!r}"
        return (
            f"BM25({self.collection.name!r}, engine={self.engine!r}, k1={self.k1}, b={self.b}, "
            f"num_results={self.num_results}{where})"
        )


bm25 = BM25


class _CheckedCorpus:
    """The documents for an engine, each checked.

    Both engines read them in a thread of their own, where an error would go unheard and leave an index of half the
    corpus: it is kept here instead.
    """

    def __init__(self, collection: TestCollection, engine: Engine, *, verbose: bool) -> None:
        self.error: Exception | None = None
        self.exhausted = False
        self.count = 0
        self.last_docno: str | None = None
        self._collection = collection
        self._engine = engine
        self._verbose = verbose

    def __iter__(self) -> Iterator[dict[str, str]]:
        seen: set[str] = set()
        try:
            for doc in self._collection.corpus_iter(verbose=self._verbose):
                self._check(doc["docno"], seen)
                seen.add(doc["docno"])
                self.count += 1
                self.last_docno = doc["docno"]
                yield {"docno": doc["docno"], "text": doc["text"]}
            self.exhausted = True
        except Exception as error:  # noqa: BLE001 (it is raised again where it is heard)
            self.error = error

    def _check(self, docno: str, seen: set[str]) -> None:
        fault = "is empty" if not docno else "occurs twice" if docno in seen else self._engine.fault(docno)
        if fault:
            raise ValueError(f"docno {docno!r} of {self._collection.name} {fault}; rename that document")
