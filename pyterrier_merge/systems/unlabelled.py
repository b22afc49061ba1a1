"""Choosing alphas without labels, on known items."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from ir_measures.measures import Measure
from pydantic import AfterValidator, Field

from pyterrier_merge.evaluation import parsed_measure
from pyterrier_merge.systems.base import Bench, PlanningBench, Section, Step, index_step
from pyterrier_merge.tuning.space import PAPER_GRID, Space

if TYPE_CHECKING:
    from pyterrier_merge.collections.base import TestCollection
    from pyterrier_merge.encoding.encoders import E5Encoder
    from pyterrier_merge.encoding.merged import MergedE5Encoder
    from pyterrier_merge.recipe import MergeRecipe
    from pyterrier_merge.tuning.unlabelled import LabelFree


class UnlabelledSection(Section):
    """How the alphas are chosen without labels; see :func:`pyterrier_merge.choose_unlabelled`.

    No judgement and no query is read. If the evidence is not enough, the source is kept.

    Attributes:
        on: ``known-items``: parts of documents are the queries, the rest of them the documents.
        grid: Values of both alphas, or pairs ``[alpha_lower, alpha_upper]``.
        items: Documents to draw for each kind of items.
        seed: Random seed of the draw.
        metric: The measure for the choice; the experiment's first measure when left out.
        collection: Take the items from another collection of the experiment, by its label.
    """

    on: Literal["known-items"]
    grid: tuple[float, ...] | tuple[tuple[float, float], ...] = PAPER_GRID
    items: Annotated[int, Field(ge=10)] = 2500
    seed: Annotated[int, Field(ge=0)] = 0
    metric: Annotated[str, AfterValidator(lambda text: str(parsed_measure(text)))] | None = None
    collection: str | None = None

    pool: ClassVar[None] = None  # for the same interface as a sweep over queries
    trials: ClassVar[None] = None

    def varied(self, domains: int) -> Space:  # noqa: ARG002 (same interface as a sweep over queries)
        """Return the space of a merge with the given number of domain models.

        Raises:
            ValueError: The grid has too many points.
        """
        space = Space.halves(self.grid)
        space.points()
        return space

    def measure(self, bench: Bench) -> Measure:
        """Return the measure for the choice."""
        return bench.measures[0] if self.metric is None else parsed_measure(self.metric)

    def check(self, bench: Bench) -> None:
        """Raise an error that would otherwise appear late: the collection's label, the metric, BM25's analysis."""
        from pyterrier_merge.tuning.unlabelled import require_choosable

        require_choosable(bench.on(self.collection).collection, self.measure(bench))

    def asked(self, bench: Bench) -> list[TestCollection]:
        """Return the collection whose documents make the items."""
        return [bench.collection]

    def choose(self, bench: Bench, encoder: MergedE5Encoder, asked: TestCollection) -> LabelFree:
        """Choose a merge, or the source."""
        from pyterrier_merge.tuning.unlabelled import choose_unlabelled

        return choose_unlabelled(
            encoder,
            asked,
            grid=self.grid,
            n=self.items,
            seed=self.seed,
            metric=self.measure(bench),
            executor=bench.executor,
            verbose=bench.verbose,
        )

    def steps(
        self,
        bench: PlanningBench,
        recipe: MergeRecipe,
        encoder: Callable[[PlanningBench, MergeRecipe], E5Encoder],
        settings: Mapping[str, Any],  # noqa: ARG002 (same interface as a sweep over queries)
        there: bool | None,  # noqa: ARG002
    ) -> list[Step]:
        """Return the maximum merges to try, on three kinds of items, and the index of the chosen one."""
        chosen_on = bench.on(self.collection)
        known = chosen_on.documents
        items = self.items if known is None else min(self.items, known)
        merge = Step(
            what="merges of the sweep",
            encoder=encoder(chosen_on, recipe),
            documents=3 * items,
            at_most=True,
            stored=False,
        )
        space = self.varied(1)
        tried = {*space.recipes(recipe, [*space.points(), space.ends[0]]), space.domain(recipe)}
        return [*[merge] * len(tried), replace(index_step(bench, encoder(bench, recipe), over=""), at_most=True)]
