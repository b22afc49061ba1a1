"""What merges score on one split of a collection: a value for each query, kept on disk."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd
import pyterrier as pt

from pyterrier_merge.encoding.encoders import E5Encoder
from pyterrier_merge.encoding.merged import MergedE5Encoder
from pyterrier_merge.evaluation import ORDER, check_measure, judged, measure_runs
from pyterrier_merge.executor import Executor, InProcess
from pyterrier_merge.fingerprint import fingerprint, fingerprint_frame
from pyterrier_merge.retrieval.dense.pipeline import dense_retriever
from pyterrier_merge.storage import cache_folder, write_file
from pyterrier_merge.tuning.space import work_items

if TYPE_CHECKING:
    from ir_measures.measures import Measure

    from pyterrier_merge.collections.base import TestCollection
    from pyterrier_merge.recipe import MergeRecipe

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class ScoringTask:
    """What merges are scored on. Picklable, so that another process can take it.

    Attributes:
        collection: Gives documents, topics and judgements.
        split: Whose queries are searched; never the test split.
        metric: What is measured.
        num_results: Results for each query.
        root: Folder of indexes and scores; the package's cache when None.
        settings: Of the encoder: keyword arguments of :class:`~pyterrier_merge.MergedE5Encoder` from ``task`` on.

    Raises:
        ValueError: The split is unknown or has no judgements, or the metric cannot be computed or looks deeper than
            ``num_results``.
    """

    collection: TestCollection
    split: str
    metric: Measure
    num_results: int = 100
    root: Path | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        check_measure(self.metric, self.num_results, self.topics["qid"].tolist())

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
        """Return the metric's value for each query (index ``qid``): the kept one, or that of a search.

        Raises:
            RuntimeError: A kept score is damaged.
        """
        file = self._file(encoder)
        if not file.is_file():
            retriever = dense_retriever(encoder, self.collection, num_results=self.num_results, root=self._indexes)
            measured = measure_runs({"run": retriever.transform(self.topics)}, self.qrels, [self.metric])
            write_file(file, json.dumps(dict(zip(measured["qid"], measured["value"], strict=True))))
        return self._kept(file)

    def scored(self, encoder: E5Encoder) -> bool:
        """Whether the values of an encoder are kept already; nothing is encoded."""
        return self._file(encoder).is_file()

    @property
    def _indexes(self) -> Path:
        return Path(self.root or cache_folder("indexes"))

    def _file(self, encoder: E5Encoder) -> Path:
        rules = ["ignore_identical_ids"] * self.collection.ignore_identical_ids
        rules += [f"text_field={encoder.text_field}"] * (encoder.text_field != "text")
        data = [*rules, self.collection.fingerprint, fingerprint_frame(self.topics), fingerprint_frame(self.qrels)]
        key = fingerprint([encoder.fingerprint, *data, str(self.metric), self.num_results, ORDER])
        return self._indexes / "scores" / f"{key}.json"

    def _kept(self, file: Path) -> pd.Series[float]:
        try:
            values = dict(json.loads(file.read_text(encoding="utf-8")))
            return pd.Series([float(values[qid]) for qid in self.topics["qid"]], index=pd.Index(self.topics["qid"]))
        except (ValueError, KeyError, TypeError) as error:
            raise RuntimeError(f"{file} is damaged: delete it, and the merge is measured again") from error


def scores(
    recipes: Sequence[MergeRecipe], task: ScoringTask, executor: Executor | None = None, *, verbose: bool = False
) -> dict[MergeRecipe, pd.Series[float]]:
    """Score merges of the same models. A recipe that keeps the source's weights is scored as the source, once.

    Args:
        recipes: What is scored.
        task: What it is scored on.
        executor: Where groups of recipes that share their lower segments run; in this process when None.
        verbose: Show a progress bar.

    Returns:
        For each recipe a series: index ``qid``, the metric's value for each judged query.
    """
    values: dict[MergeRecipe, pd.Series[float]] = {}
    kept = [recipe for recipe in recipes if recipe.keeps_source]
    groups = work_items([recipe for recipe in recipes if not recipe.keeps_source])
    total = sum(map(len, groups)) + bool(kept)
    with pt.tqdm(total=total, desc="sweep", unit="merge", disable=not verbose) as bar:
        if kept:
            source = task.score(E5Encoder(kept[0].source, **task.settings))
            values.update(dict.fromkeys(kept, source))
            bar.update()
        for group, found in zip(groups, (executor or InProcess()).map(partial(score, task=task), groups), strict=True):
            values.update(zip(group, found, strict=True))
            bar.update(len(group))
            for recipe, own in zip(group, found, strict=True):
                logger.info("%s: %s %.4f", recipe, task.metric, own.mean())
    return {recipe: values[recipe] for recipe in recipes}


def score(recipes: Sequence[MergeRecipe], task: ScoringTask) -> list[pd.Series[float]]:
    """Score merges of the same models one after the other: the parents are read once.

    Args:
        recipes: Merges of the same models, such as those of one group of :func:`~.space.work_items`.
        task: What they are scored on.

    Returns:
        For each recipe a series: index ``qid``, the metric's value for each judged query.
    """
    return [task.score(encoder) for encoder in _merges(recipes, task)]


def scored(recipes: Sequence[MergeRecipe], task: ScoringTask) -> list[bool]:
    """Return which of these merges have kept scores, as :func:`score` would find them; nothing is merged or encoded."""
    return [task.scored(encoder) for encoder in _merges(recipes, task)]


def _merges(recipes: Sequence[MergeRecipe], task: ScoringTask) -> Iterator[MergedE5Encoder]:
    """Yield one encoder with each recipe in turn: its parents are read once."""
    encoder = MergedE5Encoder.from_recipe(recipes[0], **task.settings)
    for recipe in recipes:
        encoder.recipe = recipe
        yield encoder
