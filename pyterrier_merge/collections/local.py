"""The user's own collection, read from a folder of files."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd

from pyterrier_merge.collections.base import DEFAULT_TASK, TestCollection, checked_measures
from pyterrier_merge.collections.reading.checks import checked_name, report_unmatched
from pyterrier_merge.collections.reading.corpus import FileCorpus
from pyterrier_merge.collections.reading.documents import DOCUMENT_KINDS, read_documents
from pyterrier_merge.collections.reading.files import kind_of, stem_of
from pyterrier_merge.collections.reading.topics import TOPIC_KINDS, read_topics
from pyterrier_merge.collections.reading.trec_files import read_qrels

if TYPE_CHECKING:
    from ir_measures.measures import Measure

DOCUMENT_NAMES = ("corpus", "docs", "documents", "collection")
TOPIC_NAMES = ("queries", "topics")
QREL_KINDS = ("tsv", "txt", "trec", "qrels")  # other endings are a split's: "qrels.dev"
_SPLIT = re.compile(r"^[._-]+")


def from_folder(
    path: str | Path,
    *,
    name: str | None = None,
    language: str = "en",
    task: str = DEFAULT_TASK,
    measures: Sequence[Measure] | None = None,
    title: str = "a collection of the user's own",
    domain: str = "unknown",
    licence: str = "unknown",
    citation: str = "",
    default_domain_model: str | None = None,
) -> TestCollection:
    """Make a collection from a folder; its documents are read as a stream, each time they are asked for.

    What is what is told by the names of files, each of which may be packed by gzip or bzip2 (``.gz``, ``.bz2``):

    - documents: ``corpus``, ``docs``, ``documents`` or ``collection``, and whatever else the name holds, so that parts
      (``corpus-00.jsonl``) are read in the order of their names. ``.jsonl`` (``docno`` or ``_id``, ``text``, ``title``
      where there is one), ``.tsv`` (docno, text; docno, title, text; or columns that a header names) or ``.trec``
      (``<DOC>``, ``<DOCNO>``);
    - topics: ``queries`` or ``topics``: ``.jsonl``, ``.tsv``, ``.xml`` or ``.trec``. ``topics.dev.tsv`` is of the split
      "dev"; a file without such a part holds the topics of all splits, and the judgements tell whose they are;
    - judgements: ``qrels.txt`` or ``qrels.tsv`` of the split "test", ``qrels.dev.txt`` of "dev", or a folder ``qrels``
      with ``dev.tsv`` and ``test.tsv``: three columns, as in BEIR, or TREC's four;
    - or a SMART collection: ``NAME.ALL``, ``NAME.QRY``, ``NAME.REL``.

    A folder in BEIR's layout is one of these. Topics without judgements, judged topics that are none, judged documents
    that the corpus lacks and empty documents are counted and logged; the last two after the first whole pass.

    Args:
        path: The folder.
        name: Name in tables and on disk; that of the folder when None.
        language: ISO 639-1 code.
        task: The instruction given to a retrieval model that takes one.
        measures: ``ir_measures`` measures, the official one first. nDCG@10, R@100 and AP where none are given.
        title: One line that says what it is.
        domain: The field, in a word or two.
        licence: Licence of the data.
        citation: The work to cite.
        default_domain_model: Hub name of a domain language model that suits it.

    Raises:
        FileNotFoundError: There is no such folder, or it lacks documents, topics or judgements.
        ValueError: A file is not what its name says; the message has the file and the line. The name is none for a
            folder, or the measures are names.
    """
    folder = Path(path).expanduser()
    layout = find_layout(folder)
    name = checked_name(folder.resolve().name if name is None else name)
    qrels_of = {split: read_qrels(file) for split, file in layout.qrels.items()}
    topics_of = _topics_of(layout, qrels_of)
    report_unmatched(name, topics_of, qrels_of)
    judged = set[str]().union(*(frame["docno"] for frame in qrels_of.values()))
    corpus = FileCorpus(name, layout.documents, read_documents, form="title text", judged=lambda: judged)
    return LocalCollection(
        name=name,
        title=title,
        language=language,
        domain=domain,
        task=task,
        splits=tuple(topics_of),
        measures=checked_measures(measures),
        licence=licence,
        citation=citation,
        default_domain_model=default_domain_model,
        corpus=corpus,
        topics_of=topics_of,
        qrels_of=qrels_of,
    )


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class LocalCollection(TestCollection):
    """What ``from_folder`` makes."""

    corpus: FileCorpus
    topics_of: Mapping[str, pd.DataFrame]
    qrels_of: Mapping[str, pd.DataFrame]

    @property
    def num_docs(self) -> int:
        """Number of documents, counted in the files and kept in the package's cache."""
        return self.corpus.counts.documents

    @property
    def fingerprint(self) -> str:
        """Fingerprint of the content of the documents' files."""
        return self.corpus.fingerprint

    def _documents(self) -> Iterator[dict[str, str]]:
        return iter(self.corpus)

    def _topics(self, split: str) -> pd.DataFrame:
        return self.topics_of[split]

    def _qrels(self, split: str) -> pd.DataFrame:
        return self.qrels_of[split]


