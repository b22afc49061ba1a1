"""Limited data: the value of a few labels for LoRA, for a merge, and for both."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pyterrier_merge.experiment.compare import compare
from pyterrier_merge.systems import read_system
from pyterrier_merge.training.settings import LoRATraining
from pyterrier_merge.tuning.space import PAPER_GRID, Grid

if TYPE_CHECKING:
    from ir_measures.measures import Measure

    from pyterrier_merge.collections.base import TestCollection
    from pyterrier_merge.experiment.comparison import Comparison

FRACTION = 0.01  # share of the training queries, as in arXiv 2509.21966


def limited_data_trials(
    collection: TestCollection,
    source: str | Path,
    domain: str | Path | Sequence[str | Path] | Mapping[str, Any],
    *,
    fraction: float | None = None,
    queries: int | None = None,
    trials: int = 10,
    split: str = "train",
    seed: int = 0,
    settings: LoRATraining | None = None,
    folds: int = 5,
    grid: Grid = PAPER_GRID,
    depth: int = 10,
    encoder: Mapping[str, Any] | None = None,
    test_split: str = "test",
    measures: Sequence[Measure] | None = None,
    baselines: Sequence[str] = ("source",),
    num_results: int = 100,
    verbose: bool | None = None,
) -> Comparison:
    """Compare a source, a merge, LoRA, and LoRA on top of the merge, with samples of the labels, as arXiv 2509.21966.

    Every trial draws a sample of the labelled queries. The merge's alphas are chosen on it. LoRA's number of steps is
    chosen by cross-validation within it, then LoRA is trained on all of it; so is LoRA on top of that trial's merge.
    Figures are averaged per query over the trials and then tested. The notes have standard deviations over trials, and
    intervals of a two-way bootstrap over queries and trials.

    Alphas and steps are measured on pools: the judged documents of the sample, and the first results of BM25 and the
    source for it. Adapters, indexes and each trial's merge, which has the size of the source, are stored in the cache,
    so that a killed run can resume.

    Args:
        collection: The collection with the labels and the test queries.
        source: The retrieval model.
        domain: The domain model, several, or ``{"train": {}}`` to train one on the collection's documents.
        fraction: Share of the labelled queries in a sample; .01 when ``queries`` is None, too.
        queries: Number of queries in a sample, instead.
        trials: Number of samples.
        split: The split that is sampled.
        seed: Random seed of the samples.
        settings: Settings of LoRA; ``steps`` is the maximum number of steps.
        folds: Number of folds of the cross-validation.
        grid: Grid of the alphas.
        depth: Number of results of BM25 and of the source in a pool.
        encoder: Settings of all encoders, such as ``{"max_length": 96}``.
        test_split: The split that is measured.
        measures: The measures; alphas and steps are chosen by the first one. The collection's when None.
        baselines: Some of the rows ``BM25``, ``source``, ``merged``, ``LoRA`` and ``LoRA on merged``.
        num_results: Results for each query.
        verbose: Show progress bars; in terminals and notebooks when None.

    Returns:
        The comparison. :func:`~pyterrier_merge.experiment.report.labels_plot.labels_plot` draws several of them.

    Raises:
        ValueError: A sample is too small for two queries or for the folds, or as ``compare``.
    """
    if fraction is None and queries is None:
        fraction = FRACTION
    sample = {"split": split, "fraction": fraction, "queries": queries, "seed": seed}
    if trials != 1:
        sample["trials"] = trials
    pool = {"of": ["BM25", "source"], "depth": depth}
    own = dict(encoder or {})
    trained = {"kind": "lora", "train": settings or LoRATraining(), "choose": {"folds": folds, "pool": pool}, **sample}
    sections: dict[str, dict[str, Any]] = {
        "BM25": {"kind": "bm25"},
        "source": {"kind": "encoder", "model": str(source), **own},
        "merged": {
            "kind": "merged",
            "source": str(source),
            "domain": _names(domain),
            "sweep": {"grid": grid, "pool": pool, **sample},
            **own,
        },
        "LoRA": {**trained, "of": "source"},
        "LoRA on merged": {**trained, "of": "merged"},
    }
    return compare(
        {name: read_system(section) for name, section in sections.items()},
        collection,
        split=test_split,
        measures=measures,
        baselines=baselines,
        num_results=num_results,
        verbose=verbose,
    )


def _names(domain: str | Path | Sequence[str | Path] | Mapping[str, Any]) -> Any:
    if isinstance(domain, Mapping):
        return domain
    return str(domain) if isinstance(domain, str | Path) else [str(name) for name in domain]
