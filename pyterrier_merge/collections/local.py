"""The user's own collection, read from a folder of files."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd

from pyterrier_merge.collections.base import TestCollection
from pyterrier_merge.collections.description import described
from pyterrier_merge.collections.reading.checks import checked_name, report_unmatched
from pyterrier_merge.collections.reading.corpus import FileCorpus
from pyterrier_merge.collections.reading.documents import read_documents
from pyterrier_merge.collections.reading.layout import Layout, find_layout
from pyterrier_merge.collections.reading.qrels import lists_relevant, read_qrels, without_zeros
from pyterrier_merge.collections.reading.topics import read_topics
from pyterrier_merge.signatures import takes_options_of
from pyterrier_merge.storage import user_path

logger = logging.getLogger(__name__)

_FORM = "title text; cells of TSV unquoted"


@takes_options_of(described)
def from_folder(
    path: str | Path,
    *,
    name: str | None = None,
    **description: Any,
) -> TestCollection:
    """Make a collection from a folder; its documents are read as a stream at each use.

    The names of files state their content; each may be compressed with gzip or bzip2 (``.gz``, ``.bz2``):

    - documents: ``corpus``, ``docs``, ``documents`` or ``collection``, followed by any suffix: parts
      (``corpus-00.jsonl``) are read in the order of their names. ``.jsonl`` (``docno`` or ``_id``, ``text``, an
      optional ``title``), ``.tsv`` (docno, text; docno, title, text; or columns that a header names) or ``.trec``
      (``<DOC>``, ``<DOCNO>``);
    - topics: ``queries`` or ``topics``: ``.jsonl``, ``.tsv``, ``.xml`` or ``.trec``. ``topics.dev.tsv`` belongs to the
      split "dev"; a file without a split's name holds the topics of all splits, and the judgements assign them;
    - judgements: ``qrels.txt`` or ``qrels.tsv`` for the split "test", ``qrels.dev.txt`` for "dev", or a folder
      ``qrels`` with ``dev.tsv`` and ``test.tsv``: three columns, as in BEIR, or TREC's four;
    - or a SMART collection: ``NAME.ALL``, ``NAME.QRY``, ``NAME.REL``.

    Unpacked folders of BEIR and MS MARCO can be read directly; docs/collections.md lists all layouts. Topics without
    judgements (a whole file of them is left out), judged qids that are not topics, judged documents that the corpus
    lacks and empty documents are counted and logged; the last two after the first whole pass.

    Args:
        path: The folder.
        name: Name in tables and on disk; that of the folder when None.
        **description: Its description for reports, including the measures: the arguments of
            :func:`~pyterrier_merge.collections.description.described`.

    Raises:
        FileNotFoundError: There is no such folder, or it lacks documents, topics or judgements.
        ValueError: A file's content does not match its name; the message has the file and the line. The name cannot
            name a folder, or the measures are names.
    """
    about = described(**description)
    folder = user_path(path)
    layout = find_layout(folder)
    name = checked_name(folder.resolve().name if name is None else name)
    topics_of, qrels_of = _topics_and_qrels(name, layout)
    report_unmatched(name, topics_of, qrels_of)
    judged = set[str]().union(*(frame["docno"] for frame in qrels_of.values()))
    read = partial(read_documents, judged=judged)
    corpus = FileCorpus(name, layout.documents, read, form=_FORM, judged=lambda: judged)
    return LocalCollection(
        name=name,
        splits=tuple(topics_of),
        corpus=corpus,
        topics_of=topics_of,
        qrels_of=qrels_of,
        **about,
    )


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class LocalCollection(TestCollection):
    """The collection that ``from_folder`` makes."""

    corpus: FileCorpus
    topics_of: Mapping[str, pd.DataFrame]
    qrels_of: Mapping[str, pd.DataFrame]

    @property
    def num_docs(self) -> int:
        """Number of documents, counted in the files and stored in the package's cache."""
        return self.corpus.counts.documents

    @property
    def fingerprint(self) -> str:
        """Fingerprint of the content of the documents' files."""
        return self.corpus.fingerprint

    def _documents(self) -> Iterator[dict[str, str]]:
        return self._watched(iter(self.corpus), *self.splits)

    def _topics(self, split: str) -> pd.DataFrame:
        return self.topics_of[split]

    def _qrels(self, split: str) -> pd.DataFrame:
        return self.qrels_of[split]


def _topics_and_qrels(name: str, layout: Layout) -> tuple[dict[str, pd.DataFrame], dict[str, pd.DataFrame]]:
    """Return topics and judgements of each split that has judgements; other topics are only counted."""
    qrels_of = {split: read_qrels(file) for split, file in layout.qrels.items()}
    judged = set[str]().union(*(qrels["qid"] for qrels in qrels_of.values()))
    asked = {split: read_topics(file, judged=judged) for split, file in layout.topics.items()}
    for split in sorted(set(asked) - set(qrels_of) - {""}):
        logger.warning(
            "%s: there are no judgements of %r, so its %d topics are left out (%s)",
            name, split, len(asked[split]), layout.topics[split],
        )  # fmt: skip
    topics_of = {}
    for split in qrels_of:
        topics = asked.get(split, asked.get(""))
        if topics is None:
            raise FileNotFoundError(
                f"there are judgements but no topics of {split!r}; topics are of {', '.join(asked)}"
            )
        if lists_relevant(layout.qrels[split]):
            qrels_of[split] = _numbered_alike(layout, topics, qrels_of[split])
        alone = split in asked or len(qrels_of) == 1
        topics_of[split] = topics if alone else topics[topics["qid"].isin(qrels_of[split]["qid"])]
    return topics_of, qrels_of


def _numbered_alike(layout: Layout, topics: pd.DataFrame, qrels: pd.DataFrame) -> pd.DataFrame:
    """Return SMART's judgements, without leading zeros if the topics, or the first document, have none."""
    _, document = next(read_documents(layout.documents[0]), (0, {"docno": ""}))
    return qrels.assign(
        qid=without_zeros(qrels["qid"], topics["qid"]), docno=without_zeros(qrels["docno"], [document["docno"]])
    )
