"""NTCIR-15 Data Search: short information needs -> datasets of government portals, in Japanese and in English."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import pandas as pd

from pyterrier_merge.collections.base import TestCollection
from pyterrier_merge.collections.reading.checks import report_unmatched
from pyterrier_merge.collections.reading.corpus import FileCorpus
from pyterrier_merge.collections.reading.files import place, read_jsonl
from pyterrier_merge.collections.reading.hub import hub_file, in_hub_cache
from pyterrier_merge.collections.reading.qrels import read_qrels
from pyterrier_merge.collections.reading.topics import read_topics
from pyterrier_merge.storage import user_path, write_file

logger = logging.getLogger(__name__)

HUB_DATASET = "mpkato/ntcir_data_search"
GRADES = {"L0": 0, "L1": 1, "L2": 2}
_PORTALS = {
    "ja": (
        "the Japanese government (e-Stat)",
        "topics and judgements CC BY 4.0; documents: metadata of e-Stat",
    ),
    "en": ("the US government (Data.gov)", "topics and judgements CC BY 4.0; documents: metadata of Data.gov"),
}
_COLLECTION_KINDS = (".jsonl.bz2", ".jsonl", ".titles.jsonl.bz2", ".titles.jsonl")


def ntcir15_datasearch_ja(path: str | Path | None = None, *, download: bool = False) -> TestCollection:
    """Return the Japanese half: 1,338,402 datasets of e-Stat; 96 training and 96 test topics.

    Args:
        path: The folder of the files (see :class:`NtcirCollection`); the hub's cache when None.
        download: Consent to download the documents from the hub.
    """
    return _collection("ja", path, download)


def ntcir15_datasearch_en(path: str | Path | None = None, *, download: bool = False) -> TestCollection:
    """Return the English half: 46,615 datasets of Data.gov; 96 training and 96 test topics.

    Args:
        path: The folder of the files (see :class:`NtcirCollection`); the hub's cache when None. If it has
            ``data_search_e_collection.titles.jsonl.bz2`` instead of the collection, documents are titles, and the
            collection's title says so.
        download: Consent to download the documents from the hub.
    """
    return _collection("en", path, download)


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class NtcirCollection(TestCollection):
    """The collection that ``ntcir15_datasearch_ja`` and ``ntcir15_datasearch_en`` make.

    Files, with ``e`` for ``j`` in the English half: ``data_search_j_collection.jsonl.bz2`` (or uncompressed),
    ``data_search_j_{train,test}_topics.tsv``, ``data_search_j_{train,test}_qrels.txt``. A document's text is what the
    organisers' baseline indexes: title, description and the values of ``data_fields``, a line each.

    Attributes:
        folder: The folder of the files, None for the hub's cache.
        download: Consent to download the documents from the hub.
    """

    folder: Path | None
    download: bool

    @property
    def num_docs(self) -> int:
        """Number of documents, counted in the file and stored in the package's cache."""
        return self._corpus.counts.documents

    @property
    def fingerprint(self) -> str:
        """Fingerprint of the content of the documents' file."""
        return self._corpus.fingerprint

    @property
    def missing_bytes(self) -> int | None:
        """0 if the files are in a folder or in the hub's cache, else None."""
        kinds = [f"{split}_{kind}" for split in self.splits for kind in ("topics.tsv", "qrels.txt")]
        files = [f"{self._prefix}_{kind}" for kind in ("collection.jsonl.bz2", *kinds)]
        return 0 if self.folder or all(in_hub_cache(HUB_DATASET, file) for file in files) else None

    @property
    def document_fields(self) -> tuple[str, ...]:
        """Names of the fields that documents have besides ``docno``; some documents have no ``url``."""
        return "title", "url", "text"

    def _documents(self) -> Iterator[dict[str, str]]:
        return iter(self._corpus)

    def _topics(self, split: str) -> pd.DataFrame:
        return read_topics(self._file(f"{split}_topics.tsv"))

    def _qrels(self, split: str) -> pd.DataFrame:
        qrels = self._judgements(split)
        report_unmatched(self.name, {split: self._topics(split)}, {split: qrels})
        return qrels

    def _judgements(self, split: str) -> pd.DataFrame:
        return read_qrels(self._file(f"{split}_qrels.txt"), grades=GRADES)

    @cached_property
    def _corpus(self) -> FileCorpus:
        return FileCorpus(
            self.name,
            [self._collection_file()],
            _read_datasets,
            form="title description data_fields",
            judged=self._judged,
        )

    def _judged(self) -> set[str]:
        docnos: set[str] = set()
        for split in self.splits:
            try:
                docnos.update(self._judgements(split)["docno"])
            # A folder may lack the test judgements, which were published later, and the hub may be unreachable. They
            # are only counted here, so this must not fail after a whole pass over the documents.
            except (FileNotFoundError, RuntimeError):
                logger.debug("%s: no judgements of %s", self.name, split, exc_info=True)
        return docnos

    def _collection_file(self) -> Path:
        if self.folder is None:
            return hub_file(
                HUB_DATASET, f"{self._prefix}_collection.jsonl.bz2", name=self.name, large=True, download=self.download
            )
        found = _in_folder(self.folder, self.language)
        if found is None:
            raise FileNotFoundError(
                f"{self.name}: {self.folder} has no {self._prefix}_collection.jsonl.bz2; it is at "
                f"https://huggingface.co/datasets/{HUB_DATASET}"
            )
        return found

    def _file(self, ending: str) -> Path:
        file = f"{self._prefix}_{ending}"
        if self.folder is None:
            return hub_file(HUB_DATASET, file, name=self.name)
        if not (self.folder / file).is_file():
            raise FileNotFoundError(
                f"{self.name}: there is no {file} in {self.folder}; it is at "
                f"https://huggingface.co/datasets/{HUB_DATASET}"
            )
        return self.folder / file

    @property
    def _prefix(self) -> str:
        return f"data_search_{self.language[0]}"


