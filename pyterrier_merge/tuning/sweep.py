"""The choice of alphas on development queries: every pair of a grid is merged, indexed, searched and measured."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd

from pyterrier_merge.collections.base import require_collection
from pyterrier_merge.encoding.merged import MergedE5Encoder
from pyterrier_merge.executor import Executor
from pyterrier_merge.storage import user_path
from pyterrier_merge.training.provenance import require_untrained
from pyterrier_merge.tuning.score import ScoringTask, scores
from pyterrier_merge.tuning.space import PAPER_GRID, Grid, alpha_pairs
from pyterrier_merge.tuning.uncertainty import Uncertainty, uncertainty

if TYPE_CHECKING:
    from ir_measures.measures import Measure
    from matplotlib.figure import Figure

    from pyterrier_merge.collections.base import TestCollection


@dataclass(frozen=True, repr=False)
class Sweep:
    """What a sweep found. A notebook shows its heat map.

    Attributes:
        table: One row a pair, in the order of the grid: ``alpha_lower``, ``alpha_upper``, the metric's mean, and from
            two queries on ``chosen`` and ``regret`` (see :class:`~pyterrier_merge.tuning.uncertainty.Uncertainty`).
        per_query: One row a query (index ``qid``), one column a pair, in the same order: the metric's values.
        source: The source's value for each query.
        metric: Name of the metric's column.
        on: The queries and documents it was measured on, in words.
        alpha_lower: The best pair's.
        alpha_upper: The best pair's.
        best: A new encoder with the best pair.
        certainty: The gain over the source without the winner's curse; None for a single query.
    """

    table: pd.DataFrame
    per_query: pd.DataFrame
    source: pd.Series[float]
    metric: str
    on: str
    alpha_lower: float
    alpha_upper: float
    best: MergedE5Encoder
    certainty: Uncertainty | None

    @property
    def chose_source(self) -> bool:
        """Whether no merge was better: the best pair keeps all of the source."""
        return self.best.recipe.keeps_source

    def describe(self) -> str:
        """Return one or two sentences: what was chosen, on what, and how sure that is."""
        before = f"{self.metric} {self.source.mean():.4f}"
        if self.chose_source:
            said = f"no merge was better than the source ({before}) on {self.on}"
        else:
            best = self.per_query[(self.alpha_lower, self.alpha_upper)].mean()
            alphas = f"({self.alpha_lower:g}, {self.alpha_upper:g})"
            said = f"alphas {alphas} have the best {self.metric}, {best:.4f} (source {before}), on {self.on}"
            if best < self.source.mean():
                said = f"no pair of the grid beats the source: {said}"
        if self.certainty is None:
            return f"{said}."
        sure = self.certainty
        return (
            f"{said}. Repeating the choice on resampled queries, the chosen alphas scored {abs(sure.gain):.4f} "
            f"{'above' if sure.gain >= 0 else 'below'} the source on the queries left out ({sure.low:+.4f} to "
            f"{sure.high:+.4f} in 95 % of resamples); that the best of the grid beats the source has p = "
            f"{sure.p_value:.2g} (one-sided max-T test over the grid)."
        )

    def plot(self, path: str | Path | None = None) -> Figure:
        """Draw the heat map, and save it where a path is given (``.png``, ``.pdf``, ``.svg``)."""
        from pyterrier_merge.tuning.heatmap import alpha_heatmap

        chosen = (self.alpha_lower, self.alpha_upper)
        return alpha_heatmap(self.table, chosen, metric=self.metric, on=self.on, path=path)

    def _repr_html_(self) -> str:
        from pyterrier_merge.tuning.heatmap import as_svg

        return f"<p>{self.describe()}</p>{as_svg(self.plot())}"

    def __repr__(self) -> str:
        return f"<Sweep of {len(self.table)} pairs: {self.describe()}>"


def sweep(
    encoder: MergedE5Encoder,
    collection: TestCollection,
    *,
    grid: Grid = PAPER_GRID,
    metric: Measure | None = None,
    split: str = "dev",
    num_results: int = 100,
    root: str | Path | None = None,
    executor: Executor | None = None,
    verbose: bool = False,
) -> Sweep:
    """Measure every pair of alphas on one split and return the table and the best.

    ``encoder`` stays as it is. The parents are read once and each pair is merged in place, so a pair costs its encoding
    alone. Every pair's index and scores are kept under ``root``: a sweep that was killed continues where it was, and
    the best pair's index is there for the test.

    Args:
        encoder: Names the models and settings.
        collection: Gives documents, topics and judgements. :func:`~pyterrier_merge.collections.pool.pooled` makes a
            smaller one for the purpose.
        grid: Values of both alphas, of which every pair is tried, or the pairs themselves.
        metric: An ``ir_measures`` measure; the collection's first when None.
        split: The split to choose on.
        num_results: Results for each query.
        root: Folder of the indexes; the package's cache when None.
        executor: Where groups of pairs with the same ``alpha_lower`` run; in this process when None.
        verbose: Show a progress bar.

    Raises:
        TypeError: The encoder merges nothing, or the collection is something else.
        ValueError: The split is the test split, unknown or without judgements, the grid is empty or outside [0, 1], or
            the metric cannot be computed or looks deeper than ``num_results``, or a domain model was trained on the
            documents of these known items.
        RuntimeError: A kept score is damaged.
    """
    require_collection(collection)
    if not isinstance(encoder, MergedE5Encoder):
        raise TypeError(f"sweep sets the alphas of a MergedE5Encoder; found {encoder!r}, which has none")
    if split == "test":
        raise ValueError("alphas are not chosen on test queries: give another split")
    require_untrained(encoder.recipe.models, collection, split)
    pairs = alpha_pairs(grid)
    recipes = {encoder.recipe.with_alphas(*pair): pair for pair in pairs}
    settings = encoder.settings()
    metric = metric or collection.measures[0]
    task = ScoringTask(collection, split, metric, num_results, user_path(root) if root else None, settings)
    unmerged = encoder.recipe.unmerged
    values = scores([unmerged, *recipes], task, executor, verbose=verbose)
    source = values[unmerged]
    per_query = pd.DataFrame({pair: values[recipe] for recipe, pair in recipes.items()})
    per_query.columns = pd.MultiIndex.from_tuples(pairs, names=["alpha_lower", "alpha_upper"])
    means = per_query.mean().tolist()
    best = _best(pairs, means)
    table = pd.DataFrame(pairs, columns=["alpha_lower", "alpha_upper"]).assign(**{str(metric): means})
    certainty = None
    if len(per_query) > 1:
        preferred = sorted(range(len(pairs)), key=lambda row: -sum(pairs[row]))  # of equal means: more of the source
        certainty = uncertainty(per_query.iloc[:, preferred], source, preferred.index(best))
        back = [preferred.index(row) for row in range(len(pairs))]
        table = table.assign(chosen=certainty.chosen[back], regret=certainty.regret[back])
    chosen = copy.copy(encoder)
    chosen.alpha_lower, chosen.alpha_upper = pairs[best]
    words = f"{len(per_query)} {split} queries of {collection.name}, {collection.num_docs:,} documents"
    return Sweep(table, per_query, source, str(metric), words, *pairs[best], chosen, certainty)


def _best(pairs: Sequence[tuple[float, float]], scores: Sequence[float]) -> int:
    """The best score; of equal ones the pair that keeps more of the source."""
    return max(range(len(pairs)), key=lambda row: (round(scores[row], 12), sum(pairs[row])))
