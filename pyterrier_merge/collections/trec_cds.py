"""TREC Clinical Decision Support 2014 to 2016: a patient's case -> articles of PubMed Central, through ir_datasets."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pandas as pd

from pyterrier_merge.collections.base import TestCollection
from pyterrier_merge.collections.names import squeezed
from pyterrier_merge.collections.reading.irds_source import IrdsSource
from pyterrier_merge.collections.sourced import SourcedCollection

EVALUATION = (
    "TREC's first measure is infNDCG, inferred from sampled judgements (qrels-sampleval, sample_eval.pl). It is not "
    "computed here: ir_measures has infAP but no infNDCG, and ir_datasets gives the plain judgements alone. nDCG@10 "
    "compares only with nDCG@10. P@10 and R-Prec are TREC's own (relevant from grade 1)"
)
_CITATIONS = {
    2014: "Simpson et al.: Overview of the TREC 2014 Clinical Decision Support Track. TREC 2014",
    2015: "Roberts et al.: Overview of the TREC 2015 Clinical Decision Support Track. TREC 2015",
    2016: "Roberts et al.: Overview of the TREC 2016 Clinical Decision Support Track. TREC 2016",
}
# Each year has 30 test topics; another year's topics are the dev split. 2014 and 2015 share their documents.
_DEV_YEAR = {2014: 2015, 2015: 2014, 2016: 2015}


def trec_cds_2014(*, topic: str = "summary", body: bool = False, download: bool = False) -> TestCollection:
    """Return TREC CDS 2014: 733,111 articles; 30 test topics, and those of 2015 as dev (the same documents).

    Args:
        topic: The field that is the query: "summary" or "description" (the long one).
        body: Index the whole article instead of title and abstract.
        download: Consent to download the documents (10.3 GB).
    """
    return _cds(2014, topic, ("summary", "description"), body, download)


def trec_cds_2015(*, topic: str = "summary", body: bool = False, download: bool = False) -> TestCollection:
    """Return TREC CDS 2015, task A: 733,111 articles; 30 test topics, and those of 2014 as dev (the same documents).

    Args:
        topic: The field that is the query: "summary" or "description" (the long one).
        body: Index the whole article instead of title and abstract.
        download: Consent to download the documents (10.3 GB).
    """
    return _cds(2015, topic, ("summary", "description"), body, download)


def trec_cds_2016(*, topic: str = "summary", body: bool = False, download: bool = False) -> TestCollection:
    """Return TREC CDS 2016: 1,255,260 articles; 30 test topics, and those of 2015 as dev.

    The judgements of 2015 were made on an older snapshot of PubMed Central: some of their documents may be missing
    here, and new ones are not judged. This is enough to choose alphas; the dev figures are not figures of 2015.

    Args:
        topic: The field that is the query: "summary", "description" or "note" (the patient's admission note, as
            clinicians wrote it; 2015 has none, so there is no dev split then).
        body: Index the whole article instead of title and abstract.
        download: Consent to download the documents (18.9 GB).
    """
    return _cds(2016, topic, ("summary", "description", "note"), body, download)


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class CdsCollection(SourcedCollection):
    """The collection that ``trec_cds_2014``, ``trec_cds_2015`` and ``trec_cds_2016`` make.

    A document's text is title and abstract. Encoders read some hundred tokens, so they see little more of a whole
    article, and BM25 over abstracts is a fair comparison; ``body=True`` gives BM25 the full text. The journal is a
    separate field.

    Attributes:
        datasets: ir_datasets' name of each split's topics.
        topic: The field that is the query.
        body: The body of an article is part of its text.
    """

    datasets: Mapping[str, str]
    topic: str
    body: bool

    @property
    def document_fields(self) -> tuple[str, ...]:
        """Names of the fields that documents have besides ``docno``."""
        return "title", "journal", "text"

    def _form(self) -> tuple[str, ...]:
        return ("title abstract body" if self.body else "title abstract",)

    def _further_files(self) -> tuple[str, ...]:
        return tuple(dataset.split("/")[-1] for dataset in self.datasets.values())

    def _document(self, doc: Any) -> dict[str, str]:
        fields = [squeezed(field) for field in (doc.title, doc.abstract, doc.body if self.body else "")]
        return {
            "docno": doc.doc_id,
            "title": fields[0],
            "journal": squeezed(doc.journal),
            "text": " ".join(field for field in fields if field),
        }

    def _topics(self, split: str) -> pd.DataFrame:
        queries = self.source.queries(self.datasets[split], self.datasets[split].split("/")[-1])
        return queries.assign(query=queries[self.topic].map(squeezed))

    def _qrels(self, split: str) -> pd.DataFrame:
        return self.source.qrels(self.datasets[split], self.datasets[split].split("/")[-1])


def _cds(year: int, topic: str, topics: tuple[str, ...], body: bool, download: bool) -> TestCollection:
    from ir_measures import P, Rprec, nDCG

    name = f"trec-cds-{year}"
    if topic not in topics:
        raise ValueError(f"{name}: topic is {' or '.join(topics)}, not {topic!r}")
    corpus = "pmc/v2" if year == 2016 else "pmc/v1"
    datasets = {"dev": _dataset(_DEV_YEAR[year]), "test": _dataset(year)}
    if topic == "note":
        del datasets["dev"]
    source = IrdsSource(name=name, corpus=corpus, files=corpus.removeprefix("pmc/"), download=download)
    return CdsCollection(
        name=name,
        title=f"patients' cases ({topic}) -> {'full texts' if body else 'titles and abstracts'} of PubMed Central",
        language="en",
        domain="medical",
        task="Given a patient's case, retrieve biomedical articles that help to diagnose, test or treat the patient",
        splits=tuple(datasets),
        measures=(nDCG @ 10, P @ 10, Rprec),
        licence="PubMed Central Open Access Subset: each article has its own; topics and judgements: NIST",
        citation=_CITATIONS[year],
        default_domain_model="BioMistral/BioMistral-7B",
        download_bytes=source.download_bytes,
        evaluation=EVALUATION,
        source=source,
        datasets=datasets,
        topic=topic,
        body=body,
    )


def _dataset(year: int) -> str:
    return f"pmc/{'v2' if year == 2016 else 'v1'}/trec-cds-{year}"
