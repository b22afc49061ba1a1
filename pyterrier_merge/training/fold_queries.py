"""Division of queries into the folds of a cross-validation, without importing torch."""

from __future__ import annotations

import hashlib

import pandas as pd

from pyterrier_merge.training.training_pairs import FEWEST, TrainingPairs


def split_into_folds(pairs: TrainingPairs, folds: int, *, seed: int = 0) -> list[list[str]]:
    """Return the qids of each fold. Queries with equal texts share a fold, so that no held-out query is trained on.

    Raises:
        ValueError: A fold would have no query, or fewer than two queries would be left to train on.
    """
    numbers = fold_numbers(pairs.queries, folds, seed=seed, name=pairs.name, left=FEWEST)
    return [pairs.queries.loc[numbers == number, "qid"].tolist() for number in range(folds)]


def fold_numbers(
    queries: pd.DataFrame, folds: int, *, seed: int = 0, name: str = "queries", left: int = 1
) -> pd.Series[int]:
    """Return the fold of each query, counted from 0. Queries with equal texts share a fold.

    Args:
        queries: ``qid`` and ``query``.
        folds: Number of folds.
        seed: Random seed of the division.
        name: Name of the queries, for messages.
        left: Minimum number of distinct queries outside each fold.

    Raises:
        ValueError: A fold would have no query, or fewer than ``left`` distinct queries outside it.
    """
    if not isinstance(folds, int):
        raise ValueError(f"folds is a whole number, found {folds!r}")  # noqa: TRY004 (of a user)
    texts = sorted(set(queries["query"]), key=lambda text: hashlib.sha256(f"folds:{seed}:{text}".encode()).digest())
    largest = -(-len(texts) // max(folds, 1))
    if folds < 2 or len(texts) < folds or len(texts) - largest < left:
        raise ValueError(
            f"{name}: {len(texts)} distinct queries cannot be divided into {folds} folds with a query in each "
            f"and {left} left to train or choose on: give fewer folds (at least 2), or more queries"
        )
    fold = {text: place % folds for place, text in enumerate(texts)}
    return queries["query"].map(fold)
