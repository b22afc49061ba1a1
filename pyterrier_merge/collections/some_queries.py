"""A collection with some of its queries: a sample of the labelled queries, or the held-out ones."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

import pandas as pd

from pyterrier_merge.collections.base import TestCollection
from pyterrier_merge.collections.derived import DerivedCollection


def with_queries(collection: TestCollection, split: str, qids: Collection[str]) -> TestCollection:
    """Return the collection with these queries of one split, its only split.

    Documents, name and fingerprint stay the same: an index of the whole collection can be used, and labels have the
    same names.

    Raises:
        ValueError: There is no such split, or a qid is not among its queries.
    """
    wanted = frozenset(qids)
    if unknown := sorted(wanted.difference(collection.topics(split)["qid"])):
        raise ValueError(f"{collection.name}: {len(unknown)} qids are not queries of {split}, such as {unknown[0]!r}")
    return SomeQueries(**{**collection.description, "splits": (split,)}, whole=collection, qids=wanted)


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class SomeQueries(DerivedCollection):
    """The collection that ``with_queries`` makes."""

    qids: frozenset[str]

    def _topics(self, split: str) -> pd.DataFrame:
        return self._asked(self.whole.topics(split))

    def _qrels(self, split: str) -> pd.DataFrame:
        return self._asked(self.whole.qrels(split))

    def _candidates(self, split: str) -> pd.DataFrame:
        return self._asked(self.whole.candidates(split))

    def _asked(self, frame: pd.DataFrame) -> pd.DataFrame:
        return frame[frame["qid"].isin(self.qids)]
