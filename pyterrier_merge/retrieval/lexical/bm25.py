"""BM25 over a test collection, with PISA (no Java) or Terrier. There is no automatic fallback between them."""

from __future__ import annotations

import copy
import itertools
import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd
import pyterrier as pt

from pyterrier_merge.collections.base import require_collection
from pyterrier_merge.collections.identical_ids import without_identical_ids
from pyterrier_merge.collections.names import clean_text
from pyterrier_merge.equality import EqualByIdentity
from pyterrier_merge.fingerprint import fingerprint
from pyterrier_merge.retrieval.candidates import GivenCandidates
from pyterrier_merge.retrieval.lexical.analysis import ANALYSES
from pyterrier_merge.retrieval.lexical.corpus import CheckedCorpus
from pyterrier_merge.retrieval.lexical.engines import Engine, Pisa, Search, Terrier
from pyterrier_merge.retrieval.lexical.letters import LettersBeyondAscii
from pyterrier_merge.schematic import labelled
from pyterrier_merge.storage import cache_folder, finished_folder, user_path, write_file

if TYPE_CHECKING:
    from pyterrier_merge.collections.base import TestCollection
    from pyterrier_merge.retrieval.lexical.analysis import Analysis

ENGINES: dict[str, type[Engine]] = {"pisa": Pisa, "terrier": Terrier}
BEFORE_ENGINE: dict[str, Analysis] = {"en": LettersBeyondAscii()}  # for languages that the engine analyses itself
_IDENTITY_FILE = "bm25.json"


