"""Choosing alphas without labels: sweeps over several kinds of known items, and the rule that chooses."""

from __future__ import annotations

import copy
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from pyterrier_merge.collections.pseudo_queries import ALL, known_items, undivided
from pyterrier_merge.collections.query_parts import TITLES
from pyterrier_merge.encoding.merged import MergedE5Encoder
from pyterrier_merge.evaluation import check_measure, measure_runs, require_attainable
from pyterrier_merge.executor import Executor
from pyterrier_merge.progress import verbosity
from pyterrier_merge.retrieval.lexical.bm25 import bm25
from pyterrier_merge.storage import user_path
from pyterrier_merge.training.provenance import trained_queries
from pyterrier_merge.tuning.agreement import KINDS, UnlabelledChoice, choose, why_unused
from pyterrier_merge.tuning.measured import source_share
from pyterrier_merge.tuning.result import Sweep
from pyterrier_merge.tuning.score import ScoringTask, scores
from pyterrier_merge.tuning.space import PAPER_GRID, Grid, Space
from pyterrier_merge.tuning.sweep import sweep

if TYPE_CHECKING:
    from ir_measures.measures import Measure

    from pyterrier_merge.collections.base import TestCollection

logger = logging.getLogger(__name__)

NUM_RESULTS = 100
WAYS = ("head", "crop", "title")
FRONTS = {"head", "drawn"}  # similar queries: a model trained on one kind knows the other


@dataclass(frozen=True, repr=False)
class LabelFree:
    """A choice without labels.

    Attributes:
        best: A new encoder with the chosen alphas; all are 1 if the source was chosen.
        choice: The evidence: figures of each merge on each kind of items, and a description of the reason.
        sweeps: The sweep over each kind of known items that was used.
    """

    best: MergedE5Encoder
    choice: UnlabelledChoice
    sweeps: Mapping[str, Sweep]

    @property
    def chose_source(self) -> bool:
        """Whether the evidence was not enough for a merge."""
        return self.choice.chosen is None

    def describe(self) -> str:
        """Return the choice, its data, and the number of labels."""
        return f"Without labels (0 judgements): {self.choice.why}"

    def __repr__(self) -> str:
        return f"<{type(self).__name__}: {self.describe()}>"


@verbosity
def choose_unlabelled(
    encoder: MergedE5Encoder,
    collection: TestCollection,
    *,
    grid: Grid = PAPER_GRID,
    n: int = 2500,
    seed: int = 0,
    metric: Measure | None = None,
    root: str | Path | None = None,
    executor: Executor | None = None,
    verbose: bool | None = None,
) -> LabelFree:
    """Choose alphas on known items of several kinds, or keep the source if they do not agree.

    The kinds of :func:`~pyterrier_merge.known_items` are ``head``, ``crop`` and, if documents have titles, ``title``.
    Kinds that a model was trained on are left out, and two must remain; then only the items of "dev" choose, otherwise
    all items. Each merge encodes the documents of a kind once. The rule is
    :func:`~pyterrier_merge.tuning.agreement.choose`. No judgement and no query of the collection is read.

    Args:
        encoder: The encoder with the models and settings; it is not changed.
        collection: The collection with the documents.
        grid: Values of both alphas, whose pairs are tried, or the pairs themselves.
        n: Documents to draw for each kind.
        seed: Random seed of the draw of documents.
        metric: An ``ir_measures`` measure with values in [0, 1]; the collection's first when None.
        root: Folder of the indexes; the package's cache when None.
        executor: The executor of groups of pairs; in this process when None.
        verbose: Show a progress bar; in terminals and notebooks when None.

    Raises:
        TypeError: The encoder merges nothing, or ``collection`` is not a collection.
        ValueError: As :func:`~pyterrier_merge.sweep`, ``n`` is too small, the recipe has other segments than two, or as
            :func:`require_choosable`.
        ModuleNotFoundError: The collection is Japanese, and the extra ``japanese`` is not installed.
    """
    if not isinstance(encoder, MergedE5Encoder):
        raise TypeError(f"alphas are chosen for a MergedE5Encoder; found {encoder!r}, which has none")
    space, recipe = Space.halves(grid), encoder.recipe
    if len(recipe.segments) != 2 or any(segment.domain_weights is not None for segment in recipe.segments):
        raise ValueError("without labels, two alphas are chosen: the recipe needs two segments without domain weights")
    space.points()
    space.require_recipes(recipe)
    metric = metric or collection.measures[0]
    require_choosable(collection, metric)
    folder = user_path(root) if root else None
    left_out = _left_out(recipe.models, collection)
    kinds = {way: known_items(collection, n, seed=seed, query=way) for way in WAYS if way not in left_out}
    split = "dev" if any(map(trained_queries, recipe.models)) else ALL
    if split == ALL:
        kinds = {way: undivided(items) for way, items in kinds.items()}
    lexical, loaded = dict[str, float](), list[MergedE5Encoder]()
    for way in tuple(kinds):
        try:
            topics = kinds[way].topics(split)
        except ValueError as error:  # too few texts make an item of this kind
            left_out[way] = str(error)
        else:
            task = ScoringTask(kinds[way], split, metric, NUM_RESULTS, folder, encoder.settings(), loaded=loaded)
            own = scores([recipe.unmerged], task, executor, verbose=verbose)[recipe.unmerged]
            lexical[way] = _bm25_mean(kinds[way], topics, task.qrels, metric)
            if why := why_unused(len(topics), own.mean(), lexical[way]):
                left_out[way] = why if split == ALL else f"{why} (dev items alone: a model was trained on the others)"
        if way in left_out:
            del kinds[way]
    loaded.clear()  # memory may hold only one model
    if len(kinds) < KINDS:  # no merge needs to be scored
        left_out |= dict.fromkeys(kinds, "no other kind is left to agree with it")
        kinds = {}
    on = partial(sweep, encoder, space=space, metric=metric, root=root, executor=executor, verbose=verbose)
    sweeps = {way: on(items, split=split) for way, items in kinds.items()}
    return _chosen(encoder, sweeps, lexical, left_out, seed)


