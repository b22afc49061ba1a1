"""Training pairs from Tevatron's JSON lines."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pyterrier_merge.collections.base import TestCollection
from pyterrier_merge.collections.reading.files import place, read_jsonl
from pyterrier_merge.storage import user_path
from pyterrier_merge.training.negatives import read_texts
from pyterrier_merge.training.pair_rows import PairRow, checked_name, checked_text, put_together
from pyterrier_merge.training.training_pairs import TrainingPairs


def pairs_from_tevatron(
    path: str | Path,
    corpus: str | Path | TestCollection | Mapping[str, str] | None = None,
    *,
    labelled: bool = True,
) -> TrainingPairs:
    """Read training pairs with negatives from JSON lines as Tevatron does (plain, or compressed by gzip or bzip2).

    The old format has ``query_id``, ``query``, ``positive_passages`` and ``negative_passages``, each passage with
    ``docid``, ``text`` and optionally ``title``; a passage's text is title, space, text. The new format has
    ``query_id``, ``query_text``, ``positive_document_ids`` and ``negative_document_ids``; the texts are in ``corpus``.

    Blank passages, documents missing in the corpus, queries without positives, and negatives that are positives of the
    same query are left out; a warning counts them.

    Args:
        path: The file.
        corpus: For the new format: a file of JSON lines with ``docid``, ``text`` and optionally ``title``, a
            collection, or docno -> text.
        labelled: Whether the queries count as labelled; False for generated ones.

    Raises:
        FileNotFoundError: The file does not exist.
        ValueError: A line is in neither format, a query is blank or occurs twice, a docid has two texts, no positive
            has a text, or there are fewer than two queries.
    """
    path = user_path(path)
    texts: dict[str, str] = {}
    rows: dict[str, PairRow] = {}
    lacking = set[str]()
    for number, entry in read_jsonl(path):
        row, found = _tevatron_row(place(path, number), entry)
        if "positive_passages" not in entry:
            lacking.update(row.positives, row.negatives)
        if row.qid in rows:
            raise ValueError(f"{place(path, number)}: query_id {row.qid!r} occurs twice")
        rows[row.qid] = row
        for docno, text in found.items():
            if texts.setdefault(docno, text) != text:
                raise ValueError(f"{place(path, number)}: docid {docno!r} has another text than in an earlier line")
    if lacking and corpus is None:
        raise ValueError(f"{path}: the texts of the documents are not in this file; give the corpus")
    if lacking and corpus is not None:
        texts |= _corpus_texts(corpus, lacking)
    origin = corpus.origin if isinstance(corpus, TestCollection) else None
    return put_together(path.name, list(rows.values()), texts, labelled=labelled, origin=origin)


def _tevatron_row(where: str, entry: Mapping[str, Any]) -> tuple[PairRow, dict[str, str]]:
    """Return the row of a line in Tevatron's format, and the texts in it."""
    old = "positive_passages" in entry
    if not old and "positive_document_ids" not in entry:
        raise ValueError(
            f"{where}: expected positive_passages or positive_document_ids, found {', '.join(map(str, entry))}"
        )
    qid = checked_name(where, "query_id", entry.get("query_id"))
    query = checked_text(where, "query" if old else "query_text", entry.get("query" if old else "query_text"))
    texts: dict[str, str] = {}
    docnos: list[list[str]] = []
    for kind in ("positive", "negative"):
        field = f"{kind}_passages" if old else f"{kind}_document_ids"
        given = entry.get(field) or []
        if not isinstance(given, list) or (old and not all(isinstance(passage, dict) for passage in given)):
            raise ValueError(f"{where}: {field} is a list of {'passages' if old else 'docids'}, found {given!r:.80}")
        ids = [checked_name(where, "docid", passage.get("docid") if old else passage) for passage in given]
        docnos.append(list(dict.fromkeys(ids)))
        for docno, passage in zip(ids, given, strict=True) if old else ():
            if texts.setdefault(docno, text := _titled(where, passage)) != text:
                raise ValueError(f"{where}: docid {docno!r} has two texts")
    return PairRow(qid, query, *docnos), texts


def _titled(where: str, passage: Mapping[str, Any]) -> str:
    title, text = passage.get("title") or "", passage.get("text")
    if not isinstance(title, str) or not isinstance(text, str):
        raise ValueError(f"{where}: title and text are strings, found {title!r:.40} and {text!r:.40}")  # noqa: TRY004
    return f"{title} {text}".strip()


def _corpus_texts(corpus: str | Path | TestCollection | Mapping[str, str], wanted: set[str]) -> dict[str, str]:
    if isinstance(corpus, TestCollection | Mapping):
        return read_texts(corpus, wanted)
    path = user_path(corpus)
    texts: dict[str, str] = {}
    for number, entry in read_jsonl(path):
        docno = checked_name(place(path, number), "docid", entry.get("docid"))
        if docno in wanted:
            texts[docno] = _titled(place(path, number), entry)
    return read_texts(texts, wanted)
