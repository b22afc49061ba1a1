"""Scores of merges on one split of a collection: a value for each query, stored on disk."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from math import ceil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd
from more_itertools import chunked

from pyterrier_merge.encoding.encoders import E5Encoder
from pyterrier_merge.encoding.merged import MergedE5Encoder
from pyterrier_merge.evaluation import ORDER, check_measure, judged, measure_runs
from pyterrier_merge.executor import Executor, InProcess
from pyterrier_merge.fingerprint import fingerprint, fingerprint_frame
from pyterrier_merge.progress import progress, verbosity
from pyterrier_merge.retrieval.dense.pipeline import dense_retriever, index_of
from pyterrier_merge.storage import cache_folder, write_file
from pyterrier_merge.tuning.walk import Walk

if TYPE_CHECKING:
    from ir_measures.measures import Measure

    from pyterrier_merge.collections.base import TestCollection
    from pyterrier_merge.recipe import MergeRecipe


@dataclass(frozen=True)
class ScoringTask:
    """The task that merges are scored on. It can be pickled for another process.

    Attributes:
        collection: The collection with documents, topics and judgements.
        split: The split whose queries are searched; never the test split.
        metric: The measure.
        num_results: Results for each query.
        root: Folder of indexes and scores; the package's cache when None.
        settings: The encoder's settings: keyword arguments of :class:`~pyterrier_merge.MergedE5Encoder` from ``task``
            on.
        memory: Bytes for the data that several merges share: states between layers, token ids and vectors of the block
            of documents that all merges encode before the next block. When None, a quarter of the free memory, at most
            4 GiB. A token takes 48 bytes, and its state (``hidden_size`` numbers, 4 bytes each in float32) for each
            place at which states are kept at the same time; a document takes three times its vector in float32.
        loaded: Holds the encoder once it is made, so that models are loaded once for all calls, and for copies made by
            ``replace``. Not part of the task's identity.

    Raises:
        ValueError: The split is unknown or has no judgements, or the metric cannot be computed or looks deeper than
            ``num_results``, or ``memory`` is negative.
    """

    collection: TestCollection
    split: str
    metric: Measure
    num_results: int = 100
    root: Path | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)
    memory: int | None = None
    loaded: list[MergedE5Encoder] = field(default_factory=list, compare=False, repr=False)

    def __post_init__(self) -> None:
        if self.memory is not None and self.memory < 0:
            raise ValueError(f"memory is a number of bytes, 0 for one batch at a time; found {self.memory!r}")
        check_measure(self.metric, self.num_results)

    def encoder(self, recipe: MergeRecipe) -> MergedE5Encoder:
        """Return the encoder of a recipe: the same object every time, whose recipe changes."""
        if not self.loaded:
            self.loaded.append(MergedE5Encoder.from_recipe(recipe, **self.settings))
        (encoder,) = self.loaded
        encoder.recipe = recipe
        return encoder

    @cached_property
    def topics(self) -> pd.DataFrame:
        """The topics that have judgements."""
        return self._judged[0]

    @cached_property
    def qrels(self) -> pd.DataFrame:
        """The judgements that have a topic."""
        return self._judged[1]

    @property
    def _judged(self) -> tuple[pd.DataFrame, pd.DataFrame]:
        return judged(self.collection.topics(self.split), self.collection.qrels(self.split))

    def score(self, encoder: E5Encoder) -> pd.Series[float]:
        """Return the metric's value for each query (index ``qid``): the cached value, or that of a search of its index.

        Raises:
            RuntimeError: A cached score is damaged.
        """
        file = self.file(encoder)
        if file.is_file():
            return self.kept(file)
        retriever = dense_retriever(encoder, self.collection, num_results=self.num_results, root=self._indexes)
        return self.keep(file, retriever.transform(self.topics))

    def keep(self, file: Path, results: pd.DataFrame) -> pd.Series[float]:
        """Measure results, write the values of all queries to a file, and return them."""
        measured = measure_runs({"run": results}, self.qrels, [self.metric])
        write_file(file, json.dumps(dict(zip(measured["qid"], measured["value"], strict=True))))
        return self.kept(file)

    def scored(self, encoder: E5Encoder) -> bool:
        """Whether the values of an encoder are cached, without encoding anything."""
        return self.file(encoder).is_file()

    @cached_property
    def _data(self) -> list[str]:
        """Fingerprints of documents, topics and judgements, the same for every merge."""
        return [self.collection.fingerprint, fingerprint_frame(self.topics), fingerprint_frame(self.qrels)]

    @property
    def _indexes(self) -> Path:
        return Path(self.root or cache_folder("indexes"))

    def file(self, encoder: E5Encoder) -> Path:
        """Return the cache file of an encoder's values; its model is loaded, but nothing is merged or encoded."""
        key = fingerprint([encoder.fingerprint, *self.conditions(encoder)])
        return self._indexes / "scores" / f"{key}.json"

    def conditions(self, encoder: E5Encoder) -> list[Any]:
        """Return what values depend on besides the encoder's vectors, as data."""
        rules = ["ignore_identical_ids"] * self.collection.ignore_identical_ids
        rules += [f"text_field={encoder.text_field}"] * (encoder.text_field != "text")
        return [*rules, *self._data, str(self.metric), self.num_results, ORDER]

    def kept(self, file: Path) -> pd.Series[float]:
        """Return the values in a cache file.

        Raises:
            RuntimeError: It is damaged.
        """
        try:
            values = dict(json.loads(file.read_text(encoding="utf-8")))
            return pd.Series([float(values[qid]) for qid in self.topics["qid"]], index=pd.Index(self.topics["qid"]))
        except (ValueError, KeyError, TypeError) as error:
            raise RuntimeError(f"{file} is damaged: delete it to measure the merge again") from error


