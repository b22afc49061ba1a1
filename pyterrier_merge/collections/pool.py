"""A part of a collection for choosing settings: the documents that matter to one split's queries."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass

import pandas as pd

from pyterrier_merge.collections.base import TestCollection
from pyterrier_merge.collections.derived import DerivedCollection
from pyterrier_merge.collections.identical_ids import without_identical_ids
from pyterrier_merge.fingerprint import fingerprint


def pooled(
    collection: TestCollection, split: str, runs: Sequence[pd.DataFrame], *, depth: int, judged: bool = True
) -> TestCollection:
    """Return the collection reduced to the judged documents of one split and the first ``depth`` results of some runs.

    Figures on a pool are higher than on the whole collection and can only be compared with each other: use them for
    choices, do not report them as results. A re-ranking collection keeps all candidates of the split and its figures.

    Args:
        collection: The whole collection.
        split: The only split that the pool has.
        runs: Results for that split's queries (columns ``qid``, ``docno``, ``rank`` from 0), of different systems. A
            query's own document does not count if the collection ignores it (``ignore_identical_ids``).
        depth: Number of results of each query and run in the pool.
        judged: Whether the judged documents are in the pool.

    Raises:
        ValueError: ``depth`` is below 1, there is no such split, or a run is of other queries.
    """
    if depth < 1:
        raise ValueError(f"the depth of a pool is at least 1, found {depth!r}")
    asked = collection.topics(split)["qid"]
    for run in runs:
        if len(run) and not run["qid"].isin(asked).any():
            raise ValueError(
                f"a run has results for other queries than those of {split}, such as {run['qid'].iloc[0]!r}: search "
                f"topics({split!r})"
            )
    qrels = collection.qrels(split)
    docnos = set(qrels["docno"]) if judged else set()
    if collection.reranking:
        docnos.update(collection.candidates(split)["docno"])
    for run in map(without_identical_ids, runs) if collection.ignore_identical_ids else runs:
        docnos.update(run.loc[run["rank"] < depth, "docno"])
    docnos = {doc["docno"] for doc in collection.documents_of(docnos)}  # some judged ones may be missing
    return _part(collection, docnos, (split,))


def documents_alone(collection: TestCollection, docnos: Collection[str]) -> TestCollection:
    """Return the collection reduced to some of its documents, to score these."""
    return _part(collection, docnos, collection.splits)


def _part(collection: TestCollection, docnos: Collection[str], splits: Sequence[str]) -> TestCollection:
    return PooledCollection(
        **{**collection.description, "splits": tuple(splits)}, whole=collection, docnos=frozenset(docnos)
    )


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class PooledCollection(DerivedCollection):
    """The collection that ``pooled`` and ``documents_alone`` make."""

    docnos: frozenset[str]

    @property
    def num_docs(self) -> int:
        """Number of documents in the pool."""
        return len(self.docnos)

    @property
    def fingerprint(self) -> str:
        """Fingerprint of the whole collection and of the pool's docnos."""
        return fingerprint({"whole": self.whole.fingerprint, "docnos": sorted(self.docnos)})

    def documents_of(self, docnos: Collection[str]) -> Iterator[dict[str, str]]:
        """Look documents of the pool up in the whole."""
        return self.whole.documents_of(self.docnos & set(docnos))

    def _documents(self) -> Iterator[dict[str, str]]:
        return self.whole.documents_of(self.docnos)
