"""A test collection from the user's own data, held in memory."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pandas as pd

from pyterrier_merge.collections.base import TestCollection
from pyterrier_merge.fingerprint import fingerprint_texts

if TYPE_CHECKING:
    from ir_measures.measures import Measure

Frames = pd.DataFrame | Mapping[str, pd.DataFrame]


def from_frames(
    name: str,
    docs: pd.DataFrame | Iterable[Mapping[str, str]],
    topics: Frames,
    qrels: Frames,
    *,
    language: str = "en",
    task: str = "Given a query, retrieve relevant documents that answer the query",
    measures: Sequence[Measure] | None = None,
    title: str = "a collection of the user's own",
    domain: str = "unknown",
    licence: str = "unknown",
    citation: str = "",
    default_domain_model: str | None = None,
) -> TestCollection:
    """Make a collection from data frames or dictionaries.

    Args:
        name: Name in tables and on disk.
        docs: Documents with ``docno`` and ``text``; further columns are kept.
        topics: Topics with ``qid`` and ``query``: one frame, the split "test", or a mapping from split to frame.
        qrels: Judgements with ``qid``, ``docno`` and ``label``, for the same splits.
        language: ISO 639-1 code.
        task: The instruction given to a retrieval model that takes one.
        measures: ``ir_measures`` measures, the official one first. nDCG@10, R@100 and AP where none are given.
        title: One line that says what it is.
        domain: The field, in a word or two.
        licence: Licence of the data.
        citation: The work to cite.
        default_domain_model: Hub name of a domain language model that suits it.

    Raises:
        ValueError: There is no document, a column is missing, a docno or a qid occurs twice, a text is not a string, or
            the splits of topics and judgements differ.
    """
    records: Iterable[Mapping[Any, Any]] = docs.to_dict("records") if isinstance(docs, pd.DataFrame) else docs
    documents = [dict(record) for record in records]
    _check_documents(name, documents)
    topics_of, qrels_of = _by_split(topics), _by_split(qrels)
    if list(topics_of) != list(qrels_of):
        raise ValueError(
            f"{name}: the splits of the topics ({', '.join(topics_of)}) and of the qrels ({', '.join(qrels_of)}) differ"
        )
    for split in topics_of:
        _check_columns(f"{name}: topics of {split!r}", topics_of[split], "qid", "query")
        _check_columns(f"{name}: qrels of {split!r}", qrels_of[split], "qid", "docno", "label")
        _check_unique(f"{name}: topics of {split!r}", "qid", topics_of[split]["qid"])
    if measures is None:
        from ir_measures import AP, R, nDCG

        measures = (nDCG @ 10, R @ 100, AP)
    return FrameCollection(
        name=name,
        title=title,
        language=language,
        domain=domain,
        task=task,
        splits=tuple(topics_of),
        measures=tuple(measures),
        licence=licence,
        citation=citation,
        default_domain_model=default_domain_model,
        documents=documents,
        topics_of=topics_of,
        qrels_of=qrels_of,
        corpus_fingerprint=fingerprint_texts(str(doc[key]) for doc in documents for key in ("docno", "text")),
    )


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class FrameCollection(TestCollection):
    """What ``from_frames`` makes."""

    documents: list[dict[str, Any]] = field(default_factory=list)
    topics_of: Mapping[str, pd.DataFrame] = field(default_factory=dict)
    qrels_of: Mapping[str, pd.DataFrame] = field(default_factory=dict)
    corpus_fingerprint: str = ""

    @property
    def num_docs(self) -> int:
        """Number of documents."""
        return len(self.documents)

    @property
    def fingerprint(self) -> str:
        """Fingerprint of every docno and text."""
        return self.corpus_fingerprint

    def _documents(self) -> Iterator[dict[str, str]]:
        return ({**doc, "docno": str(doc["docno"])} for doc in self.documents)

    def _topics(self, split: str) -> pd.DataFrame:
        return self.topics_of[split]

    def _qrels(self, split: str) -> pd.DataFrame:
        return self.qrels_of[split]


def _by_split(frames: Frames) -> dict[str, pd.DataFrame]:
    if isinstance(frames, pd.DataFrame):
        return {"test": frames.copy()}
    return {split: frame.copy() for split, frame in frames.items()}


def _check_documents(name: str, documents: list[dict[str, Any]]) -> None:
    if not documents:
        raise ValueError(f"{name}: there are no documents")
    for position, doc in enumerate(documents):
        for column in ("docno", "text"):
            if column not in doc:
                raise ValueError(f"{name}: document {position} has no {column!r}; it has {', '.join(map(str, doc))}")
        if not isinstance(doc["text"], str):
            raise ValueError(f"{name}: the text of document {doc['docno']!r} is {doc['text']!r}, not a string")  # noqa: TRY004
    _check_unique(f"{name}: documents", "docno", (doc["docno"] for doc in documents))


def _check_columns(what: str, frame: pd.DataFrame, *columns: str) -> None:
    missing = [column for column in columns if column not in frame.columns]
    if missing:
        raise ValueError(f"{what}: columns {missing} are missing; there are {list(frame.columns)}")


def _check_unique(what: str, column: str, values: Iterable[Any]) -> None:
    seen: set[str] = set()
    for value in map(str, values):
        if value in seen:
            raise ValueError(f"{what}: {column} {value!r} occurs twice")
        seen.add(value)
