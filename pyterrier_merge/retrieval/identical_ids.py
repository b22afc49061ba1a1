"""A stage that removes a query's own document from its results."""

from __future__ import annotations

from typing import ClassVar

import pandas as pd
import pyterrier as pt

from pyterrier_merge.collections.identical_ids import without_identical_ids
from pyterrier_merge.equality import EqualByIdentity
from pyterrier_merge.schematic import labelled


class WithoutIdenticalIds(EqualByIdentity, pt.Transformer):
    """Drops results whose docno equals the qid and keeps the first ``num_results`` of the others.

    ``dense_retriever`` has this stage if ``collection.ignore_identical_ids`` is true. In your own pipeline, put it
    after a retriever with one more result: ``encoder >> index.retriever(101) >> WithoutIdenticalIds(100)``.
    """

    schematic: ClassVar = labelled("WithoutIdenticalIds")

    def __init__(self, num_results: int = 1000) -> None:
        """Configure the stage.

        Args:
            num_results: Results for each query, at least 1.

        Raises:
            ValueError: ``num_results`` is below 1.
        """
        if num_results < 1:
            raise ValueError(f"num_results is at least 1, found {num_results!r}")
        self.num_results = num_results

    def transform(self, inp: pd.DataFrame) -> pd.DataFrame:
        """Return the remaining rows, in their order, with ranks from 0 without a gap."""
        pt.validate.result_frame(inp, extra_columns=["rank"], context=self)
        return without_identical_ids(inp, self.num_results)

    def fuse_rank_cutoff(self, k: int) -> pt.Transformer | None:
        """Return this stage for ``k`` results after a cutoff at ``k + 1``, which the retriever can include."""
        if k < 1:
            return None
        if k >= self.num_results:
            return self
        return pt.RankCutoff(k + 1) >> WithoutIdenticalIds(k)

    def _identity(self) -> int:
        return self.num_results

    def __repr__(self) -> str:
        return f"WithoutIdenticalIds({self.num_results})"
