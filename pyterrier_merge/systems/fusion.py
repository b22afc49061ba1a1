"""Fusion of the results of other systems: reciprocal ranks, or a linear mixture of scores."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Annotated, ClassVar, Literal

import numpy as np
import pandas as pd
import pyterrier as pt
from ir_measures.measures import Measure
from pydantic import AfterValidator, Field, model_validator

from pyterrier_merge.evaluation import check_measure, judged, measure_runs, parsed_measure, require_attainable
from pyterrier_merge.fingerprint import fingerprint
from pyterrier_merge.schematic import labelled
from pyterrier_merge.systems.base import Bench, Prepared, System, all_labels, all_trials, most_trials, shared_trials
from pyterrier_merge.systems.choosing import require_answers, require_not_by_folds, require_other_queries, used_labels

MIXTURES = tuple(round(step / 20, 2) for step in range(21))  # weights of the first system to try on dev
Weight = Annotated[float, Field(ge=0, allow_inf_nan=False)]


class FusionSystem(System):
    """Fuses two or more systems of the experiment.

    Attributes:
        of: Names of the systems.
        method: ``rrf`` (Cormack, Clarke and Buettcher, 2009): the sum of 1 / (k + rank), ranks from 1. ``linear``: the
            weighted sum of scores, which are scaled per query to [0, 1] first (a document that a system did not find
            has 0).
        k: The constant of ``rrf``.
        weights: The weights of ``linear``, one for each system. When left out, the weight of the first of two systems
            is chosen on ``split`` among 0, 0.05 ... 1.
        split: The split to choose the weight on.
        metric: The measure for the choice; the experiment's first measure when left out.
    """

    kind: Literal["fusion"] = "fusion"
    of: Annotated[tuple[str, ...], Field(min_length=2)]
    method: Literal["rrf", "linear"] = "rrf"
    k: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 60
    weights: tuple[Weight, ...] | None = None
    split: str = "dev"
    metric: Annotated[str, AfterValidator(lambda text: str(parsed_measure(text)))] | None = None

    @model_validator(mode="after")
    def _weights_of_all(self) -> FusionSystem:
        if len(set(self.of)) < len(self.of):
            raise ValueError(f"of: each system once; found {', '.join(self.of)}")
        if self.method == "rrf" and self.weights is not None:
            raise ValueError("rrf takes no weights: leave them out, or say method: linear")
        if self.weights is not None and (len(self.weights) != len(self.of) or not any(self.weights)):
            raise ValueError(
                f"weights: expected one for each of {len(self.of)} systems, not all 0; found {self.weights}"
            )
        if self.method == "linear" and self.weights is None and len(self.of) > 2:
            raise ValueError("weights are chosen for two systems alone: give 'weights', or say method: rrf")
        unused = {"k": self.method == "linear", "split": not self.chooses, "metric": not self.chooses}
        fields = type(self).model_fields
        if named := [name for name in unused if unused[name] and getattr(self, name) != fields[name].default]:
            how = "linear with given weights" if self.weights else self.method
            raise ValueError(f"{how} does not use {', '.join(named)}: leave out what does not apply")
        return self

    @property
    def chooses(self) -> bool:
        """Whether a weight is chosen on a development split."""
        return self.method == "linear" and self.weights is None

    def uses(self) -> tuple[str, ...]:
        """Return the systems that are fused."""
        return self.of

    def num_trials(self, of: Callable[[str], int]) -> int:
        """Return the number of trials of the systems that are fused."""
        return most_trials([(name, of(name)) for name in self.of])

    def check(self, bench: Bench) -> None:
        """Check the queries for choosing the weight."""
        if self.chooses:
            require_other_queries(bench, self.split, "split")
            require_not_by_folds(bench, self.of, "of", self.split)
            _, qrels = judged(bench.collection.topics(self.split), bench.collection.qrels(self.split))
            check_measure(self._metric(bench), bench.num_results)
            require_attainable(self._metric(bench), qrels)

    def prepare(self, bench: Bench) -> list[Prepared]:
        """Return one fusion for each trial of the systems."""
        trials = shared_trials([all_trials(bench, name) for name in self.of])
        return [self._trial(bench, trial, parts) for trial, parts in enumerate(trials)]

    def _trial(self, bench: Bench, trial: int, parts: Sequence[Prepared]) -> Prepared:
        labels = all_labels(parts)
        weights, label = self.weights, ""
        note = f"Reciprocal rank fusion (k = {self.k:g}) of {', '.join(self.of)}."
        if self.method == "linear":
            how = "as given"
            if weights is None:
                weights, queries = self._choose(bench, trial)
                labels = None if labels is None else labels | used_labels(bench.collection, self.split)
                how = f"chosen on {queries} {self.split} queries"
            label = f"({', '.join(f'{weight:g}' for weight in weights)})"
            note = f"Linear fusion of {', '.join(self.of)} with weights {label}, {how}."
        stages = [part.transformer for part in parts]
        fused = Fusion(stages, weights=weights, k=self.k, num_results=bench.num_results)
        identity = fingerprint([self.method, [part.identity for part in parts], weights, self.k])
        return Prepared(transformer=fused, identity=identity, label=label, labels=labels, notes=(note,))

    def _metric(self, bench: Bench) -> Measure:
        return bench.measures[0] if self.metric is None else parsed_measure(self.metric)

    def _choose(self, bench: Bench, trial: int) -> tuple[tuple[float, ...], int]:
        """The weights, and the number of queries that they were chosen on."""
        topics, qrels = judged(bench.collection.topics(self.split), bench.collection.qrels(self.split))
        runs = [bench.results(name, self.split, min(trial, bench.trials(name) - 1)) for name in self.of]
        for name, run in zip(self.of, runs, strict=True):
            require_answers(run, topics, name, self.split)
        mixtures = [(weight, round(1 - weight, 2)) for weight in MIXTURES]
        fused = {str(weights): fuse_linear(runs, weights, bench.num_results) for weights in mixtures}
        means = measure_runs(fused, qrels, [self._metric(bench)]).groupby("name")["value"].mean()
        best = max(mixtures, key=lambda weights: (round(means[str(weights)], 12), -abs(weights[0] - 0.5)))
        return best, len(topics)


class Fusion(pt.Transformer):
    """Fuses the results of several stages.

    Args:
        parts: Stages from topics to results.
        weights: Weights of a linear mixture; None for reciprocal ranks.
        k: Constant of reciprocal rank fusion.
        num_results: Results for each query.
    """

    schematic: ClassVar = labelled("Fusion")

    def __init__(
        self, parts: Sequence[pt.Transformer], *, weights: Sequence[float] | None, k: float, num_results: int
    ) -> None:
        self.parts = parts
        self.weights = weights
        self.k = k
        self.num_results = num_results

    def transform(self, inp: pd.DataFrame) -> pd.DataFrame:
        """Return ``qid``, ``query``, ``docno``, ``score`` and ``rank``."""
        runs = [part.transform(inp) for part in self.parts]
        if self.weights is None:
            fused = fuse_ranks(runs, self.k, self.num_results)
        else:
            fused = fuse_linear(runs, self.weights, self.num_results)
        return fused.merge(inp[["qid", "query"]], on="qid", how="left")


def fuse_ranks(runs: Sequence[pd.DataFrame], k: float, num_results: int) -> pd.DataFrame:
    """Return reciprocal rank fusion of results with ``qid``, ``docno`` and ``rank`` (from 0)."""
    scored = [run.assign(score=1 / (k + 1 + run["rank"]))[["qid", "docno", "score"]] for run in runs]
    return _summed(scored, num_results)


def fuse_linear(runs: Sequence[pd.DataFrame], weights: Sequence[float], num_results: int) -> pd.DataFrame:
    """Return the weighted sum of scores, scaled per query and run to [0, 1]; equal scores become 1."""
    scaled = []
    for run, weight in zip(runs, weights, strict=True):
        groups = run.groupby("qid")["score"]
        low, spread = groups.transform("min"), groups.transform("max") - groups.transform("min")
        share = np.where(spread > 0, (run["score"] - low) / spread.where(spread > 0, 1), 1.0)
        scaled.append(run[["qid", "docno"]].assign(score=weight * share))
    return _summed(scaled, num_results)


def _summed(scored: Sequence[pd.DataFrame], num_results: int) -> pd.DataFrame:
    summed = pd.concat(scored).groupby(["qid", "docno"], sort=False, as_index=False).agg({"score": "sum"})
    ordered = summed.sort_values(["qid", "score", "docno"], ascending=[True, False, True], ignore_index=True)
    ranked = ordered.assign(rank=ordered.groupby("qid").cumcount())
    return ranked[ranked["rank"] < num_results].reset_index(drop=True)