def write_run(run: pd.DataFrame, path: str | Path, *, description: str, kind: str = "N,Y,N,N") -> None:
    """Write results as a run file of NTCIR Data Search: a ``<SYSDESC>`` line, then ``topic 0 dataset rank score run``.

    The run has the name of the file, as the organisers require: ``GROUP-J-1``.

    Args:
        run: Results with ``qid``, ``docno``, ``rank`` (from 0; the file counts from 1) and ``score``.
        path: The file.
        description: The ranking algorithm, in a few words.
        kind: Whether data files, neural models, special treatment of entities, and special treatment of numbers are
            used: ``Y`` or ``N`` four times.

    Raises:
        ValueError: The description has a tab or a line break in it, ``kind`` is not four letters, or the file's name
            has white space.
    """
    path = user_path(path)
    if set(description) & set("\t\r\n") or not re.fullmatch("[YN](,[YN]){3}", kind):
        raise ValueError(
            f"expected a description in one line without tabs and a kind such as 'N,Y,N,N', found {description!r} and "
            f"{kind!r}"
        )
    if len(path.name.split()) != 1:
        raise ValueError(f"the file's name is the run's, so it has no white space in it: {path.name!r}")
    lines = [f"<SYSDESC>{description}\t{kind}</SYSDESC>"]
    for qid, docno, rank, score in zip(*(run[column] for column in ("qid", "docno", "rank", "score")), strict=True):
        lines.append(f"{qid} 0 {docno} {rank + 1} {score:.6f} {path.name}")
    write_file(path, "\n".join(lines) + "\n")


def _collection(language: str, path: str | Path | None, download: bool) -> TestCollection:
    from ir_measures import P, nDCG

    folder = None if path is None else user_path(path)
    if folder is not None and not folder.is_dir():
        raise FileNotFoundError(f"ntcir15-datasearch-{language}: there is no folder {folder}")
    titles_only = folder is not None and ".titles." in getattr(_in_folder(folder, language), "name", "")
    portal, licence = _PORTALS[language]
    return NtcirCollection(
        name=f"ntcir15-datasearch-{language}",
        title=f"short information needs -> data sets of {portal}"
        + (", TITLES ONLY: no descriptions, so figures are no NTCIR figures" if titles_only else ""),
        language=language,
        domain="government statistics",
        task="Given a query, retrieve data sets that hold the statistics asked for",
        splits=("train", "test"),
        measures=(nDCG @ 10, nDCG @ 5, P(rel=1) @ 10),
        licence=licence,
        citation="Kato et al.: Overview of the NTCIR-15 Data Search Task. NTCIR-15, 2020",
        default_domain_model="stabilityai/japanese-stablelm-base-gamma-7b" if language == "ja" else None,
        evaluation=(
            "nDCG@10 is the primary measure; here the grades L0, L1, L2 are gains 0, 1, 2. Choose alphas on the 96 "
            "training topics: nothing else uses them"
        ),
        folder=folder,
        download=download,
    )


def _in_folder(folder: Path, language: str) -> Path | None:
    """Return the documents' file: the official one, compressed or not, or else the file of titles."""
    names = (f"data_search_{language[0]}_collection{kind}" for kind in _COLLECTION_KINDS)
    return next((folder / name for name in names if (folder / name).is_file()), None)


def _read_datasets(path: Path) -> Iterator[tuple[int, dict[str, str]]]:
    for number, entry in read_jsonl(path):
        docno, title = entry.get("id"), entry.get("title")
        if not isinstance(docno, str) or not isinstance(title, str | None):
            raise ValueError(  # noqa: TRY004 (data)
                f"{place(path, number)}: expected strings 'id' and 'title', found {docno!r} and {title!r}"
            )
        fields = entry.get("data_fields") or {}
        if not isinstance(fields, dict):
            raise ValueError(f"{place(path, number)}: expected an object 'data_fields', found {fields!r}")  # noqa: TRY004
        parts = [title, entry.get("description"), *fields.values()]
        kept = {key: entry[key] for key in ("title", "url") if isinstance(entry.get(key), str)}
        yield number, {"docno": docno, **kept, "text": "\n".join(str(part) for part in parts if part).strip()}
