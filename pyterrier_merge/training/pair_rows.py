"""Rows with a query, its positives and its negatives: checks, and conversion to training pairs."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import pandas as pd

from pyterrier_merge.training.training_pairs import TrainingPairs, frame_of, require_several

logger = logging.getLogger(__name__)


class PairRow(NamedTuple):
    """A query with the docnos of its positives and negatives."""

    qid: str
    query: str
    positives: list[str]
    negatives: list[str]


def put_together(
    name: str,
    rows: Iterable[PairRow],
    texts: Mapping[str, str],
    *,
    labelled: bool,
    documents: bool = True,
    relevant: pd.DataFrame | None = None,
    origin: tuple[str, str] | None = None,
) -> TrainingPairs:
    """Make pairs from rows. A warning counts what is left out: documents without text, queries without positives.

    Args:
        name: Name of the pairs, for reports.
        rows: One row per query.
        texts: Docno -> text.
        labelled: Whether the queries count as labelled.
        documents: Whether the docnos belong to a collection.
        relevant: ``qid`` and ``docno`` of all documents known to be relevant; the rows' positives when None.
        origin: Name and fingerprint of the documents' collection.

    Raises:
        ValueError: No positive has a text, no given negative has one, or there are fewer than two queries.
    """
    rows = list(rows)
    if relevant is None:
        relevant = frame_of((row.qid, docno) for row in rows for docno in row.positives)
    kept = [row for row in _with_texts(name, rows, texts) if row.positives]
    if without := len(rows) - len(kept):
        logger.warning("%s: %d of the %d queries have no positive and are left out", name, without, len(rows))
    queries = pd.DataFrame([(row.qid, row.query) for row in kept], columns=["qid", "query"], dtype=object)
    require_several(name, queries)
    positives = frame_of((row.qid, docno) for row in kept for docno in row.positives)
    negatives = frame_of((row.qid, docno) for row in kept for docno in row.negatives)
    return TrainingPairs(
        name=name,
        queries=queries,
        positives=positives,
        negatives=negatives,
        texts={docno: texts[docno] for docno in dict.fromkeys((*positives["docno"], *negatives["docno"]))},
        labels=frozenset(queries["qid"]) if labelled else frozenset(),
        documents=frozenset(positives["docno"]) if documents else frozenset(),
        relevant=relevant[relevant["qid"].isin(queries["qid"])][["qid", "docno"]].reset_index(drop=True),
        origin=origin,
    )


def _with_texts(name: str, rows: Sequence[PairRow], texts: Mapping[str, str]) -> list[PairRow]:
    """Return the rows with only documents that have a text, and without negatives that are also positives."""
    there = {docno for docno, text in texts.items() if text.strip()}
    kept = [
        row._replace(
            positives=[docno for docno in row.positives if docno in there],
            negatives=[docno for docno in row.negatives if docno in there and docno not in row.positives],
        )
        for row in rows
    ]
    for kind in ("positives", "negatives"):
        given, left = (sum(len(getattr(row, kind)) for row in some) for some in (rows, kept))
        if given and not left:
            example = next(getattr(row, kind)[0] for row in rows if getattr(row, kind))
            raise ValueError(f"{name}: none of the {given} {kind} has a text and can be used, such as {example!r}")
        if given > left:
            logger.warning(
                "%s: %d of the %d %s have no text, or are positives too, and are left out",
                name, given - left, given, kind,
            )  # fmt: skip
    return kept


def checked_name(where: str, what: str, value: Any) -> str:
    """Return the name of a query or document; whole numbers become strings.

    Raises:
        ValueError: The value is not a string or whole number, or is blank.
    """
    if isinstance(value, bool) or not isinstance(value, str | int) or not str(value).strip():
        raise ValueError(f"{where}: {what} is a name, found {value!r}")
    return str(value)


def checked_text(where: str, what: str, value: Any) -> str:
    """Return a text.

    Raises:
        ValueError: The value is not a string, or is blank.
    """
    if not isinstance(value, str) or not value.strip():
        raise ValueError(f"{where}: {what} is a text that is not blank, found {value!r:.80}")
    return value
