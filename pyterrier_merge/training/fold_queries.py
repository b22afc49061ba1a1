"""Which queries are in which fold of a cross-validation. No torch."""

from __future__ import annotations

import hashlib

from pyterrier_merge.training.training_pairs import FEWEST, TrainingPairs


def split_into_folds(pairs: TrainingPairs, folds: int, *, seed: int = 0) -> list[list[str]]:
    """Return the qids of each fold; queries with the same text are in one fold, for else they would be learned.

    Raises:
        ValueError: A fold would have no query, or fewer than two would be left to train on.
    """
    texts = sorted(
        set(pairs.queries["query"]), key=lambda text: hashlib.sha256(f"folds:{seed}:{text}".encode()).digest()
    )
    largest = -(-len(texts) // folds)
    if folds < 2 or len(texts) < folds or len(texts) - largest < FEWEST:
        raise ValueError(
            f"{pairs.name}: {len(texts)} distinct queries cannot be divided into {folds} folds with a query in each "
            f"and {FEWEST} left to train on: give fewer folds (2 at least), or a larger sample"
        )
    fold = {text: place % folds for place, text in enumerate(texts)}
    numbers = pairs.queries["query"].map(fold)
    return [pairs.queries.loc[numbers == number, "qid"].tolist() for number in range(folds)]
