"""The choice of alphas on development queries: every pair of a grid is merged, indexed, searched and measured."""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd
import pyterrier as pt

from pyterrier_merge.fingerprint import fingerprint, fingerprint_frame
from pyterrier_merge.measuring import ORDER, check_measure, in_one_order, judged
from pyterrier_merge.recipe import check_alpha
from pyterrier_merge.retrieval.dense.pipeline import dense_retriever
from pyterrier_merge.storage import cache_folder, user_path, write_file

if TYPE_CHECKING:
    from ir_measures.measures import Measure

    from pyterrier_merge.collections.base import TestCollection
    from pyterrier_merge.encoding.merged import MergedE5Encoder

logger = logging.getLogger(__name__)

PAPER_GRID = (0.0, 0.25, 0.5, 0.75, 1.0)


@dataclass(frozen=True)
class Sweep:
    """What a sweep found.

    Attributes:
        table: ``alpha_lower``, ``alpha_upper`` and the metric, one row a pair, in the order of the grid.
        metric: Name of the metric's column.
        on: The queries and documents it was measured on, in words.
        alpha_lower: The best pair's.
        alpha_upper: The best pair's.
        best: An encoder with the best pair.
    """

    table: pd.DataFrame
    metric: str
    on: str
    alpha_lower: float
    alpha_upper: float
    best: MergedE5Encoder


def sweep(
    encoder: MergedE5Encoder,
    collection: TestCollection,
    *,
    grid: Sequence[float] | Sequence[tuple[float, float]] = PAPER_GRID,
    metric: Measure | None = None,
    split: str = "dev",
    num_results: int = 100,
    root: str | Path | None = None,
    verbose: bool = False,
) -> Sweep:
    """Measure every pair of alphas on one split and return the table and the best.

    The parents stay as they are and each pair is merged in place, so a pair costs its encoding alone. Every pair's
    index and score are kept under ``root``: a sweep that was killed goes on where it was, and the best pair's index is
    there for the test.

    Args:
        encoder: Names the models; it is left with the best pair's alphas.
        collection: Gives documents, topics and judgements. :func:`~pyterrier_merge.collections.pool.pooled` makes a
            smaller one for the purpose.
        grid: Values of both alphas, of which every pair is tried, or the pairs themselves.
        metric: An ``ir_measures`` measure; the collection's first when None.
        split: The split to choose on.
        num_results: Results for each query.
        root: Folder of the indexes; the package's cache when None.
        verbose: Show a progress bar.

    Raises:
        TypeError: The encoder merges nothing.
        ValueError: The split is the test split, unknown or without judgements, the grid is empty or outside [0, 1], or
            the metric cannot be computed or looks deeper than ``num_results``.
        RuntimeError: A kept score is damaged.
    """
    if not hasattr(encoder, "alpha_lower"):
        raise TypeError(f"sweep sets the alphas of a MergedE5Encoder; found {encoder!r}, which has none")
    if split == "test":
        raise ValueError("alphas are not chosen on test queries: give another split")
    metric = metric or collection.measures[0]
    pairs = alpha_pairs(grid)
    topics, qrels = judged(collection.topics(split), collection.qrels(split))
    check_measure(metric, num_results, topics["qid"].tolist())
    root = user_path(root or cache_folder("indexes"))
    on = [collection.fingerprint, fingerprint_frame(topics), fingerprint_frame(qrels), str(metric), num_results, ORDER]
    on += ["ignore_identical_ids"] * collection.ignore_identical_ids  # what was kept without it stays valid
    scores = []
    for lower, upper in pt.tqdm(pairs, desc="sweep", unit="merge", disable=not verbose):
        encoder.alpha_lower, encoder.alpha_upper = lower, upper
        file = root / "scores" / f"{fingerprint([encoder.fingerprint, *on])}.json"
        if not file.is_file():
            retriever = dense_retriever(encoder, collection, num_results=num_results, root=root)
            found = retriever.transform(topics)
            results = in_one_order(found, ignore_identical_ids=collection.ignore_identical_ids)
            write_file(file, json.dumps(pt.Evaluate(results, qrels, [metric])))
        scores.append(_kept_score(file, str(metric)))
        logger.info("alpha_lower %g, alpha_upper %g: %s %.4f", lower, upper, metric, scores[-1])
    table = pd.DataFrame(pairs, columns=["alpha_lower", "alpha_upper"]).assign(**{str(metric): scores})
    encoder.alpha_lower, encoder.alpha_upper = best = pairs[_best(pairs, scores)]
    words = f"{len(topics)} {split} queries of {collection.name}, {collection.num_docs:,} documents"
    return Sweep(table, str(metric), words, *best, encoder)


def alpha_pairs(grid: Sequence[float] | Sequence[tuple[float, float]]) -> tuple[tuple[float, float], ...]:
    """Return the (alpha_lower, alpha_upper) pairs of a grid, without repeats, in order.

    Args:
        grid: Either the values of each axis, of which every pair is taken, or the pairs themselves.

    Raises:
        ValueError: The grid is empty, mixes both forms, or holds a number outside [0, 1].
    """
    points: list[Any] = list(grid)
    if not points:
        raise ValueError("the grid of alphas is empty")
    in_pairs = [isinstance(point, (tuple, list)) and len(point) == 2 for point in points]
    if any(in_pairs) and not all(in_pairs):
        raise ValueError(f"a grid holds numbers, or pairs (alpha_lower, alpha_upper), not both; found {points!r}")
    pairs = points if all(in_pairs) else [(lower, upper) for lower in points for upper in points]
    checked = [(check_alpha("alpha_lower", lower), check_alpha("alpha_upper", upper)) for lower, upper in pairs]
    return tuple(dict.fromkeys(checked))


def _kept_score(file: Path, metric: str) -> float:
    try:
        return float(json.loads(file.read_text(encoding="utf-8"))[metric])
    except (ValueError, KeyError, TypeError) as error:
        raise RuntimeError(f"{file} is damaged: delete it, and the pair is measured again") from error


def _best(pairs: Sequence[tuple[float, float]], scores: Sequence[float]) -> int:
    """The best score; of equal ones the pair that keeps more of the source."""
    return max(range(len(pairs)), key=lambda row: (scores[row], sum(pairs[row])))
