"""Any dataset of ir_datasets as a collection."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import pandas as pd

from pyterrier_merge.collections.base import TestCollection
from pyterrier_merge.collections.description import described
from pyterrier_merge.collections.reading.irds_source import IrdsSource, load
from pyterrier_merge.collections.sourced import SourcedCollection
from pyterrier_merge.signatures import takes_options_of

SPLITS = ("train", "dev", "test")
# BEIR's evaluation removes the query's own document from the results. NanoBEIR's evaluators do not.
IDENTICAL_IDS = ("beir/arguana", "beir/quora")


@takes_options_of(described)
def from_irds(
    dataset: str,
    *,
    dev: str | None = None,
    download: bool = False,
    title: str | None = None,
    language: str | None = None,
    licence: str = "see https://ir-datasets.com",
    citation: str = "see https://ir-datasets.com",
    ignore_identical_ids: bool | None = None,
    **description: Any,
) -> TestCollection:
    """Make a collection from the dataset ``dataset`` of ir_datasets; the same as ``get_collection("irds:...")``.

    Text and query are ir_datasets' own choice (``default_text``). Files are downloaded on first use; more than 100 MB
    need the user's consent. If ir_datasets does not state the files of a dataset, all files of its family count.

    Args:
        dataset: A dataset with topics and judgements, which become the split "test" (``beir/fiqa/test``); or one with
            parts train, dev or test (``beir/fiqa``), which become the splits.
        dev: A dataset with the topics and judgements of the split "dev", over the same documents.
        download: Consent to download files of any size.
        title: One line that says what it is; ``dataset`` when None.
        language: ISO 639-1 code; when None, ir_datasets' language, or English.
        licence: Licence of the data.
        citation: The work to cite.
        ignore_identical_ids: Leave a query's own document (docno equal to qid) out of its results, everywhere; when
            None, only for ``beir/arguana`` and ``beir/quora``, as BEIR does. If False, test topics that share id and
            text with documents are logged as a warning after the first whole pass.
        **description: The other arguments of :func:`~pyterrier_merge.collections.description.described`.

    Raises:
        ValueError: ir_datasets has no such dataset, the dataset lacks documents, topics or judgements, or the
            measures are names.
    """
    datasets = _splits(dataset)
    if dev is not None:
        datasets = {"dev": _judged(dev), **{split: part for split, part in datasets.items() if split != "dev"}}
    if "test" not in datasets:
        raise ValueError(
            f"{dataset!r} has no test part; it has {', '.join(datasets)}: name one of them, as {dataset}/dev"
        )
    if ignore_identical_ids is None:
        ignore_identical_ids = f"{dataset}/".startswith(tuple(f"{known}/" for known in IDENTICAL_IDS))
    about = described(
        title=title or f"{dataset} of ir_datasets",
        language=language or load(dataset).docs_lang() or "en",
        licence=licence,
        citation=citation,
        ignore_identical_ids=ignore_identical_ids,
        **description,
    )
    return IrdsCollection(
        name=f"irds-{dataset.replace('/', '-')}",
        splits=tuple(datasets),
        source=IrdsSource(name=f"irds:{dataset}", corpus=dataset, files=_files(dataset), download=download),
        datasets=datasets,
        **about,
    )


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class IrdsCollection(SourcedCollection):
    """The collection that ``from_irds`` makes.

    Attributes:
        datasets: ir_datasets' name for each split.
    """

    datasets: Mapping[str, str]

    def _form(self) -> tuple[str, ...]:
        return ("default_text",)

    def _document(self, doc: Any) -> dict[str, str]:
        fields = {key: value for key, value in doc._asdict().items() if isinstance(value, str)}
        return {"docno": fields.pop("doc_id"), **fields, "text": doc.default_text().strip()}

    def _documents(self) -> Iterator[dict[str, str]]:
        return self._watched(super()._documents(), "test")

    def _topics(self, split: str) -> pd.DataFrame:
        self.source.require()
        queries = self.source.queries(self.datasets[split])
        texts = [query.default_text() for query in load(self.datasets[split]).queries_iter()]
        return queries.assign(query=texts)

    def _qrels(self, split: str) -> pd.DataFrame:
        self.source.require()
        return self.source.qrels(self.datasets[split])


def _splits(dataset: str) -> dict[str, str]:
    loaded = load(dataset)
    if not loaded.has_docs():
        raise ValueError(f"{dataset!r} of ir_datasets has no documents; name one of its parts")
    if loaded.has_queries() and loaded.has_qrels():
        return {"test": dataset}
    found = {split: f"{dataset}/{split}" for split in SPLITS if _is_judged(f"{dataset}/{split}")}
    if not found:
        raise ValueError(f"{dataset!r} of ir_datasets has no judgements, and no parts train, dev or test that have")
    return found


def _judged(dataset: str) -> str:
    if not _is_judged(dataset):
        raise ValueError(f"{dataset!r} is not a data set of ir_datasets with topics and judgements")
    return dataset


def _is_judged(dataset: str) -> bool:
    try:
        loaded: Any = load(dataset)
    except ValueError:
        return False
    return bool(loaded.has_queries() and loaded.has_qrels())


def _files(dataset: str) -> str:
    """Return the name of the single download of a dataset such as ``beir/fiqa``; "" if it is unknown."""
    from ir_datasets.util import DownloadConfig

    top, _, rest = dataset.partition("/")
    part = rest.split("/")[0]
    return part if "url" in DownloadConfig.contents().get(top, {}).get(part, {}) else ""