@dataclass(frozen=True)
class Layout:
    """The files of a folder: documents in their order, topics and judgements by split ("" for topics of all splits)."""

    documents: tuple[Path, ...]
    topics: Mapping[str, Path]
    qrels: Mapping[str, Path]


def find_layout(folder: Path) -> Layout:
    """Tell documents, topics and judgements by the names of files, as ``from_folder`` describes.

    Raises:
        FileNotFoundError: There is no such folder, or it lacks one of the three.
        ValueError: Two files hold the topics or the judgements of one split.
    """
    if not folder.is_dir():
        raise FileNotFoundError(f"there is no folder {folder}")
    files = sorted(file for file in folder.iterdir() if file.is_file() and not file.name.startswith("."))
    qrels = [
        (_split_of(file, ("qrels",), QREL_KINDS) or "test", file)
        for file in files
        if file.name.lower().startswith("qrels") or kind_of(file) == "rel"
    ]
    qrels += [(stem_of(file), file) for file in sorted((folder / "qrels").glob("[!.]*")) if file.is_file()]
    topics = [file for file in files if _is(file, TOPIC_NAMES, TOPIC_KINDS) or kind_of(file) == "qry"]
    layout = Layout(
        documents=tuple(file for file in files if _is(file, DOCUMENT_NAMES, DOCUMENT_KINDS) or kind_of(file) == "all"),
        topics=_by_split((_split_of(file, TOPIC_NAMES, TOPIC_KINDS), file) for file in topics),
        qrels=_by_split(qrels),
    )
    for what, found, expected in (
        ("documents", layout.documents, "corpus.jsonl, docs.tsv or collection.trec"),
        ("topics", layout.topics, "queries.jsonl, topics.tsv or topics.xml"),
        ("judgements", layout.qrels, "qrels.txt, qrels.dev.tsv or a folder qrels"),
    ):
        if not found:
            raise FileNotFoundError(
                f"{folder} has no {what}: expected a file such as {expected}, found "
                f"{', '.join(file.name for file in files) or 'no file'}"
            )
    return layout


def _topics_of(layout: Layout, qrels_of: Mapping[str, pd.DataFrame]) -> dict[str, pd.DataFrame]:
    common = read_topics(layout.topics[""]) if "" in layout.topics else None
    topics_of = {split: read_topics(file) for split, file in layout.topics.items() if split}
    if unjudged := sorted(set(topics_of) - set(qrels_of)):
        raise FileNotFoundError(
            f"there are topics but no judgements of {', '.join(unjudged)}; judgements are of {', '.join(qrels_of)}"
        )
    for split in qrels_of:
        if split in topics_of:
            continue
        if common is None:
            raise FileNotFoundError(
                f"there are judgements but no topics of {split!r}; topics are of {', '.join(topics_of)}"
            )
        alone = len(qrels_of) == 1
        topics_of[split] = common if alone else common[common["qid"].isin(qrels_of[split]["qid"])]
    return {split: topics_of[split] for split in qrels_of}


def _is(file: Path, names: Sequence[str], kinds: Sequence[str]) -> bool:
    return file.name.lower().startswith(tuple(names)) and kind_of(file) in kinds


def _split_of(file: Path, names: Sequence[str], kinds: Sequence[str]) -> str:
    stem = stem_of(file) + ("" if kind_of(file) in kinds else f".{kind_of(file)}").rstrip(".")
    begun = next((name for name in names if stem.lower().startswith(name)), "")
    return _SPLIT.sub("", stem[len(begun) :]) if begun else ""


def _by_split(found: Iterable[tuple[str, Path]]) -> dict[str, Path]:
    files: dict[str, Path] = {}
    for split, file in found:
        if split in files:
            raise ValueError(f"two files are of the split {split!r}: {files[split]} and {file}; keep one of them")
        files[split] = file
    return files
