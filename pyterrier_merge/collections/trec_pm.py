"""TREC Precision Medicine 2017: a cancer patient's case -> abstracts of MEDLINE, through ir_datasets."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from pyterrier_merge.collections.base import TestCollection
from pyterrier_merge.collections.names import squeezed
from pyterrier_merge.collections.reading.checks import checked_names
from pyterrier_merge.collections.reading.irds_source import IrdsSource
from pyterrier_merge.collections.reading.qrels import read_qrels
from pyterrier_merge.collections.reading.trec_files import read_xml_topics
from pyterrier_merge.collections.sourced import SourcedCollection
from pyterrier_merge.collections.trec_cds import EVALUATION
from pyterrier_merge.storage import user_path

FIELDS = ("disease", "gene", "demographic", "other")
_YEARS = {"dev": 2018, "test": 2017}


def trec_pm_2017(
    *, fields: Sequence[str] = FIELDS, path: str | Path | None = None, download: bool = False
) -> TestCollection:
    """Return TREC Precision Medicine 2017: 26,740,025 abstracts; 30 test topics, and the 50 of 2018 as dev.

    Both years were judged on the same documents.

    Args:
        fields: The fields that form the query, in this order: "disease", "gene", "demographic", "other" (other
            diseases; 2018 has no such field). "None" in a topic is left out.
        path: A folder with ``topics2017.xml`` and the judgements of abstracts (``qrels-*abstracts*2017.txt`` or
            ``qrels-final-abstracts.txt``), and with those of 2018 for dev; when None, ir_datasets' files.
        download: Consent to download the documents (22.3 GB).
    """
    return _pm("trec-pm-2017", fields, path, download)


def trec_cds_2017(
    *, fields: Sequence[str] = FIELDS, path: str | Path | None = None, download: bool = False
) -> TestCollection:
    """Return :func:`trec_pm_2017` under the name that some papers use: the CDS track ended in 2016, PM succeeded it."""
    return _pm("trec-cds-2017", fields, path, download)


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class PmCollection(SourcedCollection):
    """The collection that ``trec_pm_2017`` makes.

    A document's text is title and abstract from ir_datasets, which keeps only the first section of a structured
    abstract (``AbstractText``), and cuts title and abstract at the first markup (``<i>``).

    Attributes:
        query_fields: The fields that form the query.
        folder: The folder of topics and judgements; None for ir_datasets.
    """

    query_fields: tuple[str, ...]
    folder: Path | None

    @property
    def document_fields(self) -> tuple[str, ...]:
        """Names of the fields that documents have besides ``docno``."""
        return "title", "text"

    def _form(self) -> tuple[str, ...]:
        return ("title abstract",)

    def _further_files(self) -> tuple[str, ...]:
        return tuple(f"trec-pm-{year}" for year in _YEARS.values() if self.folder is None)

    def _document(self, doc: Any) -> dict[str, str]:
        title, abstract = squeezed(doc.title), squeezed(doc.abstract)  # either is None if it begins with markup
        return {"docno": doc.doc_id, "title": title, "text": f"{title} {abstract}".strip()}

    def _topics(self, split: str) -> pd.DataFrame:
        year = _YEARS[split]
        if self.folder is None:
            topics = self.source.queries(f"medline/2017/trec-pm-{year}", f"trec-pm-{year}")
        else:
            topics = _read_topics(_one_file(self.folder, f"topics{year}.xml"))
        parts = [topics[field] for field in self.query_fields if field in topics]
        return topics.assign(query=[_joined(row) for row in zip(*parts, strict=True)])

    def _qrels(self, split: str) -> pd.DataFrame:
        year = _YEARS[split]
        if self.folder is None:
            return self.source.qrels(f"medline/2017/trec-pm-{year}", f"trec-pm-{year}")
        patterns = [f"qrels*abstracts*{year}*"] + ["qrels-final-abstracts.txt"] * (year == 2017)
        return read_qrels(_one_file(self.folder, *patterns))


def _pm(name: str, fields: Sequence[str], path: str | Path | None, download: bool) -> TestCollection:
    from ir_measures import P, Rprec, nDCG

    if isinstance(fields, str) or not fields or set(fields) - set(FIELDS) or len(set(fields)) < len(fields):
        raise ValueError(f"{name}: fields are some of {', '.join(FIELDS)}, each once, found {fields!r}")
    if set(fields) == {"other"}:
        raise ValueError(f"{name}: 'other' alone makes no query: most topics of 2018 and some of 2017 have none")
    folder = None if path is None else user_path(path)
    if folder is not None and not folder.is_dir():
        raise FileNotFoundError(f"{name}: there is no folder {folder}")
    source = IrdsSource(name=name, corpus="medline/2017", files="2017", download=download)
    return PmCollection(
        name=name,
        title=f"TREC Precision Medicine 2017, the successor of the CDS track: {', '.join(fields)} -> MEDLINE abstracts",
        language="en",
        domain="medical",
        task="Given a cancer patient's case, retrieve biomedical articles that are relevant to treating the patient",
        splits=tuple(_YEARS),
        measures=(nDCG @ 10, P @ 10, Rprec),
        licence="documents: NLM's terms of MEDLINE/PubMed, abstracts of AACR and ASCO; topics and judgements: NIST",
        citation="Roberts et al.: Overview of the TREC 2017 Precision Medicine Track. TREC 2017",
        default_domain_model="BioMistral/BioMistral-7B",
        download_bytes=source.download_bytes,
        evaluation=EVALUATION,
        source=source,
        query_fields=tuple(fields),
        folder=folder,
    )


def _read_topics(file: Path) -> pd.DataFrame:
    topics = read_xml_topics(file)
    if missing := {"disease", "gene", "demographic"} - set(topics.columns):
        raise ValueError(
            f"{file}: no topic has {' or '.join(sorted(missing))}; there are {', '.join(topics.columns)}: are these "
            "another track's topics?"
        )
    checked_names(str(file), "qid", topics["qid"], unique=True)
    return topics


def _joined(parts: Sequence[str]) -> str:
    return " ".join(part for part in map(squeezed, parts) if part.lower() not in ("", "none"))


def _one_file(folder: Path, *patterns: str) -> Path:
    found = sorted({file for pattern in patterns for file in folder.glob(pattern)})
    if len(found) != 1:
        names = ", ".join(file.name for file in found) or "none"
        raise FileNotFoundError(f"expected one file {' or '.join(patterns)} in {folder}, found {names}")
    return found[0]