@verbosity
def scores(
    recipes: Sequence[MergeRecipe], task: ScoringTask, executor: Executor | None = None, *, verbose: bool | None = None
) -> dict[MergeRecipe, pd.Series[float]]:
    """Score merges of the same models.

    Args:
        recipes: The recipes to score.
        task: The task.
        executor: The executor that runs groups of recipes with the same lowest segment; when None, all recipes run
            together in this process.
        verbose: Show a progress bar with the best mean so far.

    Returns:
        For each recipe a series: index ``qid``, the metric's value for each judged query.

    Raises:
        RuntimeError: A cached score is damaged.
    """
    executor = executor or InProcess()
    together = executor.workers == 1
    groups = [tuple(dict.fromkeys(recipes))] if together and recipes else work_items(recipes, executor.workers)
    values: dict[MergeRecipe, pd.Series[float]] = {}
    whole = False if together else verbose  # a single process shows documents
    with progress(total=sum(map(len, groups)), desc="sweep", unit="merge", verbose=whole) as bar:
        work = partial(score, task=task, verbose=verbose if together else False)
        for group, found in zip(groups, executor.map(work, groups), strict=True):
            values.update(zip(group, found, strict=True))
            bar.update(len(group))
            bar.set_postfix_str(f"best {task.metric} {max(own.mean() for own in values.values()):.4f}", refresh=False)
    return {recipe: values[recipe] for recipe in recipes}


def work_items(recipes: Sequence[MergeRecipe], workers: int = 1) -> list[tuple[MergeRecipe, ...]]:
    """Return the recipes in groups that share their lowest segment, and so its layers: one work item each.

    With more workers than groups, groups are divided if this finishes the whole earlier: the shared segment is then
    computed several times. It is assumed to cost as much as the segments above it.
    """
    ordered = sorted(dict.fromkeys(recipes), key=lambda recipe: str(recipe.segments[0]))
    groups: dict[Any, list[MergeRecipe]] = {}
    for recipe in ordered:
        key = recipe.segments[0], recipe.embeddings, recipe.method, recipe.parameters, recipe.seed
        groups.setdefault(key, []).append(recipe)

    def time(size: int) -> int:
        return ceil(sum(ceil(len(group) / size) for group in groups.values()) / workers) * (1 + size)

    sizes = range(max(map(len, groups.values()), default=1), 0, -1)
    return [tuple(part) for group in groups.values() for part in chunked(group, min(sizes, key=time))]


def score(recipes: Sequence[MergeRecipe], task: ScoringTask, *, verbose: bool | None = None) -> list[pd.Series[float]]:
    """Score merges of the same models in one pass over the documents (see :class:`~pyterrier_merge.tuning.walk.Walk`).

    If the index of a merge is already built, it is searched instead.

    Args:
        recipes: Merges of the same models, such as those of one group of :func:`work_items`.
        task: The task that they are scored on.
        verbose: Show a progress bar over documents times merges.

    Returns:
        For each recipe a series: index ``qid``, the metric's value for each judged query.

    Raises:
        RuntimeError: A cached score is damaged.
        ValueError: The models cannot be merged, or the documents cannot be searched.
    """
    if not recipes:
        return []
    encoder = task.encoder(recipes[0])
    files: dict[Path, MergeRecipe] = {}  # recipes with the same weights share one
    file_of, means = [], []
    for recipe in recipes:
        encoder.recipe = recipe
        file = task.file(encoder)
        file_of.append(file)
        if file.is_file():
            means.append(task.kept(file).mean())
        elif index_of(encoder, task.collection, root=task.root).built():
            means.append(task.score(encoder).mean())
        else:
            files.setdefault(file, recipe)
    if files:
        walk = Walk(encoder, {recipe: file for file, recipe in files.items()}, task)
        walk.score(best=max(means, default=None), verbose=verbose)
    return [task.kept(file) for file in file_of]


def scored(recipes: Sequence[MergeRecipe], task: ScoringTask) -> list[bool]:
    """Return which of these merges have scores that :func:`score` would reuse, without merging or encoding."""
    return [task.scored(task.encoder(recipe)) for recipe in recipes]
