"""What systems are chosen on: never the queries that tables are computed on."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import pandas as pd

from pyterrier_merge.collections.names import squeezed
from pyterrier_merge.evaluation import judged
from pyterrier_merge.spelling import did_you_mean
from pyterrier_merge.systems.base import Bench

if TYPE_CHECKING:
    from pyterrier_merge.collections.base import TestCollection


REPEATED = 0.05  # share of the queries (and one) that a collection may ask again in another split, by another number
logger = logging.getLogger(__name__)


def used_labels(collection: TestCollection, split: str) -> frozenset[str]:
    """Return a name for each judged query of a split: ``COLLECTION/SPLIT/QID``, for other splits may number alike."""
    topics, _ = judged(collection.topics(split), collection.qrels(split))
    return frozenset(f"{collection.name}/{split}/{qid}" for qid in topics["qid"])


def require_other_queries(bench: Bench, split: str, field: str, *, on: str | None = None) -> None:
    """Refuse to choose on queries that the table is computed on.

    Args:
        bench: Of the table.
        split: What is chosen on.
        field: Where a file says so, for messages.
        on: Label of the collection that is chosen on; the table's own when None.

    Raises:
        ValueError: It is the test split, the collection has no such split, or shares queries with the table's split.
    """
    chosen, collection = bench.on(on).collection, bench.collection
    if split in (bench.split, "test"):
        raise ValueError(f"{field}: nothing can be chosen on {split!r}, which the tables are computed on")
    if split not in chosen.splits:
        raise ValueError(
            f"{field}: {chosen.name} has no split {split!r} to choose on; "
            f"{did_you_mean(split, chosen.splits, 'it has')}: name one of them that is not the test split, or give "
            "alpha_lower and alpha_upper"
        )
    chosen_on, _ = judged(chosen.topics(split), chosen.qrels(split))
    measured, _ = judged(collection.topics(bench.split), collection.qrels(bench.split))
    texts = set(measured["query"].map(_plain))
    shared = chosen_on.loc[chosen_on["query"].map(_plain).isin(texts), "qid"].tolist()
    whole = chosen_on.merge(measured, on=["qid", "query"])
    if len(whole) or len(shared) > max(1, REPEATED * len(chosen_on)):
        whose = "" if on is None else f" of {chosen.name}"
        table = "" if on is None else f" of {collection.name}"
        raise ValueError(
            f"{field}: {len(shared)} of {len(chosen_on)} {split} queries{whose} are {bench.split} queries{table} too "
            f"(such as qid {shared[0]!r}), and nothing can be chosen on what the tables are computed on: take them out "
            f"of {split}"
        )
    if shared:
        logger.warning(
            "%d of %d %s queries of %s have the text of a %s query (such as qid %r)",
            len(shared), len(chosen_on), split, chosen.name, bench.split, shared[0],
        )  # fmt: skip


def require_answers(run: pd.DataFrame, topics: pd.DataFrame, name: str, split: str) -> None:
    """Raise ``ValueError`` where a system has no result for any of the queries that something is chosen on."""
    if not run["qid"].isin(topics["qid"]).any():
        raise ValueError(
            f"{name!r} has no results for the {split} queries, so nothing can be chosen with it: give weights or "
            "alphas, or a system that answers them"
        )


def _plain(query: str) -> str:
    return squeezed(query).casefold()
