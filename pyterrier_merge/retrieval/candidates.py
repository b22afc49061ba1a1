"""The first stage of a re-ranking collection: the given documents of each topic."""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar

import pandas as pd
import pyterrier as pt

from pyterrier_merge.equality import EqualByIdentity
from pyterrier_merge.schematic import labelled

if TYPE_CHECKING:
    from pyterrier_merge.collections.base import TestCollection

NAMED = 3  # unknown qids in an error message


class GivenCandidates(EqualByIdentity, pt.Transformer):
    """Adds ``docno``: a row for each document to rank that the collection gives for a topic of any split."""

    schematic: ClassVar = labelled("GivenCandidates")

    def __init__(self, collection: TestCollection) -> None:
        """Configure the stage; candidates are read at the first topic.

        Args:
            collection: A re-ranking collection, such as JQaRA.

        Raises:
            ValueError: The collection gives no candidates.
        """
        if not collection.reranking:
            raise ValueError(f"{collection.name} gives no candidates to re-rank: search its documents instead")
        self.collection = collection

    @cached_property
    def candidates(self) -> pd.DataFrame:
        """``qid`` and ``docno`` of all splits."""
        frames = [self.collection.candidates(split)[["qid", "docno"]] for split in self.collection.splits]
        return pd.concat(frames).drop_duplicates(ignore_index=True)

    def transform(self, inp: pd.DataFrame) -> pd.DataFrame:
        """Return a row for each query and candidate, with queries in their order.

        Raises:
            ValueError: A query is not one of the collection's topics.
        """
        pt.validate.query_frame(inp, context=self)
        if inp.empty:
            return inp.assign(docno=pd.Series(dtype=str))
        unknown = inp.loc[~inp["qid"].isin(self.candidates["qid"]), "qid"]
        if len(unknown):
            raise ValueError(
                f"{self.collection.name} gives candidates only for its own topics, and {len(unknown)} of {len(inp)} "
                f"queries are not among them: {', '.join(map(repr, unknown[:NAMED]))} ..."
            )
        return inp.merge(self.candidates, on="qid", how="left")

    def __getstate__(self) -> dict[str, Any]:
        """The state for a copy or another process: the collection only; it reads the candidates itself."""
        return {"collection": self.collection}

    def _identity(self) -> tuple[str, str, bool]:
        return self.collection.name, self.collection.fingerprint, self.collection.ignore_identical_ids

    def __repr__(self) -> str:
        return f"GivenCandidates({self.collection!r})"
