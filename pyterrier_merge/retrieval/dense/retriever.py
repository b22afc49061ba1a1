"""The transformer from queries with vectors to results."""

from __future__ import annotations

import logging
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import pandas as pd
import pyterrier as pt

from pyterrier_merge.equality import EqualByIdentity
from pyterrier_merge.progress import progress
from pyterrier_merge.retrieval.dense.exact_search import device_names
from pyterrier_merge.retrieval.dense.range_search import search_ranges
from pyterrier_merge.retrieval.dense.search import CANDIDATES, SPARE, rescored, search
from pyterrier_merge.retrieval.dense.structure import Structure
from pyterrier_merge.retrieval.dense.vectors import FloatArray, IntArray, StoredVectors, stack_vectors
from pyterrier_merge.schematic import labelled

if TYPE_CHECKING:
    from pyterrier_merge.executor import Executor
    from pyterrier_merge.retrieval.dense.index import FaissIndex

logger = logging.getLogger(__name__)

EXACT = "Flat"
COARSE = re.compile("PQ|RQ|LSQ|LSH|RaBitQ")  # codes of some bits a dimension, or less


class FaissRetriever(EqualByIdentity, pt.Transformer):
    """Search by inner product: the ``num_results`` best documents of each query, of all or of those a structure finds.

    Scores are float32; equal scores are ordered by docno, ascending, also at the cut-off. A document's score depends
    on its vector and the query's alone, neither on its place in the index nor on the other queries, the structure or
    the device.
    """

    schematic: ClassVar = labelled("FaissRetriever")

    def __init__(
        self,
        index: FaissIndex,
        num_results: int = 1_000,
        *,
        factory: str = EXACT,
        nprobe: int | None = None,
        ef_search: int | None = None,
        candidates: int | None = None,
        seed: int = 0,
        device: str | Sequence[str] | None = None,
        drop_query_vec: bool = False,
        executor: Executor | None = None,
        verbose: bool | None = None,
    ) -> None:
        """Describe the search; the index is opened at the first query, and the structure built, where it is not there.

        Args:
            index: What to search.
            num_results: Documents a query at most; it may be more than there are. A structure may find fewer.
            factory: FAISS' factory string: ``Flat`` is exact search; ``HNSW32``, ``IVF1024,Flat``, ``IVF1024,SQfp16``,
                ``IVF1024,PQ48`` and the like propose documents, which are scored again with the stored vectors. A
                structure is kept in the index's folder. Several threads build an HNSW graph in an order that differs
                from build to build: share the folder to share its results.
            nprobe: Lists of an IVF that are searched; when None, twice the square root of their number, or as many as
                hold four times the candidates, where that is more.
            ef_search: Length of HNSW's queue; 64 when None. The number of candidates is the least that it can be.
            candidates: Documents that a structure proposes; ``num_results`` and 32 more when None. A product quantizer
                needs more of them, as its scores are coarse; a warning says so where they are not given.
            seed: Chooses the vectors that a structure is trained with.
            device: None is the CPU; ``"cuda"`` all GPUs, over which documents are split; or names of torch devices. A
                structure needs faiss-gpu then, and one with more than 2,048 candidates is searched on the CPU.
            drop_query_vec: Leave ``query_vec`` out of the results.
            executor: Its workers share an exact search, each with a range of the documents; a search by a structure
                runs in this process, as all do when None.
            verbose: Show a progress bar; in terminals and notebooks when None.

        Raises:
            ValueError: ``num_results``, ``nprobe`` or ``ef_search`` is below 1, ``candidates`` are fewer than
                ``num_results``, or one of the last three is given for exact search.
        """
        for name, value in (("num_results", num_results), ("nprobe", nprobe), ("ef_search", ef_search)):
            if value is not None and value < 1:
                raise ValueError(f"{name} is at least 1, found {value!r}")
        if candidates is not None and candidates < num_results:
            raise ValueError(f"candidates are at least num_results, {num_results}, found {candidates!r}")
        given = {"nprobe": nprobe, "ef_search": ef_search, "candidates": candidates}
        if factory == EXACT and (useless := [name for name, value in given.items() if value is not None]):
            raise ValueError(
                f"exact search takes no {' and no '.join(useless)}: leave it out, or give a factory string"
            )
        self.index = index
        self.num_results = num_results
        self.factory = factory
        self.nprobe = nprobe
        self.ef_search = ef_search
        self.candidates = candidates
        self.seed = seed
        self.device = device
        self.drop_query_vec = drop_query_vec
        self.executor = executor
        self.verbose = verbose
        self._warned: set[str] = set()

    def transform(self, inp: pd.DataFrame) -> pd.DataFrame:
        """Add ``docno``, ``docid``, ``score`` and ``rank`` (from 0) to queries with ``query_vec``.

        Raises:
            FileNotFoundError: The index is not built.
            ValueError: A query vector of a wrong dimension, not finite, or another encoder's; a device that is not
                there; a factory string that FAISS cannot build over these vectors, or a parameter that its structure
                does not have.
            RuntimeError: Vectors or structure are damaged, or FAISS has no GPU.
            ImportError: faiss is not installed.
        """
        pt.validate.query_frame(inp, extra_columns=["query_vec"], context=self)
        queries = inp.drop(columns="query_vec") if self.drop_query_vec else inp
        if inp.empty:
            return queries.assign(
                docno=pd.Series(dtype=str),
                docid=pd.Series(dtype=np.int64),
                score=pd.Series(dtype=np.float32),
                rank=pd.Series(dtype=np.int64),
            )
        self.index.require_encoder_of(inp["query_vec"])
        vectors = self.index.open()
        matrix = stack_vectors([f"query {qid!r}" for qid in inp["qid"]], inp["query_vec"], vectors.shape[1])
        scores, docids = self._search(vectors, matrix)
        rows, ranks = np.nonzero(docids >= 0)
        found = docids[rows, ranks]
        return (
            queries.iloc[rows]
            .reset_index(drop=True)
            .assign(
                docno=vectors.docnos(found), docid=found, score=scores[rows, ranks], rank=ranks + pt.model.FIRST_RANK
            )
        )

    def _search(self, vectors: StoredVectors, queries: FloatArray) -> tuple[FloatArray, IntArray]:
        devices = device_names(self.device)
        if self.factory == EXACT and self.executor is not None and self.executor.workers > 1:
            return search_ranges(
                vectors, queries, self.num_results, self.executor, devices=devices, verbose=self.verbose
            )
        if self.factory == EXACT:
            return search(vectors, queries, self.num_results, devices=devices, verbose=self.verbose)
        structure = Structure(self.factory, self.seed, self.nprobe, self.ef_search)
        depth = min(self._candidates(), vectors.shape[0])
        step = max(1, CANDIDATES // depth)
        found = []
        for start in progress(range(0, len(queries), step), desc="searching", unit="batch", verbose=self.verbose):
            batch = queries[start : start + step]
            proposed = structure.search(vectors, batch, depth, devices=devices, verbose=self.index.verbose)
            found.append(rescored(vectors, batch, proposed, self.num_results))
        scores, docids = map(np.concatenate, zip(*found, strict=True))
        self._warn_of_coarse_codes()
        self._warn_of_few(structure, vectors, docids, depth)
        return scores, docids

    def _warn_of_coarse_codes(self) -> None:
        if self.candidates is None and COARSE.search(self.factory):
            self._warn_once(
                "candidates",
                "%s has coarse scores: %d candidates for %d results may miss more than one in twenty of the best; give "
                "candidates=%d or more, and compare with exact search",
                *(self.factory, self._candidates(), self.num_results, 10 * self.num_results),
            )

    def _warn_of_few(self, structure: Structure, vectors: StoredVectors, docids: IntArray, depth: int) -> None:
        wanted, counts = min(self.num_results, vectors.shape[0]), (docids >= 0).sum(axis=1)
        if few := int((counts < wanted).sum()):
            least = int(counts.min())
            self._warn_once(
                "few",
                "%s found fewer than %d documents, %d at least, for %d of %d queries: %s",
                *(self.factory, wanted, least, few, len(counts)),
                structure.effort(vectors, depth).advice(least, wanted),
            )

    def _warn_once(self, about: str, message: str, *values: object) -> None:
        if about not in self._warned:
            self._warned.add(about)
            logger.warning(message, *values)

    def _candidates(self) -> int:
        return self.candidates or self.num_results + SPARE

    def fuse_rank_cutoff(self, k: int) -> FaissRetriever | None:
        """Return a retriever that stops at ``k``; itself where it does already. Its structure proposes as many."""
        if k < 1:
            return None
        if k >= self.num_results:
            return self
        candidates = None if self.factory == EXACT else self._candidates()
        return FaissRetriever(self.index, k, **(self._settings() | {"candidates": candidates}))

    def fuse_left(self, left: pt.Transformer) -> None:
        """Refuse, when a pipeline is compiled, an encoder other than the one that the documents were encoded with.

        Raises:
            ValueError: Both fingerprints are known, and they differ.
        """
        self.index.require_encoder_before(left)

    def _settings(self) -> dict[str, Any]:
        searched = ("factory", "nprobe", "ef_search", "candidates", "seed", "device")
        names = (*searched, "drop_query_vec", "executor", "verbose")
        return {name: getattr(self, name) for name in names}

    def _identity(self) -> tuple[Any, ...]:
        device = self.device if self.device is None or isinstance(self.device, str) else tuple(self.device)
        settings = self._settings() | {"device": device, "executor": None, "verbose": None}
        return self.index, self.num_results, *settings.items()

    def __str__(self) -> str:
        factory = "" if self.factory == EXACT else f"{self.factory}, "
        return f"{self.index.path.stem}.retriever({factory}{self.num_results})"

    def __repr__(self) -> str:
        hidden = {"drop_query_vec", "executor", "verbose", *(("factory", "seed") if self.factory == EXACT else ())}
        shown = {name: value for name, value in self._settings().items() if name not in hidden and value is not None}
        settings = "".join(f", {name}={value!r}" for name, value in shown.items())
        return f"{self.index!r}.retriever(num_results={self.num_results}{settings})"
