"""Checks of topics and judgements from all sources, and counts of those that do not match."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from numbers import Integral
from typing import Any

import numpy as np
import pandas as pd

from pyterrier_merge.collections.names import clean_text, name_fault

logger = logging.getLogger(__name__)


def checked_name(name: str) -> str:
    """Return a collection's name.

    Raises:
        ValueError: It cannot name a folder: indexes are named after their collection.
    """
    if not name or set(name) & set("/\\\0"):
        raise ValueError(f"the name {name!r} is part of folder names: it must not be empty nor have a slash in it")
    return name


def checked_topics(what: str, frame: pd.DataFrame) -> pd.DataFrame:
    """Return ``qid`` and ``query`` of topics; whole numbers become strings.

    Raises:
        ValueError: A column is missing, a qid is not a name or occurs twice, or a query is not a string.
    """
    _check_columns(what, frame, "qid", "query")
    qids = checked_names(what, "qid", frame["qid"], unique=True)
    for qid, query in zip(qids, frame["query"], strict=True):
        if not isinstance(query, str):
            raise ValueError(f"{what}: the query of qid {qid!r} is {query!r}, not a string")  # noqa: TRY004
    return pd.DataFrame({"qid": qids, "query": frame["query"].map(clean_text).tolist()})


def checked_qrels(what: str, frame: pd.DataFrame) -> pd.DataFrame:
    """Return ``qid``, ``docno`` and ``label`` of judgements; whole numbers become strings.

    Raises:
        ValueError: A column is missing, a qid or docno is not a name, a label is not a whole number of at most nine
            digits, or a judgement occurs twice.
    """
    _check_columns(what, frame, "qid", "docno", "label")
    qrels = pd.DataFrame({column: checked_names(what, column, frame[column]) for column in ("qid", "docno")})
    qrels["label"] = pd.to_numeric(frame["label"], errors="coerce").to_numpy(dtype=float, na_value=np.nan)
    for fault, rows in (
        ("has a label that is not a whole number", qrels["label"] % 1 != 0),
        ("has a label of more than nine digits", qrels["label"].abs() >= 1e9),  # trec_eval counts up to it
        ("occurs twice", qrels.duplicated(["qid", "docno"])),
    ):
        if rows.any():
            qid, docno, _ = qrels[rows].iloc[0]
            raise ValueError(f"{what}: the judgement of qid {qid!r} and docno {docno!r} {fault}")
    return qrels.astype({"label": int})


def checked_names(what: str, column: str, values: Iterable[Any], *, unique: bool = False) -> list[str]:
    """Return docnos or qids, each checked; whole numbers become strings."""
    names = [str(value) if isinstance(value, Integral) else value for value in values]
    seen: set[str] = set()
    for name in names:
        if fault := name_fault(name, seen):
            raise ValueError(f"{what}: {column} {name!r} {fault}")
        if unique:
            seen.add(name)
    return names


def report_unmatched(name: str, topics_of: Mapping[str, pd.DataFrame], qrels_of: Mapping[str, pd.DataFrame]) -> None:
    """Log the number of unjudged topics, and of judged qids that are not topics, split by split."""
    for split, topics in topics_of.items():
        asked, judged = set(topics["qid"]), set(qrels_of[split]["qid"])
        if unjudged := len(asked - judged):
            logger.warning("%s: %d of the %d topics of %r have no judgement", name, unjudged, len(asked), split)
        if unasked := len(judged - asked):
            logger.warning("%s: %d of the %d judged qids of %r are not topics", name, unasked, len(judged), split)


def _check_columns(what: str, frame: pd.DataFrame, *columns: str) -> None:
    missing = [column for column in columns if column not in frame.columns]
    if missing:
        raise ValueError(f"{what}: columns {missing} are missing; there are {list(frame.columns)}")
