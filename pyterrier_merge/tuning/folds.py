"""Choosing a merge by folds: each query is answered by a merge that was chosen on other queries."""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

import numpy as np
import pandas as pd
import pyterrier as pt

from pyterrier_merge.encoding.merged import MergedE5Encoder
from pyterrier_merge.executor import Executor
from pyterrier_merge.progress import verbosity
from pyterrier_merge.retrieval.dense.pipeline import dense_retriever
from pyterrier_merge.schematic import labelled
from pyterrier_merge.training.fold_queries import fold_numbers
from pyterrier_merge.tuning.measured import said
from pyterrier_merge.tuning.points import in_words, points_of
from pyterrier_merge.tuning.rule import Rule
from pyterrier_merge.tuning.space import Grid, Space
from pyterrier_merge.tuning.sweep import measuring_of

if TYPE_CHECKING:
    from ir_measures.measures import Measure

    from pyterrier_merge.collections.base import TestCollection


@dataclass(frozen=True, repr=False)
class FoldedSweep:
    """The choices of the folds. No merge is chosen on all queries.

    Attributes:
        choices: One row per fold: ``fold`` (from 1), ``queries``, a column for each parameter of the choice, and the
            metric's mean over the fold (``chosen``, ``source``) and over the other queries, which chose (``others``).
        per_query: One row per query (index ``qid``): ``fold``, the metric's value with the merge of the fold
            (``chosen``), and with the source (``source``). The mean over all queries is unbiased by the choice.
        points: One row per query, one column per point: the values that the choices are based on.
        metric: Name of the metric.
        on: Description of the queries and documents it was measured on.
        encoders: The merge of each fold.
        unjudged: Queries of the split without judgements. They took no part; the merge of the first fold answers them.
    """

    choices: pd.DataFrame
    per_query: pd.DataFrame
    points: pd.DataFrame
    metric: str
    on: str
    encoders: tuple[MergedE5Encoder, ...]
    unjudged: tuple[str, ...] = ()

    def describe(self) -> str:
        """Return a few sentences: the figure, its difference from the source, and how often each point was chosen."""
        chosen, source = self.per_query["chosen"], self.per_query["source"]
        differences = chosen - source
        error = differences.std(ddof=1) / np.sqrt(len(differences))
        counted = Counter(map(in_words, points_of(self.choices[self.points.columns.names])))
        times = ", ".join(f"{point} in {number} of {len(self.choices)}" for point, number in counted.most_common())
        return (
            f"alphas by {len(self.choices)} folds have {self.metric} {chosen.mean():.4f} (source {source.mean():.4f}; "
            f"difference {differences.mean():+.4f}, standard error {error:.4f}) on {self.on}, where each query is "
            f"answered by a merge that the other folds chose: {times}."
        )

    def by_fold(self, retriever: Callable[[MergedE5Encoder], pt.Transformer]) -> ByFold:
        """Return a transformer that answers each query with the merge of its fold.

        Args:
            retriever: Makes the retriever of a merge, such as ``lambda merge: dense_retriever(merge, collection)``.
        """
        made: dict[MergedE5Encoder, pt.Transformer] = {}
        for encoder in self.encoders:
            if encoder not in made:
                made[encoder] = retriever(encoder)
        folds = dict.fromkeys(self.unjudged, 0)
        folds |= {str(qid): int(fold) - 1 for qid, fold in self.per_query["fold"].items()}
        return ByFold([made[encoder] for encoder in self.encoders], folds)

    def retriever(
        self, collection: TestCollection, *, num_results: int = 1000, root: str | Path | None = None
    ) -> ByFold:
        """Return the dense retriever over a collection that answers each query with the merge of its fold.

        Args:
            collection: Gives the documents.
            num_results: Maximum number of documents per query.
            root: Folder of the indexes; the package's cache when None.
        """
        return self.by_fold(lambda merge: dense_retriever(merge, collection, num_results=num_results, root=root))

    def __repr__(self) -> str:
        return f"<Sweep by folds: {self.describe()}>"


