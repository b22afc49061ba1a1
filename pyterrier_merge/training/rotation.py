"""The positive and negatives of a query in an epoch: Tevatron's rotation, and a rule for queries without negatives."""

from __future__ import annotations

import random
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence

import pandas as pd

Docnos = Mapping[str, Sequence[str]]  # docnos of each qid


def grouped(frame: pd.DataFrame) -> dict[str, list[str]]:
    """Return the docnos of each qid, in order."""
    found: dict[str, list[str]] = {}
    for qid, docno in zip(frame["qid"], frame["docno"], strict=True):
        found.setdefault(qid, []).append(docno)
    return found


def rotated(
    name: str,
    qids: Iterable[str],
    positives_of: Docnos,
    negatives_of: Docnos,
    relevant_of: Mapping[str, Collection[str]],
    *,
    epoch: int,
    negatives: int,
    seed: int,
) -> pd.DataFrame:
    """Return one row per query; see :meth:`~pyterrier_merge.training.training_pairs.TrainingPairs.rows`.

    Args:
        name: Name of the pairs, for messages.
        qids: Qids of the queries, in order.
        positives_of: Positives of each query, at least one.
        negatives_of: Negatives of queries, none of them relevant; some queries may have none.
        relevant_of: Documents of each query that are never its negatives.
        epoch: Number of the epoch, from 0.
        negatives: Negatives per row.
        seed: Seed of the rotation.

    Raises:
        ValueError: A query has no negative, and all positives of other queries are relevant to it.
    """
    others = list(dict.fromkeys(docno for docnos in positives_of.values() for docno in docnos))
    table = []
    for row, qid in enumerate(qids):
        number, positives, own = row + seed, positives_of[qid], negatives_of.get(qid, ())
        if own or not negatives:
            chosen = _in_a_circle(own, number, epoch, negatives)
        elif (relevant := set(relevant_of[qid])).issuperset(others):
            raise ValueError(f"{name}: {qid!r} has no negatives, and all positives are relevant to it")
        else:
            chosen = _drawn(others, relevant, f"{number}:{epoch}", negatives)
        table.append((qid, positives[(number + epoch) % len(positives)], *chosen))
    return pd.DataFrame(table, columns=["qid", "positive", *(f"negative_{place + 1}" for place in range(negatives))])


def _in_a_circle(docnos: Sequence[str], number: int, epoch: int, count: int) -> Iterator[str]:
    """Yield the next ``count`` documents in a circle, in the order that the row's number decides."""
    order = list(docnos)
    random.Random(number).shuffle(order)  # noqa: S311 (no secret)
    yield from (order[(epoch * count + place) % len(order)] for place in range(count))


def _drawn(docnos: Sequence[str], without: Collection[str], seed: str, count: int) -> Iterator[str]:
    generator = random.Random(seed)  # noqa: S311 (no secret)
    while count:
        if (docno := docnos[generator.randrange(len(docnos))]) not in without:
            yield docno
            count -= 1
