"""A test collection from the user's own data, held in memory."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import pandas as pd

from pyterrier_merge.collections.base import TestCollection
from pyterrier_merge.collections.description import described
from pyterrier_merge.collections.reading.checks import (
    checked_name,
    checked_names,
    checked_qrels,
    checked_topics,
    report_unmatched,
)
from pyterrier_merge.fingerprint import fingerprint_texts
from pyterrier_merge.signatures import takes_options_of

logger = logging.getLogger(__name__)

Frames = pd.DataFrame | Mapping[str, pd.DataFrame]


@takes_options_of(described)
def from_frames(
    name: str,
    docs: pd.DataFrame | Iterable[Mapping[str, str]],
    topics: Frames,
    qrels: Frames,
    **description: Any,
) -> TestCollection:
    """Make a collection from data frames or dictionaries.

    Args:
        name: Name in tables and on disk.
        docs: Documents with ``docno`` and ``text``; other columns are kept.
        topics: Topics with ``qid`` and ``query``: one frame, the split "test", or a mapping from split to frame.
        qrels: Judgements with ``qid``, ``docno`` and ``label``, for the same splits. Docnos and qids are strings or
            whole numbers, labels whole numbers. The numbers of empty documents, and of docnos that are not in
            ``docs``, are logged as warnings.
        **description: Its description for reports, including the measures: the arguments of
            :func:`~pyterrier_merge.collections.description.described`.

    Raises:
        ValueError: The name cannot name a folder, there is no document, a column is missing, a docno, a qid or a
            judgement occurs twice or is not a name, a text or a query is not a string, a label is not a whole number,
            the splits of topics and judgements differ, or the measures are names.
    """
    checked_name(name)
    about = described(**description)
    documents = _checked_documents(name, docs.to_dict("records") if isinstance(docs, pd.DataFrame) else docs)
    topics_of, qrels_of = _by_split(topics), _by_split(qrels)
    if set(topics_of) != set(qrels_of):
        raise ValueError(
            f"{name}: the splits of the topics ({', '.join(topics_of)}) and of the qrels ({', '.join(qrels_of)}) differ"
        )
    topics_of = {split: checked_topics(f"{name}: topics of {split!r}", frame) for split, frame in topics_of.items()}
    qrels_of = {split: checked_qrels(f"{name}: qrels of {split!r}", qrels_of[split]) for split in topics_of}
    report_unmatched(name, topics_of, qrels_of)
    judged = set[str]().union(*(frame["docno"] for frame in qrels_of.values()))
    if lacking := len(judged - {doc["docno"] for doc in documents}):
        logger.warning("%s: %d of the %d judged documents are not in the corpus", name, lacking, len(judged))
    if empty := sum(not doc["text"].strip() for doc in documents):
        logger.warning("%s: %d of the %d documents are empty; they are kept", name, empty, len(documents))
    collection = FrameCollection(
        name=name,
        splits=tuple(topics_of),
        documents=documents,
        topics_of=topics_of,
        qrels_of=qrels_of,
        corpus_fingerprint=fingerprint_texts(_content(documents)),
        **about,
    )
    if topics_of:
        deque(collection._watched(iter(documents), *topics_of), maxlen=0)
    return collection


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class FrameCollection(TestCollection):
    """The collection that ``from_frames`` makes."""

    documents: list[dict[str, Any]]
    topics_of: Mapping[str, pd.DataFrame]
    qrels_of: Mapping[str, pd.DataFrame]
    corpus_fingerprint: str

    @property
    def num_docs(self) -> int:
        """Number of documents."""
        return len(self.documents)

    @property
    def fingerprint(self) -> str:
        """Fingerprint of every docno and text, and of other fields."""
        return self.corpus_fingerprint

    @property
    def document_fields(self) -> tuple[str, ...]:
        """Names of the fields that documents have besides ``docno``."""
        return tuple(dict.fromkeys(field for doc in self.documents for field in doc if field != "docno"))

    def _documents(self) -> Iterator[dict[str, str]]:
        return (doc.copy() for doc in self.documents)

    def _topics(self, split: str) -> pd.DataFrame:
        return self.topics_of[split]

    def _qrels(self, split: str) -> pd.DataFrame:
        return self.qrels_of[split]


def _content(documents: Iterable[Mapping[str, Any]]) -> Iterator[str]:
    for doc in documents:
        yield from (str(doc["docno"]), str(doc["text"]))
        yield from (f"{field}={doc[field]}" for field in sorted(doc.keys() - {"docno", "text"}))


def _by_split(frames: Frames) -> Mapping[str, pd.DataFrame]:
    return {"test": frames} if isinstance(frames, pd.DataFrame) else frames


def _checked_documents(name: str, docs: Iterable[Mapping[Any, Any]]) -> list[dict[str, Any]]:
    documents = []
    for position, doc in enumerate(docs):
        if not isinstance(doc, Mapping):
            raise ValueError(f"{name}: document {position} is {doc!r}, expected a mapping with 'docno' and 'text'")  # noqa: TRY004
        for column in ("docno", "text"):
            if column not in doc:
                raise ValueError(f"{name}: document {position} has no {column!r}; it has {', '.join(map(str, doc))}")
        if not isinstance(doc["text"], str):
            raise ValueError(f"{name}: the text of document {doc['docno']!r} is {doc['text']!r}, not a string")  # noqa: TRY004
        documents.append(dict(doc))
    if not documents:
        raise ValueError(f"{name}: there are no documents")
    docnos = checked_names(f"{name}: documents", "docno", (doc["docno"] for doc in documents), unique=True)
    return [{**doc, "docno": docno} for doc, docno in zip(documents, docnos, strict=True)]
