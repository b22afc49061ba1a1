"""The parts of an encoder as transformers: queries alone, documents alone, or the scores of both."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

import pandas as pd
from pyterrier_dr.biencoder import BiDocEncoder, BiQueryEncoder, BiScorer

from pyterrier_merge.encoding.encoded_vector import EncodedVector, encoders_of

if TYPE_CHECKING:
    from pyterrier_merge.encoding.encoders import E5Encoder


_HERE = threading.local()  # a call's own count, when other threads encode with the same encoder


def count_truncated(cut: int) -> None:
    """Count texts that were cut in this thread, by whichever encoder."""
    _HERE.truncated = truncated_here() + cut


def truncated_here() -> int:
    """Return how many texts were cut in this thread so far."""
    count: int = getattr(_HERE, "truncated", 0)
    return count


class QueryEncoder(BiQueryEncoder):
    """Adds ``query_vec``, which knows its encoder. Frames carry in their ``attrs`` how many texts were cut."""

    def transform(self, inp: pd.DataFrame) -> pd.DataFrame:
        """Encode ``query``.

        Raises:
            ValueError: A query is no string; the message names its ``qid``.
        """
        _require_strings(inp, "query", "qid")
        before = truncated_here()
        result = _marked(super().transform(inp), "query_vec", self.bi_encoder_model)
        result.attrs["truncated"] = truncated_here() - before
        return result


class DocEncoder(BiDocEncoder):
    """Adds ``doc_vec``, which knows its encoder. Frames carry in their ``attrs`` how many texts were cut."""

    def transform(self, inp: pd.DataFrame) -> pd.DataFrame:
        """Encode the column with the text.

        Raises:
            ValueError: A text is no string; the message names its ``docno``.
        """
        _require_strings(inp, self.text_field, "docno")
        before = truncated_here()
        result = _marked(super().transform(inp), "doc_vec", self.bi_encoder_model)
        result.attrs["truncated"] = truncated_here() - before
        return result


class TextScorer(BiScorer):
    """Scores texts for queries; vectors that are there already are not computed again."""

    def transform(self, inp: pd.DataFrame) -> pd.DataFrame:
        """Set ``score`` and ``rank``, from ``query_vec`` or ``query`` and ``doc_vec`` or the column with the text.

        Raises:
            ValueError: A query or a text is no string, or a vector is another encoder's.
        """
        for column in ("query_vec", "doc_vec"):
            self._require_own(inp, column)
        result: pd.DataFrame = super().transform(inp)
        return result

    def _require_own(self, inp: pd.DataFrame, column: str) -> None:
        known = encoders_of(inp[column]) - {None} if column in inp else set()
        if others := known and known - {self.bi_encoder_model.fingerprint}:
            raise ValueError(
                f"{column!r} is of the encoder {', '.join(sorted(map(str, others)))}, and {self.bi_encoder_model!r} is "
                f"{self.bi_encoder_model.fingerprint}: drop that column before this stage (a retriever does with "
                "drop_query_vec=True), and the text is encoded anew"
            )


def _marked(encoded: pd.DataFrame, column: str, encoder: E5Encoder) -> pd.DataFrame:
    if len(encoded):  # inspection sends no rows, and no model is to be loaded for it
        marked = EncodedVector.of(encoded[column], encoder.fingerprint)
        encoded[column] = pd.Series(marked, encoded.index, dtype=object)
    return encoded


def _require_strings(inp: pd.DataFrame, column: str, key: str) -> None:
    if column not in inp:
        return  # pyterrier_dr says which columns it wants
    found = next((row for row, value in enumerate(inp[column]) if not isinstance(value, str)), None)
    if found is not None:
        row = f"{key} {inp[key].iloc[found]!r}" if key in inp else f"row {found}"
        raise ValueError(f"{column!r} of {row} is {inp[column].iloc[found]!r}, expected a string")
