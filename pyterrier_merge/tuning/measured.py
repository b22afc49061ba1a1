"""Points of a space with their scores on each query, from which merges are chosen."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from pyterrier_merge.evaluation import require_attainable
from pyterrier_merge.executor import Executor
from pyterrier_merge.recipe import MergeRecipe
from pyterrier_merge.tuning.points import Point, Value
from pyterrier_merge.tuning.rule import Rule, choose, require_rule
from pyterrier_merge.tuning.score import ScoringTask, scores
from pyterrier_merge.tuning.space import Space

if TYPE_CHECKING:
    from pyterrier_merge.collections.base import TestCollection


@dataclass(frozen=True)
class Measured:
    """Points of a space, their recipes, and the value of each query for each point.

    Attributes:
        points: Points with distinct recipes; all that keep the source count as one.
        recipes: Their recipes, in the same order.
        values: One row per query (index ``qid``), one column per point.
        source: The source's value for each query.
        domain: The domain model's value for each query; for several models, that of their equal mixture. None if it was
            not measured.
    """

    points: tuple[dict[str, Value], ...]
    recipes: tuple[MergeRecipe, ...]
    values: pd.DataFrame
    source: pd.Series[float]
    domain: pd.Series[float] | None

    @cached_property
    def kept(self) -> np.ndarray:
        """The share of the source that each point keeps."""
        return np.array([source_share(recipe) for recipe in self.recipes])

    def choose(self, rule: Rule, queries: pd.Index[str] | None = None) -> int:
        """Return the position of the point that is chosen on these queries; on all queries when None."""
        values = self.values if queries is None else self.values.loc[queries]
        return choose(values.to_numpy(dtype=float), self.kept, rule)

    def leaders(self, number: int) -> list[int]:
        """Return the positions of the ``number`` points with the highest means, best first."""
        order = np.lexsort([-self.kept, -self.values.mean().round(12).to_numpy()])
        return [int(position) for position in order[:number]]

    def table(self, space: Space) -> pd.DataFrame:
        """Return a row for each point and a column for each parameter."""
        return pd.DataFrame(list(self.points), columns=list(space.values))

    def named(self, space: Space) -> pd.DataFrame:
        """Return the values with points as columns: one level for each parameter."""
        columns = pd.MultiIndex.from_frame(self.table(space))
        return self.values.set_axis(columns, axis=1)


@dataclass(frozen=True)
class Measuring:
    """Measures points of a space.

    Attributes:
        space: The space of points.
        models: The recipe that gives the models.
        task: The task that the merges are scored on.
        rule: The rule of the choice.
        executor: The executor that scores the merges; in this process when None.
        verbose: Show a progress bar; in terminals and notebooks when None.
    """

    space: Space
    models: MergeRecipe
    task: ScoringTask
    rule: Rule = "best"
    executor: Executor | None = None
    verbose: bool | None = None

    def __post_init__(self) -> None:
        require_rule(self.rule)

    def of(self, points: Iterable[Point], *, ends: bool, domain: bool = True) -> Measured:
        """Measure points, the source and the domain model.

        Args:
            points: The points; those with the recipe of an earlier one are left out.
            ends: Whether to add the source and the domain model to the points if they are missing.
            domain: Whether to measure the domain model.

        Raises:
            ValueError: A point has no recipe, or the metric has a value for no query.
        """
        wanted = self.space.recipes(self.models, [*points, *(self.space.ends if ends else ())])
        top, bottom = self.models.unmerged, self.space.domain(self.models)
        require_attainable(self.task.metric, self.task.qrels)
        together = domain and self.models.base is None  # recipes with and without a base are of different models
        recipes = [top, *([bottom] if together else []), *wanted]
        found = scores(recipes, self.task, self.executor, verbose=self.verbose)
        if domain and not together:
            found |= scores([bottom], self.task, self.executor, verbose=self.verbose)
        values = pd.DataFrame({position: found[recipe] for position, recipe in enumerate(wanted)})
        return Measured(tuple(wanted.values()), tuple(wanted), values, found[top], found[bottom] if domain else None)

    def grid(self, refine: int) -> Measured:
        """Measure the points of the space, then ``refine`` finer grids, each around the point chosen so far."""
        ends = self.space.shows_ends(self.rule)
        measured = self.of(self.space.points(), ends=ends)
        for _ in range(refine):
            finer = self.space.around(measured.points[measured.choose(self.rule)], measured.points)
            measured = self.of([*measured.points, *finer.points()], ends=ends)
        return measured


def said(collection: TestCollection, split: str, queries: int) -> str:
    """Return a description of the queries and documents."""
    return f"{queries} {split} queries of {collection.name}, {collection.num_docs:,} documents"


def source_share(recipe: MergeRecipe) -> float:
    """Return the mean alpha over the layers, which says how near a merge is to its source."""
    total = sum(segment.size for segment in recipe.segments)
    return round(sum(segment.size * (segment.alpha or 0) for segment in recipe.segments) / total, 12)
