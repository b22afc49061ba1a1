"""The parts of an encoder as transformers: queries alone, documents alone, or the scores of both."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, ClassVar

import numpy as np
import pandas as pd
import pyterrier as pt
from pyterrier_dr.biencoder import BiDocEncoder, BiQueryEncoder, BiScorer

from pyterrier_merge.encoding.encoded_vector import TRUNCATED, Encoded, EncodedVector, encoders_of
from pyterrier_merge.progress import progress
from pyterrier_merge.schematic import labelled


class QueryEncoder(BiQueryEncoder):
    """Adds ``query_vec``, which knows its encoder. Frames carry in their ``attrs`` how many texts were cut."""

    schematic: ClassVar = labelled()

    def __str__(self) -> str:
        return f"{self.bi_encoder_model}.query_encoder()"

    def transform(self, inp: pd.DataFrame) -> pd.DataFrame:
        """Encode ``query``.

        Raises:
            ValueError: A query is not a string; the message names its ``qid``.
        """
        with pt.validate.any(inp) as v:
            v.query_frame(extra_columns=["query"])
            v.columns(includes=["query"])
        _require_strings(inp, "query", "qid")
        queries, places = np.unique(inp["query"].to_numpy(dtype=object), return_inverse=True)
        shown = progress(queries, desc="Encoding Queries", unit="query", verbose=self.verbose)
        found = self.bi_encoder_model.encode(shown, kind="query", batch_size=self.batch_size)
        return _with_vectors(inp, "query_vec", Encoded(found.vectors[places], found.truncated), self.bi_encoder_model)


class DocEncoder(BiDocEncoder):
    """Adds ``doc_vec``, which knows its encoder. Frames carry in their ``attrs`` how many texts were cut."""

    schematic: ClassVar = labelled()

    def __str__(self) -> str:
        return f"{self.bi_encoder_model}.doc_encoder()"

    def transform(self, inp: pd.DataFrame) -> pd.DataFrame:
        """Encode the column with the text.

        Raises:
            ValueError: A text is not a string; the message names its ``docno``.
        """
        with pt.validate.any(inp) as v:
            v.document_frame(extra_columns=[self.text_field])
            v.columns(includes=[self.text_field])
        _require_strings(inp, self.text_field, "docno")
        texts: Any = inp[self.text_field]
        return _with_vectors(inp, "doc_vec", self.encode_texts(texts), self.bi_encoder_model)

    def encode_texts(self, texts: Iterable[str]) -> Encoded:
        """Encode texts that are in no frame."""
        shown = progress(texts, desc="Encoding Docs", unit="doc", verbose=self.verbose)
        found: Encoded = self.bi_encoder_model.encode(shown, kind="document", batch_size=self.batch_size)
        return found


class TextScorer(BiScorer):
    """Scores texts for queries; existing vectors are not computed again."""

    schematic: ClassVar = labelled()

    def __str__(self) -> str:
        return f"{self.bi_encoder_model}.text_scorer()"

    def transform(self, inp: pd.DataFrame) -> pd.DataFrame:
        """Set ``score`` and ``rank``, from ``query_vec`` or ``query`` and ``doc_vec`` or the column with the text.

        Raises:
            ValueError: A query or a text is not a string, or a vector comes from another encoder.
        """
        for column in ("query_vec", "doc_vec"):
            self._require_own(inp, column)
        model, options = self.bi_encoder_model, {"verbose": self.verbose, "batch_size": self.batch_size}
        sides = ("query_vec", "query", model.query_encoder), ("doc_vec", self.text_field, model.doc_encoder)
        frames = {column: side(**options)(inp) for column, text, side in sides if column not in inp and text in inp}
        vectors = {column: frame[column] for column, frame in frames.items()}
        result: pd.DataFrame = super().transform(inp.assign(**vectors)).drop(columns=list(vectors))
        result.attrs[TRUNCATED] = sum(frame.attrs[TRUNCATED] for frame in frames.values())
        return result

    def _require_own(self, inp: pd.DataFrame, column: str) -> None:
        known = encoders_of(inp[column]) - {None} if column in inp else set()
        if others := known and known - {self.bi_encoder_model.fingerprint}:
            raise ValueError(
                f"{column!r} is of the encoder {', '.join(sorted(map(str, others)))}, and {self.bi_encoder_model!r} is "
                f"{self.bi_encoder_model.fingerprint}: drop that column before this stage (a retriever does with "
                "drop_query_vec=True), and the text is encoded again"
            )


def _with_vectors(inp: pd.DataFrame, column: str, encoded: Encoded, encoder: Any) -> pd.DataFrame:
    # inspection sends no rows and must not load a model
    marked = EncodedVector.of(encoded.vectors, encoder.fingerprint) if len(inp) else []
    result: pd.DataFrame = inp.assign(**{column: pd.Series(marked, inp.index, dtype=object)})
    result.attrs[TRUNCATED] = encoded.truncated
    return result


def _require_strings(inp: pd.DataFrame, column: str, key: str) -> None:
    if column not in inp:
        return  # pyterrier_dr says which columns it wants
    found = next((row for row, value in enumerate(inp[column]) if not isinstance(value, str)), None)
    if found is not None:
        row = f"{key} {inp[key].iloc[found]!r}" if key in inp else f"row {found}"
        raise ValueError(f"{column!r} of {row} is {inp[column].iloc[found]!r}, expected a string")
