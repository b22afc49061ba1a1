"""The transformer that puts stored vectors into results."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

import numpy as np
import pandas as pd
import pyterrier as pt

from pyterrier_merge.encoding.encoded_vector import EncodedVector
from pyterrier_merge.equality import EqualByIdentity
from pyterrier_merge.schematic import labelled

if TYPE_CHECKING:
    from pyterrier_merge.retrieval.dense.index import FaissIndex


class FaissVecLoader(EqualByIdentity, pt.Transformer):
    """Adds ``doc_vec`` to rows with ``docno``: ``bm25(collection) >> index.vec_loader() >> encoder`` re-ranks.

    A document's vector is read once, however many rows it has, and knows its encoder where the index does.
    """

    schematic: ClassVar = labelled("FaissVecLoader")

    def __init__(self, index: FaissIndex) -> None:
        """Describe the loader; the index is opened at the first frame with a row.

        Args:
            index: Holds the documents' vectors.
        """
        self.index = index

    def transform(self, inp: pd.DataFrame) -> pd.DataFrame:
        """Add ``doc_vec``, ``(dim,)`` float32, in place of a column of that name.

        Raises:
            FileNotFoundError: The index is not built.
            ValueError: A docno that is not in the index.
        """
        pt.validate.columns(inp, includes=["docno"], context=self)
        if inp.empty:
            return inp.assign(doc_vec=pd.Series(dtype=object))
        docids, rows = np.unique(self.index.docids(inp["docno"].tolist()), return_inverse=True)
        stored = np.array(self.index.open().rows(docids))
        vectors = EncodedVector.of(stored, self.index.metadata.get("encoder"))
        return inp.assign(doc_vec=pd.Series([vectors[row] for row in rows], inp.index, dtype=object))

    def fuse_rank_cutoff(self, k: int) -> pt.Transformer:
        """Cut first, so that fewer vectors are read."""
        return pt.RankCutoff(k) >> self

    def _identity(self) -> FaissIndex:
        return self.index

    def __str__(self) -> str:
        return f"{self.index.path.stem}.vec_loader()"

    def __repr__(self) -> str:
        return f"{self.index!r}.vec_loader()"
