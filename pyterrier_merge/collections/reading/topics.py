"""Reads topics from a file in the format given by its suffix."""

from __future__ import annotations

from collections.abc import Callable, Container, Iterator
from functools import partial
from pathlib import Path

import pandas as pd

from pyterrier_merge.collections.reading.checks import checked_topics
from pyterrier_merge.collections.reading.files import kind_of, place, read_jsonl, read_tsv
from pyterrier_merge.collections.reading.header import named_columns, split_header
from pyterrier_merge.collections.reading.trec_files import TEXT_TAGS, read_smart, read_trec_topics, read_xml_topics

QID_KEYS = ("qid", "_id", "query_id", "query-id", "id")
QUERY_KEYS = TEXT_TAGS
TOPIC_KINDS = ("jsonl", "tsv", "xml", "trec", "qry")


def read_topics(path: Path, *, judged: Container[str] = ()) -> pd.DataFrame:
    """Read topics by the suffix of their file, below ``.gz`` or ``.bz2``.

    ``.jsonl``: objects with ``qid`` or ``_id``, and ``query`` or ``text``. ``.tsv``: qid and query, or columns that a
    header names. ``.xml``: ``<topic number="1">`` with text, a ``<query>`` or a ``<title>``. ``.trec``: ``<top>`` with
    ``<num>`` and ``<title>``. ``.qry``: SMART's ``.I`` and ``.W``.

    Args:
        path: The file.
        judged: Qids in the judgements: a first line of TSV that begins with one is not a header.

    Returns:
        Columns ``qid`` and ``query``.

    Raises:
        ValueError: The suffix is unknown, a line is not in the expected format, a qid occurs twice, or there is no
            topic.
    """
    kind = kind_of(path)
    if kind == "xml":
        topics = read_xml_topics(path)
        field = next((key for key in QUERY_KEYS if key in topics), None)
        if field is None:
            raise ValueError(
                f"{path}: a topic has no {' or '.join(QUERY_KEYS)}, but {', '.join(topics.columns)}; read it into data "
                "frames and use from_frames"
            )
        return checked_topics(str(path), topics.rename(columns={field: "query"}))
    readers: dict[str, Callable[[Path], Iterator[tuple[int, str, str]]]] = {
        "jsonl": _from_jsonl,
        "tsv": partial(_from_tsv, judged=judged),
        "trec": read_trec_topics,
        "qry": _from_smart,
    }
    if kind not in readers:
        raise ValueError(f"{path}: topics are read from {', '.join(f'.{kind}' for kind in TOPIC_KINDS)}, not .{kind}")
    rows: dict[str, str] = {}
    lines: dict[str, int] = {}
    for number, qid, query in readers[kind](path):
        if qid in rows:
            raise ValueError(f"{place(path, number)}: topic {qid!r} is already in line {lines[qid]}")
        rows[qid], lines[qid] = query, number
    if not rows:
        raise ValueError(f"{path}: there is no topic in it")
    return checked_topics(str(path), pd.DataFrame(rows.items(), columns=["qid", "query"]))


def _from_jsonl(path: Path) -> Iterator[tuple[int, str, str]]:
    for number, entry in read_jsonl(path):
        qid = next((entry[key] for key in QID_KEYS if key in entry), None)
        query = next((entry[key] for key in QUERY_KEYS if key in entry), None)
        if not isinstance(qid, str | int) or not isinstance(query, str):
            raise ValueError(  # noqa: TRY004 (data)
                f"{place(path, number)}: expected a {' or '.join(QID_KEYS)} and a {' or '.join(QUERY_KEYS)}, found "
                f"{', '.join(f'{key}={value!r}'[:60] for key, value in entry.items())}"
            )
        yield number, str(qid), query


def _from_tsv(path: Path, judged: Container[str]) -> Iterator[tuple[int, str, str]]:
    names, rows = split_header(path, read_tsv(path), judged=judged)
    qid, query = named_columns(path, names, ids=QID_KEYS, texts=QUERY_KEYS) if names else (0, 1)
    for number, cells in rows:
        if not names and len(cells) != 2:
            raise ValueError(
                f"{place(path, number)}: expected qid and query, or a header that begins with {' or '.join(QID_KEYS)}; "
                f"found {len(cells)} columns: {chr(9).join(cells)[:80]!r}"
            )
        yield number, cells[qid], cells[query]


def _from_smart(path: Path) -> Iterator[tuple[int, str, str]]:
    return ((number, doc["docno"], doc["text"]) for number, doc in read_smart(path))
