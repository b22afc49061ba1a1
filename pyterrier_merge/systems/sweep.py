"""A sweep of an experiment's file: what is tried, on which documents, and what it would do."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, Any

from ir_measures.measures import Measure
from pydantic import AfterValidator, model_validator

from pyterrier_merge.collections.pool import pooled
from pyterrier_merge.collections.some_queries import with_queries
from pyterrier_merge.evaluation import parsed_measure
from pyterrier_merge.systems.base import Bench, PlanningBench, Section, Step, index_step
from pyterrier_merge.systems.choosing import require_answers
from pyterrier_merge.systems.sampling import Sampling
from pyterrier_merge.systems.settings import Positive
from pyterrier_merge.training.pairs import pairs_from_collection
from pyterrier_merge.tuning.space import PAPER_GRID, Space

if TYPE_CHECKING:
    from pyterrier_merge.collections.base import TestCollection
    from pyterrier_merge.encoding.encoders import E5Encoder
    from pyterrier_merge.recipe import MergeRecipe


class PoolSection(Section):
    """Choose on a part of the collection: the judged documents and the first results of some systems.

    Attributes:
        of: Names of systems whose results go into the pool.
        depth: Results of each query and system that go into the pool.
        judged: Whether the judged documents do; they are many where TREC's pools are large.
    """

    of: tuple[str, ...]
    depth: Positive = 10
    judged: bool = True

    @model_validator(mode="after")
    def _not_empty(self) -> PoolSection:
        if not self.judged and not self.of:
            raise ValueError("the pool is empty: name systems in 'of', or leave 'judged' out")
        return self

    def documents(self, bench: Bench, asked: TestCollection, split: str) -> TestCollection:
        """Return the pool: documents of the bench's collection that matter to the queries that are asked.

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
        """Return the number of documents that the pool has at most; None where that is not known."""
        queries, judged = bench.queries(split), 0 if not self.judged else bench.judged_documents(split)
        if bench.collection.reranking or queries is None or judged is None:
            return bench.documents if bench.collection.reranking else None
        found = len(self.of) * self.depth * queries + judged
        return found if bench.documents is None else min(found, bench.documents)


class SweepSection(Sampling):
    """How the alphas are chosen: on a split, or on samples of its queries, where labels are few.

    Queries of samples are those with a relevant document in the collection.

    Attributes:
        grid: Values of both alphas, or pairs ``[alpha_lower, alpha_upper]``.
        split: The split to choose on; never the split that tables are computed on.
        metric: What to choose by; the experiment's first measure when left out.
        pool: Choose on a pool instead of the whole collection.
        collection: Choose on another collection of the experiment, by its label.
    """

    grid: tuple[float, ...] | tuple[tuple[float, float], ...] = PAPER_GRID
    split: str = "dev"
    metric: Annotated[str, AfterValidator(lambda text: str(parsed_measure(text)))] | None = None
    pool: PoolSection | None = None
    collection: str | None = None

    @model_validator(mode="after")
    def _grid_within_bounds(self) -> SweepSection:
        Space.halves(self.grid)
        return self

    def measure(self, bench: Bench) -> Measure:
        """Return what to choose by."""
        return bench.measures[0] if self.metric is None else parsed_measure(self.metric)

    def asked(self, bench: Bench) -> list[TestCollection]:
        """Return the collection with the queries to choose on: of each trial, where they are sampled.

        Raises:
            ValueError: A sample would have fewer than two queries, or more than there are.
        """
        collection = bench.collection
        if not self.sampled:
            return [collection]
        pairs = pairs_from_collection(collection, self.split)
        return [with_queries(collection, self.split, sample.queries["qid"]) for sample in self.samples(pairs)]

    def searched(self, bench: Bench, asked: TestCollection) -> TestCollection:
        """Return the documents to choose on, with the queries that are asked."""
        return asked if self.pool is None else self.pool.documents(bench, asked, self.split)

    def steps(
        self,
        bench: PlanningBench,
        recipe: MergeRecipe,
        encoder: Callable[[PlanningBench, MergeRecipe], E5Encoder],
        settings: Mapping[str, Any],
        there: bool | None,
    ) -> list[Step]:
        """Return the steps of a sweep.

        Args:
            bench: That the merge is searched on; the sweep may be on another one.
            recipe: Names the models; its alphas are of no account.
            encoder: Makes the encoder of a merge.
            settings: Of the encoders, on the bench of the sweep.
            there: Whether the domain models exist; None where that is not known.
        """
        chosen_on, trials = bench.on(self.collection), range(self.trials or 1)
        parts = chosen_on.if_cheap(lambda: [self.searched(chosen_on, asked) for asked in self.asked(chosen_on)])
        steps: list[Step] = []
        for trial in trials:
            part = parts[trial] if parts else None
            steps += self._merges(chosen_on, part, trial, recipe, encoder, settings, there)
        if self.pool is None and chosen_on is bench:  # the sweep leaves the index of the merge that is chosen
            return steps
        index = index_step(bench, encoder(bench, recipe), over="")
        return [*steps, *[replace(index, kept=False if there is False else None, at_most=True)] * len(trials)]

    def _merges(
        self,
        chosen_on: PlanningBench,
        part: TestCollection | None,
        trial: int,
        recipe: MergeRecipe,
        encoder: Callable[[PlanningBench, MergeRecipe], E5Encoder],
        settings: Mapping[str, Any],
        there: bool | None,
    ) -> list[Step]:
        """The merges that one trial tries, on documents and queries that are not known where ``part`` is None."""
        space = Space.halves(self.grid)
        tried = list(dict.fromkeys(space.recipe(recipe, point) for point in (*space.points(), *space.ends)))
        kept: Sequence[bool | None] | None = [False] * len(tried) if there is False else None
        if there and part is not None:

            def look() -> list[bool]:
                from pyterrier_merge.tuning.score import ScoringTask, scored

                measure = self.measure(chosen_on)
                return scored(tried, ScoringTask(part, self.split, measure, chosen_on.num_results, settings=settings))

            kept = chosen_on.if_cheap(look, *recipe.models)
        documents = chosen_on.documents
        if self.pool:
            documents = part.num_docs if part else self.pool.most(chosen_on, self.split)
        over = f"{chosen_on.collection.name}{f', {self.split}, {self.pool}, {trial}' if self.pool else ''}"
        return [
            Step(
                what="merges of the sweep",
                kept=done,
                encoder=encoder(chosen_on, one),
                documents=documents,
                at_most=self.pool is not None and part is None,
                over=over,
            )
            for one, done in zip(tried, kept or [None] * len(tried), strict=True)
        ]
