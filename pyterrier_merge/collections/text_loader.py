"""A stage that adds the documents' texts to results, as a re-ranker after ``bm25`` needs."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import pandas as pd
import pyterrier as pt

from pyterrier_merge.equality import EqualByIdentity
from pyterrier_merge.progress import progress
from pyterrier_merge.schematic import labelled

if TYPE_CHECKING:
    from pyterrier_merge.collections.base import TestCollection

ALL = "*"
NAMED = 3  # missing docnos in an error message
_RESULTS = ("qid", "query", "score", "rank")  # columns that a document's field replaces only if requested by name


class TextLoader(EqualByIdentity, pt.Transformer):
    """Adds fields of the documents to rows with ``docno``: ``bm25(collection) >> collection.text_loader() >> encoder``.

    All documents of a frame are read at once: from ir_datasets' document store or from memory if possible, else in one
    pass over the files, which ends with the last needed document. No other documents are held in memory.
    """

    schematic: ClassVar = labelled("TextLoader")

    def __init__(
        self, collection: TestCollection, fields: Sequence[str] | str = ALL, *, verbose: bool | None = None
    ) -> None:
        """Describe the stage; documents are read at the first row.

        Args:
            collection: Gives the documents.
            fields: Names of fields, or one name; all that the documents have when ``"*"``.
            verbose: Show a progress bar over the documents that are read.

        Raises:
            ValueError: The documents have no such field.
        """
        available = collection.document_fields
        if fields == ALL:
            fields = tuple(field for field in available if field not in _RESULTS)
        self.collection = collection
        self.fields = (fields,) if isinstance(fields, str) else tuple(fields)
        self.verbose = verbose
        if unknown := [field for field in self.fields if field not in available]:
            raise ValueError(f"documents of {collection.name} have no {unknown[0]!r}; they have {', '.join(available)}")

    def transform(self, inp: pd.DataFrame) -> pd.DataFrame:
        """Add the fields, replacing columns of the same names; fields that a document lacks are empty strings.

        Raises:
            ValueError: The collection has no document of that name.
        """
        pt.validate.columns(inp, includes=["docno"], context=self)
        found = self._fetch(inp["docno"]) if len(inp) else {}
        rows = [found[docno] for docno in inp["docno"]]
        loaded = {
            field: pd.Series([row[place] for row in rows], inp.index, dtype=object)
            for place, field in enumerate(self.fields)
        }
        return inp.drop(columns=list(self.fields), errors="ignore").assign(**loaded)

    def fuse_rank_cutoff(self, k: int) -> pt.Transformer:
        """Cut first, so that fewer texts are read."""
        return pt.RankCutoff(k) >> self

    def _fetch(self, docnos: Iterable[str]) -> dict[str, tuple[Any, ...]]:
        wanted = dict.fromkeys(docnos)
        documents = self.collection.documents_of(set(wanted))
        shown = progress(documents, total=len(wanted), desc="TextLoader", unit="doc", verbose=self.verbose)
        found = {doc["docno"]: tuple(doc.get(field, "") for field in self.fields) for doc in shown}
        if missing := [docno for docno in wanted if docno not in found]:
            named = ", ".join(map(repr, missing[:NAMED])) + (" ..." if len(missing) > NAMED else "")
            raise ValueError(
                f"{len(missing)} of {len(wanted)} documents are not in {self.collection.name}: {named}; load the texts "
                "from the collection that was searched"
            )
        return found

    def _identity(self) -> tuple[Any, ...]:
        return self.collection.name, self.collection.fingerprint, self.fields

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.collection.name!r}, {list(self.fields)!r})"
