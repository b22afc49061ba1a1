"""The pool section of an experiment's file: a part of the collection to choose on."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import model_validator

from pyterrier_merge.collections.pool import pooled
from pyterrier_merge.systems.base import Bench, PlanningBench, Section
from pyterrier_merge.systems.choosing import require_answers, require_not_by_folds
from pyterrier_merge.systems.settings import Positive

if TYPE_CHECKING:
    from pyterrier_merge.collections.base import TestCollection


class PoolSection(Section):
    """Choose on a part of the collection: the judged documents and the first results of some systems.

    Attributes:
        of: Names of systems whose results are in the pool.
        depth: Number of results of each query and system in the pool.
        judged: Whether the judged documents are in the pool; they are many for TREC's large pools.
    """

    of: tuple[str, ...]
    depth: Positive = 10
    judged: bool = True

    @model_validator(mode="after")
    def _not_empty(self) -> PoolSection:
        if not self.judged and not self.of:
            raise ValueError("the pool is empty: name systems in 'of', or leave 'judged' out")
        return self

    def check(self, bench: Bench, split: str) -> None:
        """Raise ``ValueError`` if a system cannot answer the queries to choose on."""
        require_not_by_folds(bench, self.of, "pool.of", split)

    def documents(self, bench: Bench, asked: TestCollection, split: str) -> TestCollection:
        """Return the pool: documents of the bench's collection that matter to the queries.

        Raises:
            ValueError: A system has no results for them.
        """
        topics, runs = asked.topics(split), []
        for name in self.of:
            run = bench.results(name, split)
            require_answers(run, topics, name, split)
            runs.append(run[run["qid"].isin(topics["qid"])])
        return pooled(asked, split, runs, depth=self.depth, judged=self.judged)

    def most(self, bench: PlanningBench, split: str) -> int | None:
        """Return the maximum number of documents of the pool; None if unknown."""
        queries, judged = bench.queries(split), 0 if not self.judged else bench.judged_documents(split)
        if bench.collection.reranking or queries is None or judged is None:
            return bench.documents if bench.collection.reranking else None
        found = len(self.of) * self.depth * queries + judged
        return found if bench.documents is None else min(found, bench.documents)