class ByFold(pt.Transformer):
    """Answers each query with the retriever of its fold.

    Args:
        retrievers: The retriever of each fold.
        folds: qid -> position of its fold's retriever.
    """

    schematic: ClassVar = labelled("ByFold")

    def __init__(self, retrievers: Sequence[pt.Transformer], folds: Mapping[str, int]) -> None:
        self.retrievers = list(retrievers)
        self.folds = dict(folds)

    def __repr__(self) -> str:
        return f"ByFold({', '.join(map(repr, dict.fromkeys(self.retrievers)))})"

    def ready(self) -> None:
        """Build the indexes that are missing."""
        for retriever in dict.fromkeys(self.retrievers):
            if callable(ready := getattr(retriever, "ready", None)):
                ready()

    def transform(self, inp: pd.DataFrame) -> pd.DataFrame:
        """Search each query with its fold's retriever.

        Raises:
            ValueError: A query is in no fold.
        """
        if inp.empty:
            return self.retrievers[0].transform(inp)
        strangers = inp.loc[~inp["qid"].isin(list(self.folds)), "qid"]
        if len(strangers):
            raise ValueError(
                f"{len(strangers)} of {len(inp)} queries are in no fold, such as {strangers.iloc[0]!r}: alphas chosen "
                "by folds answer the queries of their split, and no others"
            )
        fold = inp["qid"].map(self.folds)
        parts = [self.retrievers[number].transform(own) for number, own in inp.groupby(fold, sort=True)]
        return pd.concat(parts, ignore_index=True)


@verbosity
def sweep_folds(
    encoder: MergedE5Encoder,
    collection: TestCollection,
    *,
    folds: int = 5,
    split: str = "test",
    seed: int = 0,
    grid: Grid | None = None,
    space: Space | None = None,
    rule: Rule = "best",
    metric: Measure | None = None,
    num_results: int = 100,
    root: str | Path | None = None,
    executor: Executor | None = None,
    verbose: bool | None = None,
) -> FoldedSweep:
    """Choose a merge for each fold of the queries on all other folds, and score it on the fold.

    This is valid on the test split: no query takes part in the choice of the merge that answers it, and no merge is
    chosen on all queries. Every point is measured once on all queries; choosing by folds encodes nothing. Queries with
    the same text are in the same fold. A search or screening on a pool is not supported, because it would choose points
    on the queries that they are scored on.

    Args:
        encoder: The encoder with the models and settings.
        collection: The collection with documents, topics and judgements.
        folds: Number of folds.
        split: The split whose queries are divided.
        seed: Random seed of the assignment of queries to folds.
        grid: See :func:`~pyterrier_merge.sweep`, as for the other arguments.
        space: Other parameters than two alphas.
        rule: The rule by which each fold's merge is chosen.
        metric: An ``ir_measures`` measure; the collection's first when None.
        num_results: Results for each query.
        root: Folder of indexes and scores; the package's cache when None.
        executor: The executor that scores the points.
        verbose: Show a progress bar; in terminals and notebooks when None.

    Raises:
        TypeError: The encoder merges nothing, or ``collection`` is not a collection.
        ValueError: There are more folds than queries, fewer than two folds or queries, no such split, or another
            reason for which :func:`~pyterrier_merge.sweep` raises.
    """
    measuring = measuring_of(
        encoder, collection, grid, space, rule, metric, split, num_results, root, executor, verbose
    )
    task = measuring.task
    name = f"{collection.name}, {split}"
    number = fold_numbers(task.topics, folds, seed=seed, name=name).set_axis(task.topics["qid"])
    measured = measuring.of(measuring.space.points(), ends=measuring.space.shows_ends(rule))
    rows, honest, encoders = [], pd.Series(index=measured.values.index, dtype=float), []
    for fold in range(folds):
        inside = measured.values.index[number.to_numpy() == fold]
        others = measured.values.index[number.to_numpy() != fold]
        best = measured.choose(rule, others)
        honest[inside] = measured.values.loc[inside, best]
        means = {"others": measured.values.loc[others, best].mean(), "chosen": honest[inside].mean()}
        means |= {"source": measured.source[inside].mean()}
        rows.append(measured.points[best] | {"fold": fold + 1, "queries": len(inside)} | means)
        encoders.append(copy.copy(encoder))
        encoders[-1].recipe = measured.recipes[best]
    columns = ["fold", "queries", *measuring.space.values, "others", "chosen", "source"]
    return FoldedSweep(
        choices=pd.DataFrame(rows, columns=columns),
        per_query=pd.DataFrame({"fold": number + 1, "chosen": honest, "source": measured.source}),
        points=measured.named(measuring.space),
        metric=str(task.metric),
        on=said(collection, split, len(honest)),
        encoders=tuple(encoders),
        unjudged=tuple(qid for qid in collection.topics(split)["qid"] if qid not in honest.index),
    )
