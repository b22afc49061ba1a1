"""Checks of the queries that systems are chosen on: never the queries that tables are computed on."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from typing import TYPE_CHECKING

import pandas as pd

from pyterrier_merge.collections.names import squeezed
from pyterrier_merge.evaluation import judged
from pyterrier_merge.spelling import did_you_mean
from pyterrier_merge.systems.base import Bench

if TYPE_CHECKING:
    from pyterrier_merge.collections.base import TestCollection


REPEATED = 0.05  # share of the queries (plus one) that may be repeated in another split under another qid
logger = logging.getLogger(__name__)


def used_labels(collection: TestCollection, split: str) -> frozenset[str]:
    """Return a name for each judged query of a split, if its judgements count as labels."""
    topics, _ = judged(collection.topics(split), collection.qrels(split))
    return collection.label_names(split, topics["qid"])


def require_other_queries(bench: Bench, split: str, field: str, *, on: str | None = None) -> None:
    """Reject choosing on queries that the table is computed on.

    Args:
        bench: The table's bench.
        split: The split for the choice.
        field: The field of the file, for messages.
        on: Label of the collection for the choice; the table's own when None.

    Raises:
        ValueError: It is the test split, the collection has no such split, or it shares queries with the table's split.
    """
    chosen = bench.on(on).collection
    if split in (bench.split, "test"):
        raise ValueError(f"{field}: nothing can be chosen on {split!r}, which the tables are computed on")
    if split not in chosen.splits:
        other = "name one of them that is not the test split, or give" if len(chosen.splits) > 1 else "give"
        if field.startswith("sweep"):
            other = f"choose by folds or on known items, {other}"
        raise ValueError(
            f"{field}: {chosen.name} has no split {split!r} to choose on; "
            f"{did_you_mean(split, chosen.splits, 'it has')}: {other} alpha_lower and alpha_upper (weights, steps) and "
            "choose nothing"
        )
    chosen_on, _ = judged(chosen.topics(split), chosen.qrels(split))
    require_unasked(bench, chosen_on, field, f"{split} queries" + ("" if on is None else f" of {chosen.name}"))


def require_not_by_folds(bench: Bench, names: Iterable[str], field: str, split: str = "") -> None:
    """Reject systems that are chosen by folds where their answers to other queries, or their encoder, are needed.

    Args:
        bench: The table's bench.
        names: Names of the systems.
        field: The field of the file, for messages.
        split: The split that they are to answer.
    """
    for name in names:
        if split != bench.split and bench.by_folds(name):
            raise ValueError(
                f"{field}: {name!r} is, or builds on, a merge that is chosen by folds, so it answers the {bench.split} "
                "queries alone and has no single encoder: name another system"
            )


def require_unasked(bench: Bench, queries: pd.DataFrame, field: str, whose: str) -> None:
    """Reject choosing or training on queries that the table is computed on.

    Args:
        bench: The table's bench.
        queries: ``qid`` and ``query`` of the queries for choosing or training.
        field: The field of the file, for messages.
        whose: Description of these queries, for messages, such as "dev queries".

    Raises:
        ValueError: More of them are the table's than repeated queries explain.
    """
    collection = bench.collection
    measured, _ = judged(collection.topics(bench.split), collection.qrels(bench.split))
    shared = asked_again(queries, measured)
    whole = queries.merge(measured, on=["qid", "query"])
    if len(whole) or len(shared) > max(1, REPEATED * len(queries)):
        table = f" of {collection.name}" if " of " in whose else ""
        raise ValueError(
            f"{field}: {len(shared)} of {len(queries)} {whose} are {bench.split} queries{table} too (such as qid "
            f"{shared[0]!r}), and nothing can be chosen or trained on what the tables are computed on: take them out"
        )
    if shared:
        logger.warning(
            "%s: %d of %d %s have the text of a %s query (such as qid %r)",
            collection.name, len(shared), len(queries), whose, bench.split, shared[0],
        )  # fmt: skip


def asked_again(queries: pd.DataFrame, others: pd.DataFrame) -> list[str]:
    """Return the qids of the queries with the text of one of the others, ignoring case and white space."""
    texts = set(others["query"].map(_plain))
    return queries.loc[queries["query"].map(_plain).isin(texts), "qid"].tolist()


def require_answers(run: pd.DataFrame, topics: pd.DataFrame, name: str, split: str) -> None:
    """Raise ``ValueError`` if a system has no result for any of the queries for a choice."""
    if not run["qid"].isin(topics["qid"]).any():
        raise ValueError(
            f"{name!r} has no results for the {split} queries, so nothing can be chosen with it: give weights or "
            "alphas, or a system that answers them"
        )


def _plain(query: str) -> str:
    return squeezed(query).casefold()
