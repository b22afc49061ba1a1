"""The sweep section of an experiment's file: its queries, its documents, and its steps."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, Any

from ir_measures.measures import Measure
from pydantic import AfterValidator, Field, model_validator

from pyterrier_merge.collections.some_queries import with_queries
from pyterrier_merge.evaluation import check_measure, judged, parsed_measure, require_attainable
from pyterrier_merge.systems.base import Bench, PlanningBench, Step, index_step
from pyterrier_merge.systems.choosing import require_other_queries
from pyterrier_merge.systems.pool import PoolSection
from pyterrier_merge.systems.sampling import Sampling
from pyterrier_merge.systems.settings import Positive
from pyterrier_merge.systems.space import SpaceSection
from pyterrier_merge.training.fold_queries import fold_numbers
from pyterrier_merge.training.pairs import pairs_from_collection
from pyterrier_merge.tuning.rule import Rule
from pyterrier_merge.tuning.search import Search, require_optuna, require_searchable
from pyterrier_merge.tuning.space import PAPER_GRID, Space

if TYPE_CHECKING:
    from pyterrier_merge.collections.base import TestCollection
    from pyterrier_merge.encoding.encoders import E5Encoder
    from pyterrier_merge.encoding.merged import MergedE5Encoder
    from pyterrier_merge.recipe import MergeRecipe
    from pyterrier_merge.tuning.folds import FoldedSweep
    from pyterrier_merge.tuning.result import Sweep


class SweepSection(Sampling):
    """How the alphas are chosen: on a split, by folds, or on samples of a split's queries if labels are few.

    Queries of samples are those with a relevant document in the collection.

    Attributes:
        grid: Values of all alphas, or points, such as pairs ``[alpha_lower, alpha_upper]``.
        space: The parameters that vary; two alphas when left out.
        search: Search the space with Optuna instead of trying every point.
        refine: Number of finer grids to try afterwards, each around the best point so far.
        rule: ``best``, or the nearest to the source within one standard error of the best.
        split: The split to choose on; never the split that tables are computed on, unless by folds.
        folds: Choose for each fold of the queries on all others. The split is then that of the tables.
        metric: The measure for the choice; the experiment's first measure when left out.
        pool: Choose on a pool instead of the whole collection.
        confirm: Measure this number of the pool's best points on the whole collection, and choose among them.
        collection: Choose on another collection of the experiment, by its label.
    """

    grid: tuple[float, ...] | tuple[tuple[float, ...], ...] = PAPER_GRID
    split: str = "dev"
    metric: Annotated[str, AfterValidator(lambda text: str(parsed_measure(text)))] | None = None
    pool: PoolSection | None = None
    confirm: Positive | None = None
    collection: str | None = None
    space: SpaceSection = SpaceSection()
    search: Search | None = None
    refine: Annotated[int, Field(ge=0, le=5)] = 0
    rule: Rule = "best"
    folds: Annotated[int, Field(ge=2)] | None = None

    @model_validator(mode="after")
    def _goes_together(self) -> SweepSection:
        if self.confirm and self.pool is None:
            raise ValueError("'confirm' is of the best of a pool: say 'pool', too")
        if self.search and self.refine:
            raise ValueError("a search looks at fine differences by itself: leave 'refine' out")
        if self.folds:
            chosen = {"search": self.search, "refine": self.refine, "confirm": self.confirm}
            if named := [name for name, given in chosen.items() if given]:
                raise ValueError(f"by folds, points must not depend on the queries: leave {', '.join(named)} out")
            if self.sampled or self.collection:
                raise ValueError(
                    "folds are of all judged queries of the table's own split: leave samples, 'collection' out"
                )
        elif self.seed and not self.sampled:
            raise ValueError("'seed' is for samples and folds; a search has its own: search: {seed: ...}")
        return self

    def varied(self, domains: int) -> Space:
        """Return the space of a merge with the given number of domain models.

        Raises:
            ValueError: Grid, space and search do not fit together.
        """
        space = self.space.space(self.grid, domains)
        if self.search:
            require_searchable(space)
        else:
            space.points()
        return space

    def measure(self, bench: Bench) -> Measure:
        """Return the measure for the choice."""
        return bench.measures[0] if self.metric is None else parsed_measure(self.metric)

    def check(self, bench: Bench) -> None:
        """Raise ``ValueError`` for errors that would appear late: the table's queries, a metric, too many folds."""
        there = bench.on(self.collection)
        if self.folds is None:
            require_other_queries(bench, self.split, "sweep.split", on=self.collection)
        elif self.split != bench.split:
            raise ValueError(f"sweep.split: folds are made of the table's own queries: say split: {bench.split}")
        if self.pool is not None:
            self.pool.check(bench, self.split)
        topics, qrels = judged(there.collection.topics(self.split), there.collection.qrels(self.split))
        if self.folds:
            fold_numbers(topics, self.folds, seed=self.seed, name=f"sweep.folds: {there.collection.name}, {self.split}")
        if self.search:
            require_optuna()
        check_measure(self.measure(bench), bench.num_results)
        require_attainable(self.measure(bench), qrels)
        self.asked(there)  # fails for a sample that is too small

    def asked(self, bench: Bench) -> list[TestCollection]:
        """Return the collection with the queries to choose on, for each trial if they are sampled.

        Raises:
            ValueError: A sample would have fewer than two queries, or more queries than there are.
        """
        collection = bench.collection
        if not self.sampled:
            return [collection]
        pairs = pairs_from_collection(collection, self.split)
        return [with_queries(collection, self.split, sample.queries["qid"]) for sample in self.samples(pairs)]

    def searched(self, bench: Bench, asked: TestCollection) -> TestCollection:
        """Return the documents to choose on, with the queries."""
        return asked if self.pool is None else self.pool.documents(bench, asked, self.split)

    def choose(self, bench: Bench, encoder: MergedE5Encoder, asked: TestCollection) -> Sweep | FoldedSweep:
        """Choose a merge, or one for each fold.

        Args:
            bench: The table's bench.
            encoder: The encoder with models and settings, for the collection to choose on.
            asked: That collection, with the queries to choose on.
        """
        from pyterrier_merge.tuning import folds, sweep

        there = bench.on(self.collection)
        documents = self.searched(there, asked)
        common: dict[str, Any] = {
            "space": self.varied(len(encoder.recipe.domains)),
            "rule": self.rule,
            "metric": self.measure(bench),
            "split": self.split,
            "num_results": bench.num_results,
            "executor": bench.executor,
            "verbose": bench.verbose,
        }
        if self.folds:
            return folds.sweep_folds(encoder, documents, folds=self.folds, seed=self.seed, **common)
        common |= {"search": self.search, "refine": self.refine}
        if self.confirm:
            return sweep.sweep(encoder, asked, screen=documents, confirm=self.confirm, **common)
        return sweep.sweep(encoder, documents, **common)

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
            bench: The bench on which the merge is searched; the sweep may be on another one.
            recipe: The recipe with the models; its alphas are not used.
            encoder: Makes the encoder of a merge.
            settings: Settings of the encoders, on the bench of the sweep.
            there: Whether the domain models exist; None if unknown.
        """
        chosen_on, trials = bench.on(self.collection), self.trials or 1
        parts = chosen_on.if_cheap(lambda: [self.searched(chosen_on, asked) for asked in self.asked(chosen_on)])
        steps: list[Step] = []
        for trial in range(trials):
            part = parts[trial] if parts else None
            steps += self._merges(chosen_on, part, trial, recipe, encoder, settings, there)
        kept = False if there is False else None
        chosen = [index_step(bench, encoder(bench, recipe), over="") for _ in range(trials * (self.folds or 1))]
        return [*steps, *(replace(index, kept=kept, at_most=True) for index in chosen)]

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
        """The merges that one trial tries; documents and queries are unknown if ``part`` is None."""
        documents = whole = chosen_on.documents
        over = f"scores on {chosen_on.collection.name}, {self.split}, {self.pool}, {trial}"
        if self.pool:
            documents = part.num_docs if part else self.pool.most(chosen_on, self.split)
        tried = self._tried(chosen_on, recipe)
        kept = self._kept(chosen_on, part, tried or [], recipe, settings, there)
        at_most = self.pool is not None and part is None
        merge = Step(what="merges of the sweep", documents=documents, at_most=at_most, stored=False)
        known = [
            replace(merge, encoder=encoder(chosen_on, one), kept=done, over=over)
            for one, done in zip(tried or [], kept, strict=True)
        ]
        later = [documents] * self._unknown_merges(tried) + [whole] * (self.confirm + 1 if self.confirm else 0)
        unknown = [replace(merge, encoder=encoder(chosen_on, recipe), documents=some, at_most=True) for some in later]
        return [*known, *unknown]

    def _tried(self, chosen_on: PlanningBench, recipe: MergeRecipe) -> list[MergeRecipe] | None:
        """The merges that are always tried; None if the model's number of layers is unknown."""
        space = self.varied(len(recipe.domains))
        if space.shape == "profile":
            from pyterrier_merge.tuning.sweep import layers_of

            space = replace(space, depth=chosen_on.if_cheap(lambda: layers_of(recipe), recipe.source))
            if space.depth is None:
                return None
        points = [] if self.search else space.points()
        ends = space.ends if self.search or space.shows_ends(self.rule) else space.ends[:1]
        return list(dict.fromkeys([*space.recipes(recipe, [*points, *ends]), space.domain(recipe)]))

    def _unknown_merges(self, tried: Sequence[MergeRecipe] | None) -> int:
        """Number of merges to try that are not known in advance."""
        if tried is None:
            return 1
        if self.search:
            return self.search.trials or 1
        space = self.space.space(self.grid, 2)
        return self.refine * 3 ** len([*space.alphas, *space.settings, *space.shares])

    def _kept(
        self,
        chosen_on: PlanningBench,
        part: TestCollection | None,
        tried: Sequence[MergeRecipe],
        recipe: MergeRecipe,
        settings: Mapping[str, Any],
        there: bool | None,
    ) -> Sequence[bool | None]:
        """Whether each merge has been scored; documents and queries are unknown if ``part`` is None."""
        if not tried or not there or part is None:
            return [False if there is False else None] * len(tried)

        def look() -> list[bool]:
            from pyterrier_merge.tuning.score import ScoringTask, scored

            measure = self.measure(chosen_on)
            return scored(tried, ScoringTask(part, self.split, measure, chosen_on.num_results, settings=settings))

        return chosen_on.if_cheap(look, *recipe.models) or [None] * len(tried)
