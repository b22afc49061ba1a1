"""The base class of test collections: a corpus, its topics and qrels by split, and their description for reports."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, fields
from functools import cached_property
from typing import TYPE_CHECKING, Any

import pandas as pd
import pyterrier as pt

from pyterrier_merge.collections.documents import Documents
from pyterrier_merge.collections.identical_ids import TopicWatch, without_identical_ids
from pyterrier_merge.collections.text_loader import ALL, TextLoader
from pyterrier_merge.spelling import did_you_mean

if TYPE_CHECKING:
    from ir_measures.measures import Measure


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class TestCollection(ABC):
    """A test collection. A subclass provides the data, this class checks and formats them.

    Attributes:
        name: Its name for ``get_collection``.
        title: One line that says what is searched, and with what queries.
        language: ISO 639-1 code of documents and topics.
        domain: The field, in one or two words.
        task: The instruction for a retrieval model that follows one (``Instruct: {task}``).
        splits: Names of the splits, as ``topics`` and ``qrels`` take them.
        measures: ``ir_measures`` measures, the official one first.
        licence: Licence of the data, as their owners state it.
        citation: The work to cite.
        default_domain_model: Hub name of a suitable domain language model, if the paper names one.
        download_bytes: Size of the download in bytes; None if there is none, or if the size is unknown.
        judged_pool: The documents are only judged ones, not a whole corpus: figures are higher than on a corpus.
        reranking: Each topic comes with the documents to rank (see ``candidates``).
        evaluation: Notes on how its community evaluates, if that is not obvious.
        ignore_identical_ids: Queries are documents of the collection, under the same id, and a query's own document is
            left out of its results (BEIR's name for this rule).
        labelled: People judged the documents. False if judgements cost nothing: choices or trainings on them count no
            label (see :func:`~pyterrier_merge.collections.pseudo_queries.known_items`).
    """

    __test__ = False  # pytest would otherwise collect a class whose name begins with "Test"

    name: str
    title: str
    language: str
    domain: str
    task: str
    splits: tuple[str, ...]
    measures: tuple[Measure, ...]
    licence: str
    citation: str
    default_domain_model: str | None = None
    download_bytes: int | None = None
    judged_pool: bool = False
    reranking: bool = False
    evaluation: str = ""
    ignore_identical_ids: bool = False
    labelled: bool = True

    def __post_init__(self) -> None:
        if not isinstance(self.ignore_identical_ids, bool):
            raise ValueError(f"ignore_identical_ids is True or False, found {self.ignore_identical_ids!r}")  # noqa: TRY004

    @property
    @abstractmethod
    def num_docs(self) -> int:
        """Number of documents."""

    @property
    @abstractmethod
    def fingerprint(self) -> str:
        """16 hexadecimal digits that change when the documents or their text change; cheap: it reads no corpus."""

    @property
    def origin(self) -> tuple[str, str]:
        """Name and fingerprint of the collection that the documents come from: the whole one, if this is a part."""
        return self.name, self.fingerprint

    def label_names(self, split: str, qids: Iterable[str]) -> frozenset[str]:
        """Return a name for the judgements of each of these queries, as reports count them: ``COLLECTION/SPLIT/QID``.

        Other splits may use the same numbers. Empty if the judgements cost nothing (``labelled``).
        """
        return frozenset(f"{self.name}/{split}/{qid}" for qid in qids if self.labelled)

    def corpus_iter(self, verbose: bool = False) -> Iterator[dict[str, str]]:
        """Iterate over the documents, in the same order each time.

        ``operator.length_hint`` gives the number of remaining documents to progress bars and disk checks; ``list()``
        calls it too. If documents are in files that were never counted, it counts them in a separate pass.

        Args:
            verbose: Show a progress bar.

        Yields:
            A dictionary with ``docno``, ``text`` (beginning with the title, if there is one) and other fields.
        """
        documents: Iterator[dict[str, str]] = Documents(self._documents(), lambda: self.num_docs)
        if verbose:
            documents = pt.tqdm(documents, total=self.num_docs, desc=self.name, unit="doc")
        return documents

    @property
    def missing_bytes(self) -> int | None:
        """Bytes to download at first use; 0 if nothing is missing, None if unknown."""
        return 0

    @property
    def document_fields(self) -> tuple[str, ...]:
        """Names of the fields that documents have besides ``docno``."""
        return tuple(field for field in next(self._documents()) if field != "docno")

    def documents_of(self, docnos: Collection[str]) -> Iterator[dict[str, str]]:
        """Iterate over the documents with these docnos, in any order, as in ``corpus_iter``; unknown ones are skipped.

        They are looked up if the source supports it, else found in one pass, which ends with the last of them.
        """
        left = set(docnos)
        for doc in self._documents() if left else ():
            if doc["docno"] in left:
                left.remove(doc["docno"])
                yield doc
                if not left:
                    return

    def text_loader(self, fields: Sequence[str] | str = ALL, *, verbose: bool | None = None) -> TextLoader:
        """Return the transformer that adds text to results (see :class:`TextLoader`).

        Args:
            fields: Names of fields, or one name; all that the documents have when ``"*"``.
            verbose: Show a progress bar; in terminals and notebooks when None.

        Raises:
            ValueError: The documents have no such field.
        """
        return TextLoader(self, fields, verbose=verbose)

    def topics(self, split: str) -> pd.DataFrame:
        """Return the topics of one split: columns ``qid`` and ``query``, both strings.

        Raises:
            ValueError: There is no such split.
        """
        self._check_split(split)
        return self._topics(split)[["qid", "query"]].astype(str).reset_index(drop=True)

    def qrels(self, split: str) -> pd.DataFrame:
        """Return the judgements of one split: columns ``qid`` and ``docno`` (strings) and ``label`` (an integer).

        Raises:
            ValueError: There is no such split.
        """
        self._check_split(split)
        columns: dict[str, Any] = {"qid": str, "docno": str, "label": int}
        return self._qrels(split)[list(columns)].astype(columns).reset_index(drop=True)

    def candidates(self, split: str) -> pd.DataFrame:
        """Return the given documents to rank for each topic of one split.

        Any transformer that scores query and text can rank them: ``encoder.transform(collection.candidates("test"))``.

        Returns:
            Columns ``qid``, ``query``, ``docno`` and ``text``, all strings; topics in their order.

        Raises:
            ValueError: There is no such split, or the collection gives no candidates.
        """
        self._check_split(split)
        if not self.reranking:
            raise ValueError(
                f"{self.name} gives no candidates to re-rank: its topics search all its documents; "
                "re-rank the results of a first stage, such as bm25(collection)"
            )
        found = self._candidates(split)[["qid", "query", "docno", "text"]].astype(str).reset_index(drop=True)
        return without_identical_ids(found) if self.ignore_identical_ids else found

    @abstractmethod
    def _documents(self) -> Iterator[dict[str, str]]: ...

    @abstractmethod
    def _topics(self, split: str) -> pd.DataFrame: ...

    @abstractmethod
    def _qrels(self, split: str) -> pd.DataFrame: ...

    def _candidates(self, split: str) -> pd.DataFrame:
        raise NotImplementedError(f"{type(self).__name__} has no candidates of {split}")

    def _watched(self, documents: Iterator[dict[str, str]], *splits: str) -> Iterator[dict[str, str]]:
        """The documents; warns after a whole pass if topics of these splits are among them."""
        if self.ignore_identical_ids:
            return documents
        return self._watch.over(documents, lambda: pd.concat(self.topics(split) for split in splits))

    @cached_property
    def _watch(self) -> TopicWatch:
        return TopicWatch(self.name)

    @property
    def description(self) -> dict[str, Any]:
        """The description of this collection, by field, for a collection that is derived from it."""
        return {field.name: getattr(self, field.name) for field in fields(TestCollection)}

    def _check_split(self, split: str) -> None:
        if split not in self.splits:
            raise ValueError(f"{self.name} has no split {split!r}; {did_you_mean(split, self.splits, 'it has')}")

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.name!r}: {self.title}; splits {', '.join(self.splits)}>"


def require_collection(found: Any) -> None:
    """Raise ``TypeError`` if ``found`` is not a collection but, for example, its name."""
    if not isinstance(found, TestCollection):
        raise TypeError(f"expected a test collection, such as get_collection('hpo'), found {found!r}")
