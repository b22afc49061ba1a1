"""Collections as PyTerrier datasets: ``pt.get_dataset("merge:scifact")``."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import pandas as pd
import pyterrier as pt

from pyterrier_merge.collections import get_collection, list_collections
from pyterrier_merge.collections.base import TestCollection
from pyterrier_merge.collections.text_loader import ALL, TextLoader

DEFAULT_SPLIT = "test"


class MergeDatasetProvider(pt.datasets.DatasetProvider):
    """The provider of the prefix ``merge:``."""

    def get_dataset(self, name: str) -> CollectionDataset:
        """Return the dataset of a collection.

        Args:
            name: One of ``list_collections()``, or ``irds:`` and a name of ir_datasets.

        Raises:
            KeyError: There is no such collection.
        """
        try:
            return CollectionDataset(get_collection(name))
        except ValueError as error:
            raise KeyError(str(error)) from error

    def list_dataset_names(self) -> Iterable[str]:
        """Return the names of the collections."""
        return list_collections()


class CollectionDataset(pt.datasets.Dataset):
    """A collection as a PyTerrier dataset; its variants are the splits, "test" by default.

    Args:
        collection: The collection. ``CollectionDataset(get_collection("local", path=...))`` makes a dataset of a
            collection that needs options.
    """

    def __init__(self, collection: TestCollection) -> None:
        self.collection = collection

    def get_corpus_iter(self, *, verbose: bool = True) -> Iterator[dict[str, str]]:
        """Iterate over the documents: ``docno``, ``text`` and other fields."""
        return self.collection.corpus_iter(verbose=verbose)

    def get_corpus_lang(self) -> str:
        """Return the ISO 639-1 code of the documents' language."""
        return self.collection.language

    def get_topics(self, variant: str | None = None) -> pd.DataFrame:
        """Return ``qid`` and ``query`` of a split.

        Raises:
            ValueError: There is no such split.
        """
        return self.collection.topics(variant or DEFAULT_SPLIT)

    def get_topics_lang(self) -> str:
        """Return the ISO 639-1 code of the topics' language."""
        return self.collection.language

    def get_qrels(self, variant: str | None = None) -> pd.DataFrame:
        """Return ``qid``, ``docno`` and ``label`` of a split.

        Raises:
            ValueError: There is no such split.
        """
        return self.collection.qrels(variant or DEFAULT_SPLIT)

    def get_results(self, variant: str | None = None) -> pd.DataFrame:
        """Return the given documents to rank for each topic of a split.

        Raises:
            NotImplementedError: The collection gives none.
        """
        if not self.collection.reranking:
            raise NotImplementedError(f"{self!r} gives no candidates to re-rank")
        return self.collection.candidates(variant or DEFAULT_SPLIT)

    def text_loader(self, fields: Sequence[str] | str = ALL, *, verbose: bool | None = None) -> TextLoader:
        """Return the transformer that adds the documents' texts: ``pt.text.get_text(dataset)`` returns it too.

        Args:
            fields: Names of fields, or one name; all that the documents have when ``"*"``.
            verbose: Show a progress bar; in terminals and notebooks when None.

        Raises:
            ValueError: The documents have no such field.
        """
        return self.collection.text_loader(fields, verbose=verbose)

    @property
    def info(self) -> dict[str, Any]:
        """The description for reports: title, language, domain, splits, measures, licence, citation."""
        described = self.collection
        return {
            "title": described.title,
            "language": described.language,
            "domain": described.domain,
            "splits": list(described.splits),
            "measures": [str(measure) for measure in described.measures],
            "licence": described.licence,
            "citation": described.citation,
            "evaluation": described.evaluation,
            "ignore_identical_ids": described.ignore_identical_ids,
        }

    def _describe_component(self, component: str) -> bool | list[str] | None:
        if component in ("topics", "qrels"):
            return list(self.collection.splits)
        if component == "results":
            return self.collection.reranking or None
        return True if component == "corpus" else None

    def __repr__(self) -> str:
        return f"CollectionDataset({self.collection.name!r})"