def require_choosable(collection: TestCollection, metric: Measure) -> None:
    """Raise an error that would otherwise appear late: the metric, known items of known items, BM25's analysis.

    Raises:
        ValueError: The metric needs more results or higher labels than there are, the collection consists of known
            items, or BM25, which the rule compares with, does not support its language.
        ModuleNotFoundError: The collection is Japanese, and the extra ``japanese`` is not installed.
    """
    check_measure(metric, NUM_RESULTS)
    require_attainable(metric, pd.DataFrame({"label": [1]}))
    known_items(collection)
    bm25(collection)


def _bm25_mean(items: TestCollection, topics: pd.DataFrame, qrels: pd.DataFrame, metric: Measure) -> float:
    run = bm25(items, num_results=NUM_RESULTS).transform(topics)
    return float(measure_runs({"BM25": run}, qrels, [metric])["value"].mean())


def _chosen(
    encoder: MergedE5Encoder,
    sweeps: Mapping[str, Sweep],
    lexical: Mapping[str, float],
    left_out: Mapping[str, str],
    seed: int,
) -> LabelFree:
    pairs: list[Any] = list(dict.fromkeys(pair for found in sweeps.values() for pair in found.per_query.columns))
    names = [f"({lower:g}, {upper:g})" for lower, upper in pairs]
    names = names if len(set(names)) == len(names) else list(map(str, pairs))
    points = [{"alpha_lower": lower, "alpha_upper": upper} for lower, upper in pairs]
    named = {name: Space.halves().recipe(encoder.recipe, point) for name, point in zip(names, points, strict=True)}
    values = {way: found.per_query[pairs].set_axis(list(named), axis=1) for way, found in sweeps.items()}
    source = {way: found.source for way, found in sweeps.items()}
    kept = list(map(source_share, named.values()))
    choice = choose(values, source, lexical, left_out, kept=kept, seed=seed)
    best = copy.copy(encoder)
    best.recipe = encoder.recipe.unmerged if choice.chosen is None else named[choice.chosen]
    found = LabelFree(best, choice, sweeps)
    logger.info("%s", found.describe())
    return found


def _left_out(models: Sequence[str | Path], collection: TestCollection) -> dict[str, str]:
    """Return the kinds of items that a model was trained on, and titles if documents have none."""
    found = {}
    if not set(TITLES) & set(collection.document_fields):
        found["title"] = f"documents of {collection.name} have neither {' nor '.join(TITLES)}"
    for place, model in enumerate(models):
        told = "a domain model" if place else "the source"
        for query in trained_queries(model):
            alike = FRONTS if query in FRONTS else {query}
            found |= {way: f"{told} was trained on such items" for way in WAYS if way in alike}
    return found