class BM25(EqualByIdentity, pt.Transformer):
    """A BM25 retriever over a collection: queries in, ``docno``, ``score`` and ``rank`` out.

    The index is built at the first search, and kept. Documents with equal scores are sorted by docno. The topics of a
    re-ranking collection are answered from their own candidates, as by ``dense_retriever``; term statistics are those
    of all its documents. A query's own document is left out if ``collection.ignore_identical_ids`` is true. ``bm25`` is
    another name of this class.

    English is analysed by the engine: PISA has Porter2, Terrier Porter; both keep words with letters beyond ASCII
    whole. Japanese is analysed by Sudachi for both (extra ``japanese``). For Danish, Dutch, Finnish, French, German,
    Hungarian, Italian, Norwegian, Portuguese, Romanian, Russian, Spanish, Swedish and Turkish Terrier has a Snowball
    stemmer; PISA searches their words without stemming.

    Defaults are Robertson's and Terrier's k1 = 1.2 and b = 0.75; Anserini's are 0.9 and 0.4. nDCG@10 with PISA is
    .387 with the former and .373 with the latter on "hpo", .687 and .677 on "scifact".

    Args:
        collection: The collection to search.
        engine: "pisa" (installed with pip) or "terrier" (needs Java). Stemmer and idf differ, so scores differ too.
        k1: Saturation of term frequency, at least 0.
        b: Length normalisation, from 0 to 1.
        num_results: Results per query, at least 1.
        index_path: Folder of the index; by default one in PyTerrier's home, named after documents, engine and analysis.
        threads: Threads for building and searching with PISA; one per processor when None. Terrier uses one.
        verbose: Show progress and the engine's own messages; when None, only progress, in terminals and notebooks.

    Attributes:
        name: "BM25 (PISA)" or "BM25 (Terrier)", for tables.

    Raises:
        ValueError: The engine is unknown, the collection's language is not supported, or a number is out of range.
        ModuleNotFoundError: The collection is Japanese, and the extra ``japanese`` is not installed.
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
        verbose: bool | None = None,
    ) -> None:
        require_collection(collection)
        if engine not in ENGINES:
            raise ValueError(f"there is no BM25 engine {engine!r}; there are {', '.join(ENGINES)}")
        language, languages = collection.language, ENGINES[engine].languages
        native = language in languages
        self._analysis: Analysis | None = (BEFORE_ENGINE if native else ANALYSES).get(language)
        if self._analysis:
            self._analysis.check()
        elif not native:
            raise ValueError(
                f"the engine {engine!r} cannot analyse {collection.name}: its language is {language!r}; supported "
                f"are {', '.join(sorted({*languages, *ANALYSES}))}"
            )
        self._backend = ENGINES[engine](language if native else None)
        if num_results < 1:
            raise ValueError(f"num_results must be at least 1, not {num_results}")
        if threads is not None and threads < 1:  # PISA would never end
            raise ValueError(f"threads must be at least 1, not {threads}; None is one per processor")
        self.collection = collection
        self.engine = engine
        self.k1 = k1
        self.b = b
        self.num_results = num_results
        self.index_path = None if index_path is None else user_path(index_path)
        self.threads = threads
        self.verbose = verbose
        self.name = f"BM25 ({self._backend.label})"
        self.schematic = labelled(self.name)
        self._given = GivenCandidates(collection) if collection.reranking else None
        self._opened: tuple[tuple[float, float], Search] | None = None

    @property
    def k1(self) -> float:
        """Saturation of term frequency."""
        return self._k1

    @k1.setter
    def k1(self, k1: float) -> None:
        if not 0 <= k1 <= sys.float_info.max:
            raise ValueError(f"k1 must be at least 0, not {k1}, and finite")
        self._k1 = float(k1)

    @property
    def b(self) -> float:
        """Length normalisation."""
        return self._b

    @b.setter
    def b(self, b: float) -> None:
        if not 0 <= b <= 1:
            raise ValueError(f"b must be from 0 to 1, not {b}")
        self._b = float(b)

    @property
    def fingerprint(self) -> str:
        """Changes when the results change: with documents, analysis, engine or parameters."""
        parameters = [self.k1, self.b, self.num_results, self.collection.reranking]
        return fingerprint([self._index_identity(), *parameters])

    def transform(self, inp: pd.DataFrame) -> pd.DataFrame:
        """Search each query. A query without a term of the index has no results.

        For a re-ranking collection all candidates are ranked: those without a term of the query have a score of 0.

        Args:
            inp: Columns ``qid`` and ``query``.

        Returns:
            The columns of ``inp``, ``docno``, ``score`` and ``rank`` (from 0): the queries in their order, best first.

        Raises:
            ValueError: A query is missing or is not a topic of a re-ranking collection; the corpus is empty, or one of
                its documents cannot be indexed.
            RuntimeError: A requirement of the engine is missing, or it did not index the whole corpus.
            OSError: The disk has no room for the index.
        """
        pt.validate.query_frame(inp, extra_columns=["query"])
        queries = inp.drop(columns=["score", "rank"], errors="ignore")
        if len(queries) == 0:
            return queries.assign(docno=pd.Series(dtype=str), score=pd.Series(dtype=float), rank=pd.Series(dtype=int))
        for qid, query in zip(queries["qid"], queries["query"], strict=True):
            if not isinstance(query, str):
                raise ValueError(f"the query {qid!r} is {query!r}, expected a string")  # noqa: TRY004 (data)
        found = self._rank_given(queries, self._given) if self._given else self._search(queries)
        result = queries.iloc[found["position"]].reset_index(drop=True)
        result = result.assign(docno=found["docno"], score=found["score"].astype(float), rank=found["rank"])
        return without_identical_ids(result, self.num_results) if self.collection.ignore_identical_ids else result

    def fuse_rank_cutoff(self, k: int) -> BM25 | None:
        """Return a retriever of the first ``k`` results: this one if it returns no more than ``k``."""
        if k < 1:
            return None
        if k >= self.num_results:
            return self
        tighter = copy.copy(self)
        tighter.num_results = k
        return tighter

    def index(self) -> Path:
        """Return the folder of the index; build it now if it is missing.

        Raises:
            ValueError: ``index_path`` has another index or other files, or the corpus cannot be indexed.
            OSError: The disk has no room for it. This is checked while documents are read, before the disk is full.
        """
        identity, path = self._index_identity(), self._path()
        if not path.exists():
            try:
                with finished_folder(path) as beside:
                    self._build(beside)
                    write_file(beside / _IDENTITY_FILE, json.dumps(identity, indent=2))
            except FileExistsError:
                pass  # another process has built the same index in the meantime
        found = json.loads((path / _IDENTITY_FILE).read_text()) if (path / _IDENTITY_FILE).exists() else None
        if found != identity:
            mend = "choose another index_path or delete it" if self.index_path else "delete it"
            raise ValueError(f"{path} holds {found or 'no BM25 index'}, expected {identity}; {mend}")
        return path

    def built(self) -> bool:
        """Whether the index is already built."""
        return self._path().exists()

    def _path(self) -> Path:
        kept = f"bm25-{self.engine}-{fingerprint(self._index_identity())}"
        return self.index_path or cache_folder("indexes") / kept

    def _index_identity(self) -> dict[str, str]:
        return {
            "documents": self.collection.fingerprint,
            "engine": self.engine,
            "language": self.collection.language,
            **self._backend.settings(),
            **(self._analysis.settings() if self._analysis else {}),
        }

    def _build(self, folder: Path) -> None:
        engine = self._backend
        corpus = CheckedCorpus(self.collection, engine, self._analysis, folder, verbose=self.verbose)
        docs = iter(corpus)
        first = list(itertools.islice(docs, 1))
        indexed = 0
        if first:
            docs = itertools.chain(first, docs)
            indexed = engine.build(folder, docs, threads=self._num_threads(), verbose=bool(self.verbose))
        if corpus.error is not None:
            raise corpus.error
        if not first:
            raise ValueError(f"{self.collection.name} has no documents to index")
        if not indexed:
            raise ValueError(f"no document of {self.collection.name} has a term that {engine.label} would index")
        if indexed != self.collection.num_docs:
            raise RuntimeError(
                f"{engine.label} indexed {indexed} of {self.collection.num_docs} documents of {self.collection.name}; "
                f"the last one that it read is {corpus.last_docno!r}"
            )

    def _rank_given(self, queries: pd.DataFrame, given: GivenCandidates) -> pd.DataFrame:
        """Return position (in ``queries``), docno, score and rank of each query's candidates."""
        asked = self._asked(queries)
        candidates = given.transform(queries[["qid"]].assign(position=asked.index))
        frame = _frame(asked[candidates["position"]]).assign(docno=candidates["docno"].to_numpy())
        ranked = _ranked(self._open().scored(frame))
        return ranked[ranked["rank"] < self.num_results]

    def _search(self, queries: pd.DataFrame) -> pd.DataFrame:
        """Return position (in ``queries``), docno, score and rank; one more result if the query's own is to be removed.

        An engine cuts among documents of equal score by its own numbering. To cut by docno, and so consistently for
        every depth, the search asks for one more result than needed; if that one has the score of the last one to keep,
        it asks for twice as many, and so on.
        """
        pending = self._asked(queries)
        num_results = self.num_results + self.collection.ignore_identical_ids
        depth = min(num_results, self.collection.num_docs) + 1  # PISA allocates memory for this number
        complete = []
        while len(pending):
            found = _ranked(self._open().top(_frame(pending), depth))
            last_kept = found[found["rank"] == num_results - 1].set_index("position")["score"]
            last_found = found[found["rank"] == depth - 1].set_index("position")["score"]
            tied = last_found.index[last_found == last_kept.reindex(last_found.index)]
            complete.append(found[(found["rank"] < num_results) & ~found["position"].isin(tied)])
            pending = pending.loc[tied]
            depth *= 2
        return pd.concat(complete).sort_values(["position", "rank"], ignore_index=True)

    def _asked(self, queries: pd.DataFrame) -> pd.Series:
        """The terms of each query, by its position."""
        terms: pd.Series = queries["query"].map(self._query_terms).reset_index(drop=True)
        return terms

    def ready(self) -> None:
        """Build the index, or open it."""
        self._open()

    def _open(self) -> Search:
        if self._opened is None or self._opened[0] != (self.k1, self.b):  # a grid search sets k1 and b
            path, threads = self.index(), self._num_threads()
            search = self._backend.open(path, k1=self.k1, b=self.b, threads=threads, verbose=bool(self.verbose))
            self._opened = ((self.k1, self.b), search)
        return self._opened[1]

    def _query_terms(self, query: str) -> str:
        query = clean_text(query)
        return self._analysis.encoded(query) if self._analysis else query

    def _num_threads(self) -> int:
        return self.threads or os.cpu_count() or 1

    def _identity(self) -> tuple[Any, ...]:
        of = self.collection
        collection = of.fingerprint, of.language, of.reranking, of.ignore_identical_ids
        return *collection, self.engine, self.k1, self.b, self.num_results, self.index_path

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_opened": None}  # an open index cannot be passed to another process

    def __str__(self) -> str:
        return f"BM25({self._backend.label}; {self.k1:g}, {self.b:g})"

    def __repr__(self) -> str:
        where = "" if self.index_path is None else f", index_path={str(self.index_path)!r}"
        return (
            f"BM25({self.collection.name!r}, engine={self.engine!r}, k1={self.k1}, b={self.b}, "
            f"num_results={self.num_results}{where})"
        )


def _frame(terms: pd.Series) -> pd.DataFrame:
    """The engine's queries: the terms of each query, with its position as ``qid``."""
    return pd.DataFrame({"qid": terms.index.astype(str), "query": terms.to_numpy().astype(str)})


def _ranked(found: pd.DataFrame) -> pd.DataFrame:
    """An engine's answer by position, best first, ties by docno, with ``rank`` from 0."""
    found = found.astype({"qid": int}).rename(columns={"qid": "position"})
    found = found.sort_values(["position", "score", "docno"], ascending=[True, False, True], ignore_index=True)
    return found.assign(rank=found.groupby("position").cumcount())


bm25 = BM25
