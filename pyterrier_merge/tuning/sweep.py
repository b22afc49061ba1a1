"""Choosing a merge on development queries: every point of a space is merged, searched and measured."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from pyterrier_merge.collections.base import require_collection
from pyterrier_merge.encoding.merged import MergedE5Encoder
from pyterrier_merge.executor import Executor
from pyterrier_merge.models import count_layers, locate_model, transformer_folder
from pyterrier_merge.progress import verbosity
from pyterrier_merge.recipe import MergeRecipe
from pyterrier_merge.storage import user_path
from pyterrier_merge.training.provenance import require_untrained
from pyterrier_merge.tuning.measured import Measured, Measuring, said
from pyterrier_merge.tuning.result import Sweep
from pyterrier_merge.tuning.rule import Rule
from pyterrier_merge.tuning.score import ScoringTask
from pyterrier_merge.tuning.screening import CONFIRM, confirmed, require_screen
from pyterrier_merge.tuning.search import Search, searched
from pyterrier_merge.tuning.space import PAPER_GRID, Grid, Space
from pyterrier_merge.tuning.uncertainty import uncertainty

if TYPE_CHECKING:
    from ir_measures.measures import Measure

    from pyterrier_merge.collections.base import TestCollection


@verbosity
def sweep(
    encoder: MergedE5Encoder,
    collection: TestCollection,
    *,
    grid: Grid | None = None,
    space: Space | None = None,
    search: Search | None = None,
    refine: int = 0,
    rule: Rule = "best",
    screen: TestCollection | None = None,
    confirm: int | None = None,
    metric: Measure | None = None,
    split: str = "dev",
    num_results: int = 100,
    root: str | Path | None = None,
    executor: Executor | None = None,
    verbose: bool | None = None,
) -> Sweep:
    """Measure merges on one split and return the table and the chosen one.

    ``encoder`` is not changed. The parents are read once and each point is merged in place, so a point costs only its
    encoding. Scores are stored under ``root``: a killed sweep resumes where it was.

    The source and the domain model are always measured (after a pool, the source). The ends of the space, where all
    alphas are 1 or 0, are also points of the table, except for a grid over two alphas with the rule ``best``, whose
    table is the grid. With a method such as ties, all zeros are its merge and not the domain model.

    Args:
        encoder: The encoder with the models and settings.
        collection: The collection with documents, topics and judgements.
        grid: Values of the alphas of all segments (two by default), whose combinations are tried, or the points
            themselves; the paper's five values when None. Short for ``space=Space.halves(grid)``.
        space: Other parameters; see :class:`~pyterrier_merge.Space`.
        search: Search the space with Optuna instead of trying every point.
        refine: Number of finer grids to try afterwards, each around the best point so far.
        rule: ``best``, or ``one-standard-error``: see :func:`~pyterrier_merge.tuning.rule.choose`.
        screen: Measure all points on these documents first, such as a pool (:func:`~.collections.pool.pooled`) of the
            collection, and the best ``confirm`` of them on the whole collection.
        confirm: Number of points to confirm; 3 when None.
        metric: An ``ir_measures`` measure; the collection's first when None.
        split: The split to choose on. For the test split, use :func:`~pyterrier_merge.sweep_folds`.
        num_results: Results for each query.
        root: Folder of indexes, scores and studies; the package's cache when None.
        executor: The executor of groups of points that share their lower segments; in this process when None.
        verbose: Show a progress bar; in terminals and notebooks when None.

    Raises:
        TypeError: The encoder merges nothing, or ``collection`` is not a collection.
        ValueError: The split is the test split, unknown or without judgements, the grid is empty, too large or outside
            [0, 1], or the metric cannot be computed, looks deeper than ``num_results`` or is 0 for every query, or a
            domain model was trained on the documents of these known items.
        RuntimeError: A cached score is damaged.
        ModuleNotFoundError: A search needs Optuna, which is not installed.
    """
    if split == "test":
        raise ValueError(
            "alphas are not chosen on test queries: give another split, or choose by folds, with sweep_folds"
        )
    if search is not None and not isinstance(search, Search):
        raise ValueError(f"search is the budget of a search, such as Search(trials=40); found {search!r}")
    if isinstance(refine, bool) or not isinstance(refine, int) or refine < 0:
        raise ValueError(f"refine is a number of finer grids, 0 or more; found {refine!r}")
    if search is not None and refine:
        raise ValueError("a search already tries fine differences: leave 'refine' out")
    if confirm is not None and screen is None:
        raise ValueError("'confirm' is of the best merges on a pool: give 'screen', too")
    measuring = measuring_of(
        encoder, collection, grid, space, rule, metric, split, num_results, root, executor, verbose
    )
    task, confirm = measuring.task, CONFIRM if confirm is None else confirm
    if screen is not None:
        require_screen(screen, task, confirm)
        measuring = replace(measuring, task=replace(task, collection=screen))
    measured = measuring.grid(refine) if search is None else searched(measuring, search)
    screening = None
    if screen is not None:
        measured, screening = confirmed(measured, replace(measuring, task=task), screen, confirm)
    found = _found(encoder, measured, measuring.space, task, rule)
    return replace(found, screening=screening, adaptive=bool(search or refine or screen is not None))


def measuring_of(
    encoder: MergedE5Encoder,
    collection: TestCollection,
    grid: Grid | None,
    space: Space | None,
    rule: Rule,
    metric: Measure | None,
    split: str,
    num_results: int,
    root: str | Path | None,
    executor: Executor | None,
    verbose: bool | None,
) -> Measuring:
    """Check the arguments of a sweep, and return the object that measures its points; see :func:`sweep`."""
    require_collection(collection)
    if not isinstance(encoder, MergedE5Encoder):
        raise TypeError(f"sweep sets the alphas of a MergedE5Encoder; found {encoder!r}, which has none")
    if grid is not None and space is not None:
        raise ValueError("give either a grid, or a space with its own values")
    if space is not None and not isinstance(space, Space):
        raise ValueError(f"space is a Space, such as Space.profile(2); found {space!r}")
    require_untrained(encoder.recipe.models, collection, split)
    recipe = encoder.recipe
    space = space or Space.segments(len(recipe.segments), PAPER_GRID if grid is None else grid)
    space = fitted(space, recipe)
    metric = metric or collection.measures[0]
    folder = user_path(root) if root else None
    task = ScoringTask(collection, split, metric, num_results, folder, encoder.settings())
    return Measuring(space, recipe, task, rule, executor, verbose)


def fitted(space: Space, recipe: MergeRecipe) -> Space:
    """Return the space for the layers of a recipe's source model; a profile needs their number.

    Raises:
        ValueError: The model has fewer layers than the space has alphas for them, or another number than
            :meth:`Space.layers`.
    """
    by_layer = space.alphas[0][0].startswith("layer_")
    few = space.shape == "segments" and len(space.alphas) <= len(recipe.segments)
    if space.shape == "parts" or (few and not by_layer):
        return space
    depth = layers_of(recipe)
    if len(space.alphas) > depth or (by_layer and len(space.alphas) != depth):
        raise ValueError(
            f"the space has {len(space.alphas)} alphas over the layers, and {recipe.source} has {depth} layers"
        )
    return replace(space, depth=space.depth or depth) if space.shape == "profile" else space


def layers_of(recipe: MergeRecipe) -> int:
    """Return the number of layers of a recipe's source model, which is downloaded if it is missing."""
    return count_layers(transformer_folder(locate_model(recipe.source)))


def _found(
    encoder: MergedE5Encoder,
    measured: Measured,
    space: Space,
    task: ScoringTask,
    rule: Rule,
) -> Sweep:
    best = measured.choose(rule)
    table = measured.table(space).assign(**{str(task.metric): measured.values.mean().to_numpy()})
    certainty = None
    if len(measured.values) > 1:
        certainty = uncertainty(measured.values, measured.source, best, kept=measured.kept, rule=rule)
        table = table.assign(chosen=certainty.chosen, regret=certainty.regret)
    chosen = copy.copy(encoder)
    chosen.recipe = measured.recipes[best]
    return Sweep(
        table=table,
        per_query=measured.named(space),
        source=measured.source,
        domain=measured.domain,
        metric=str(task.metric),
        on=said(task.collection, task.split, len(measured.values)),
        point=measured.points[best],
        best=chosen,
        certainty=certainty,
        rule=rule,
    )
