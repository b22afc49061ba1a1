"""Training pairs from a collection's judgements or a data frame; also exports all other ways to make them."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

import pandas as pd

from pyterrier_merge.collections.base import TestCollection, require_collection
from pyterrier_merge.collections.pseudo_queries import KnownItems
from pyterrier_merge.fingerprint import fingerprint_texts
from pyterrier_merge.training.negatives import read_texts
from pyterrier_merge.training.pair_rows import PairRow, checked_name, checked_text, put_together
from pyterrier_merge.training.tevatron import pairs_from_tevatron
from pyterrier_merge.training.training_pairs import TrainingPairs, read_qids

__all__ = ["TrainingPairs", "pairs_from_collection", "pairs_from_frame", "pairs_from_tevatron", "read_qids"]

logger = logging.getLogger(__name__)


def pairs_from_collection(collection: TestCollection, split: str = "train", *, min_label: int = 1) -> TrainingPairs:
    """Make training pairs from a collection's judgements: of its train split, or of known items.

    Positives are documents with at least ``min_label``; those with a lower label above 0 are never mined as negatives.
    Positives without text in the corpus and queries without positives are left out; a warning counts them.

    Args:
        collection: Gives queries, judgements and texts. If its judgements need no labelling (``labelled`` is False, as
            for :func:`pyterrier_merge.known_items`), the pairs count no labels.
        split: The split of the queries; never the test split.
        min_label: Lowest label of a positive.

    Raises:
        TypeError: ``collection`` is not a test collection.
        ValueError: The split is the test split or unknown, no judgement has the label, no positive has a text, or
            fewer than two queries are left.
    """
    require_collection(collection)
    if split == "test":
        raise ValueError("models must not be trained on test queries: give another split")
    if min_label < 1:
        raise ValueError(f"min_label is at least 1, because label 0 is not relevant; found {min_label!r}")
    name = f"{split} of {collection.name}"
    topics, qrels = collection.topics(split), collection.qrels(split)
    blank = topics["query"].str.strip() == ""
    if blank.any():
        logger.warning("%s: %d of the %d queries are blank and are left out", name, blank.sum(), len(topics))
        topics = topics[~blank]
    relevant = qrels[(qrels["label"] > 0) & qrels["qid"].isin(topics["qid"])]
    if collection.ignore_identical_ids:
        relevant = relevant[relevant["qid"] != relevant["docno"]]
    positives = relevant[relevant["label"] >= min_label]
    if positives.empty:
        raise ValueError(
            f"{name}: none of the {len(qrels)} judgements of {len(topics)} queries has a label of at least {min_label}"
        )
    of = positives.groupby("qid", sort=False)["docno"].agg(list)
    rows = [PairRow(qid, query, of.get(qid, []), []) for qid, query in zip(topics["qid"], topics["query"], strict=True)]
    texts = read_texts(collection, positives["docno"])
    made = put_together(name, rows, texts, labelled=collection.labelled, relevant=relevant, origin=collection.origin)
    return replace(made, kind=str(collection.query)) if isinstance(collection, KnownItems) else made


def pairs_from_frame(frame: pd.DataFrame, name: str = "a frame", *, labelled: bool = True) -> TrainingPairs:
    """Make training pairs from a data frame.

    Args:
        frame: ``query`` and ``positive`` (a text), one row per pair, with any of ``negative`` (a text), ``negative_1``,
            ``negative_2`` ..., and ``negatives`` (a list of texts); rows of one query are combined. Or ``qid``,
            ``query``, ``docno`` and ``text``, one row per positive.
        name: Name of the pairs, for reports.
        labelled: Whether the queries count as labelled; False for generated ones.

    Raises:
        TypeError: ``frame`` is not a data frame.
        ValueError: Columns are missing, a query or text is blank or not a string, a row occurs twice, a qid has two
            queries or a docno two texts, or there are fewer than two queries.
    """
    if not isinstance(frame, pd.DataFrame):
        raise TypeError(f"expected a data frame, found {frame!r:.80}")
    named = {"qid", "query", "docno", "text"} <= set(frame.columns)
    if not named and not {"query", "positive"} <= set(frame.columns):
        raise ValueError(
            f"{name}: expected the columns query and positive, or qid, query, docno and text; found "
            f"{', '.join(map(str, frame.columns))}"
        )
    rows: dict[str, PairRow] = {}
    texts: dict[str, str] = {}
    read = _named_row if named else _text_row
    for number, entry in enumerate(frame.to_dict("records")):
        where = f"{name}, row {number}"
        row, found = read(where, {str(key): value for key, value in entry.items()})
        known = rows.setdefault(row.qid, row._replace(positives=[], negatives=[]))
        if known.query != row.query:
            raise ValueError(f"{where}: qid {row.qid!r} has another query than in an earlier row")
        if row.positives[0] in known.positives:
            raise ValueError(f"{where}: query and positive are those of an earlier row: {row.query[:60]!r}")
        known.positives.extend(row.positives)
        known.negatives.extend(docno for docno in dict.fromkeys(row.negatives) if docno not in known.negatives)
        for docno, text in found.items():
            if texts.setdefault(docno, text) != text:
                raise ValueError(f"{where}: docno {docno!r} has another text than in an earlier row")
    return put_together(name, list(rows.values()), texts, labelled=labelled, documents=named)


def _named_row(where: str, entry: Mapping[str, Any]) -> tuple[PairRow, dict[str, str]]:
    qid, docno = checked_name(where, "qid", entry["qid"]), checked_name(where, "docno", entry["docno"])
    query, text = checked_text(where, "query", entry["query"]), checked_text(where, "text", entry["text"])
    return PairRow(qid, query, [docno], []), {docno: text}


def _text_row(where: str, entry: Mapping[str, Any]) -> tuple[PairRow, dict[str, str]]:
    query, positive = checked_text(where, "query", entry["query"]), checked_text(where, "positive", entry["positive"])
    negatives = [checked_text(where, "negatives", text) for text in _negatives(entry)]
    names = {text: f"text-{fingerprint_texts([text])}" for text in (positive, *negatives)}
    row = PairRow(f"query-{fingerprint_texts([query])}", query, [names[positive]], [names[text] for text in negatives])
    return row, {name: text for text, name in names.items()}


def _negatives(entry: Mapping[str, Any]) -> Iterator[Any]:
    for column, value in entry.items():
        if column == "negatives" and isinstance(value, list | tuple):
            yield from value
        elif column == "negatives":
            yield [value]  # not a text: the check then reports it
        elif (column == "negative" or column.startswith("negative_")) and not pd.isna(value):  # some rows have fewer
            yield value
