"""Vectors from an encoder, with the number of texts that were cut; each vector knows its encoder."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

import numpy as np

TRUNCATED = "truncated"  # in a frame's attrs: how many of its texts were cut


class Encoded(NamedTuple):
    """The vectors of texts.

    Attributes:
        vectors: ``(n_texts, dim)`` float32, in the order of the texts.
        truncated: How many of the texts were too long and cut.
    """

    vectors: np.ndarray
    truncated: int


class EncodedVector(np.ndarray):
    """A vector, ``(dim,)`` float32, with the fingerprint of its encoder.

    An index compares it with its own. The fingerprint stays with a vector in frames that were joined or cut, in lists
    of dictionaries, and from another process. Results computed from a vector have no fingerprint.

    Attributes:
        encoder: The fingerprint; None if unknown.
    """

    encoder: str | None = None

    @staticmethod
    def of(vectors: Iterable[np.ndarray], encoder: str | None) -> list[EncodedVector]:
        """Return the vectors with their encoder's fingerprint, without a copy."""
        return [_marked(vector, encoder) for vector in vectors]

    def __array_wrap__(self, array: np.ndarray, context: Any = None, return_scalar: bool = False) -> Any:
        """Makes NumPy functions return a plain array or a number."""
        return array[()] if return_scalar else array

    def __reduce__(self) -> tuple[Any, ...]:
        """Keeps the fingerprint in another process."""
        return _marked, (np.asarray(self), self.encoder)


def encoders_of(vectors: Iterable[Any]) -> set[str | None]:
    """Return the fingerprints of the encoders of vectors; None is among them if a vector has none."""
    return {getattr(vector, "encoder", None) for vector in vectors}


def _marked(vector: np.ndarray, encoder: str | None) -> EncodedVector:
    marked = vector.view(EncodedVector)
    marked.encoder = encoder
    return marked
