"""One half of an encoder as a transformer: queries alone, or documents alone."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

from pyterrier_dr.biencoder import BiDocEncoder, BiQueryEncoder

if TYPE_CHECKING:
    import pandas as pd


_HERE = threading.local()  # a call's own count, when other threads encode with the same encoder


def count_truncated(cut: int) -> None:
    """Count texts that were cut in this thread, by whichever encoder."""
    _HERE.truncated = truncated_here() + cut


def truncated_here() -> int:
    """Return how many texts were cut in this thread so far."""
    count: int = getattr(_HERE, "truncated", 0)
    return count


class QueryEncoder(BiQueryEncoder):
    """Adds ``query_vec``. Frames carry the encoder's fingerprint in their ``attrs``, which an index compares."""

    def transform(self, inp: pd.DataFrame) -> pd.DataFrame:
        """Encode ``query``.

        Raises:
            ValueError: A query is no string; the message names its ``qid``.
        """
        _require_strings(inp, "query", "qid")
        before = truncated_here()
        result: pd.DataFrame = super().transform(inp)
        if len(result):
            result.attrs["truncated"] = truncated_here() - before
            result.attrs["query_encoder"] = self.bi_encoder_model.fingerprint
        return result


class DocEncoder(BiDocEncoder):
    """Adds ``doc_vec``. Frames carry in their ``attrs`` how many of their texts were cut (``truncated``)."""

    def transform(self, inp: pd.DataFrame) -> pd.DataFrame:
        """Encode the column with the text.

        Raises:
            ValueError: A text is no string; the message names its ``docno``.
        """
        _require_strings(inp, self.text_field, "docno")
        before = truncated_here()
        result: pd.DataFrame = super().transform(inp)
        result.attrs["truncated"] = truncated_here() - before
        return result


def _require_strings(inp: pd.DataFrame, column: str, key: str) -> None:
    if column not in inp:
        return  # pyterrier_dr says which columns it wants
    found = next((row for row, value in enumerate(inp[column]) if not isinstance(value, str)), None)
    if found is not None:
        row = f"{key} {inp[key].iloc[found]!r}" if key in inp else f"row {found}"
        raise ValueError(f"{column!r} of {row} is {inp[column].iloc[found]!r}, expected a string")
