"""Vectors on disk: pyterrier_dr's FLEX layout in float32, and the same layout in float16."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from pyterrier_merge.retrieval.dense.docnos import read_lookup

ARTIFACT_TYPE = "dense_index"
METADATA = "pt_meta.json"
LONGEST = 1e19  # no inner product of two such vectors, nor a part of one, overflows (Cauchy and Schwarz)
BLOCK_BYTES = 1 << 26  # of float32 that are made from the stored vectors at once

FloatArray = npt.NDArray[np.float32]
IntArray = npt.NDArray[np.int64]


@dataclass(frozen=True)
class VectorFormat:
    """How vectors lie on disk.

    Attributes:
        dtype: What ``vec_dtype`` in the metadata says.
        file: Name of the file with the vectors, row by row.
        name: PyTerrier's name of the format; float16 has one of its own, for pyterrier_dr would read it as float32.
        package_hint: What to install to open it.
    """

    dtype: str
    file: str
    name: str
    package_hint: str

    @property
    def itemsize(self) -> int:
        """Bytes of a number."""
        return np.dtype(self.dtype).itemsize


FORMATS = {
    "float32": VectorFormat("float32", "vecs.f4", "flex", "pyterrier-dr"),
    "float16": VectorFormat("float16", "vecs.f2", "flex_float16", "pyterrier-merge"),
}


def read_metadata(folder: Path) -> dict[str, Any] | None:
    """Return ``pt_meta.json`` of an index's folder, None if ``folder`` is not an index.

    Raises:
        ValueError: The file is damaged.
    """
    file = folder / METADATA
    if not file.is_file():
        return None
    try:
        metadata = json.loads(file.read_text(encoding="utf-8"))
        kind = metadata.get("type"), metadata.get("format")
    except (ValueError, AttributeError) as error:
        raise ValueError(f"{file} is damaged ({error}): delete {folder} and build the index again") from error
    return metadata if kind in {(ARTIFACT_TYPE, known.name) for known in FORMATS.values()} else None


def as_vector(owner: str, vector: npt.ArrayLike) -> FloatArray:
    """Return a vector, of any library that NumPy reads, as float32; one that knows its encoder stays what it is.

    Args:
        owner: What it belongs to, for messages: "document 'd1'".
        vector: The vector.

    Raises:
        ValueError: It does not consist of numbers.
    """
    try:
        return np.asanyarray(vector, dtype=np.float32)
    except (TypeError, ValueError, RuntimeError) as error:  # the last is torch's
        raise ValueError(f"{owner} has a vector that NumPy cannot read as numbers: {error}") from error


def stack_vectors(owners: Sequence[str], vectors: Collection[npt.ArrayLike], dim: int) -> FloatArray:
    """Return vectors as ``(n, dim)`` float32.

    Args:
        owners: What each belongs to, for messages: "document 'd1'".
        vectors: The vectors.
        dim: Dimensions that each must have.

    Raises:
        ValueError: A vector of another dimension, one that is not finite, one so long that an inner product with
            another might not be finite, or one that does not consist of numbers.
    """
    read = [as_vector(owner, vector) for owner, vector in zip(owners, vectors, strict=True)]
    for owner, vector in zip(owners, read, strict=True):
        if vector.shape != (dim,):
            raise ValueError(
                f"{owner} has a vector of shape {vector.shape}, expected ({dim},): "
                "encode all documents and queries with one encoder"
            )
    block = np.asarray(read)
    if len(broken := np.flatnonzero(~np.isfinite(block).all(axis=1))):
        raise ValueError(
            f"the vector of {owners[broken[0]]} is not finite (NaN or infinity): "
            "look at its text, and encode in a wider dtype"
        )
    if len(long := np.flatnonzero(norms(block) > LONGEST)):
        raise ValueError(
            f"the vector of {owners[long[0]]} is longer than {LONGEST:g}, beyond which inner products overflow in "
            "float32: normalise the vectors"
        )
    return block


def norms(block: FloatArray) -> npt.NDArray[np.float64]:
    """Return the Euclidean norm of each row, in float64: squares of float32 numbers are beyond the range of float32."""
    norm: npt.NDArray[np.float64] = np.sqrt(np.einsum("nd,nd->n", block, block, dtype=np.float64))
    return norm


@dataclass(frozen=True)
class StoredVectors:
    """A finished index; each file is read when it is first asked for.

    Attributes:
        folder: Where it lies.
        metadata: What ``pt_meta.json`` says.
        held: What searching keeps in memory, such as FAISS structures; dropped when the index is overwritten.
    """

    folder: Path
    metadata: dict[str, Any]
    held: dict[Any, Any] = field(default_factory=dict, repr=False, compare=False)

    @property
    def shape(self) -> tuple[int, int]:
        """Number of documents, and of dimensions."""
        return self.metadata["doc_count"], self.metadata["vec_size"]

    @property
    def format(self) -> VectorFormat:
        """How the vectors are stored."""
        return next(known for known in FORMATS.values() if known.name == self.metadata["format"])

    @property
    def identity(self) -> str:
        """What changes when the vectors do: the fingerprint, or size and time of a file that pyterrier_dr wrote."""
        status = self.file.stat()
        return self.metadata.get("fingerprint") or f"{status.st_size}-{status.st_mtime_ns}"

    @property
    def file(self) -> Path:
        """The file with the vectors."""
        return self.folder / self.format.file

    @cached_property
    def matrix(self) -> npt.NDArray[np.float32 | np.float16]:
        """``(n_docs, dim)`` as stored, mapped from disk.

        Raises:
            RuntimeError: The file is not as long as the metadata says.
        """
        (rows, columns), itemsize = self.shape, self.format.itemsize
        if (found := self.file.stat().st_size) != rows * columns * itemsize:
            raise RuntimeError(
                f"{self.file} is damaged: {rows} vectors of {columns} {self.format.dtype} numbers take "
                f"{rows * columns * itemsize} bytes, found {found}: delete {self.folder} and build "
                "the index again"
            )
        # copy on write: nothing writes, but torch takes no array that cannot be written to
        return np.memmap(self.file, dtype=self.format.dtype, mode="c", shape=self.shape)

    def rows(self, docids: slice | IntArray) -> FloatArray:
        """Return some vectors as float32; a slice of float32 vectors is not copied."""
        return np.asarray(self.matrix[docids], dtype=np.float32)

    def blocks(self) -> Iterator[slice]:
        """Yield slices that together are all documents, none larger than ``BLOCK_BYTES`` in float32."""
        n_docs, dim = self.shape
        size = max(1, BLOCK_BYTES // (dim * 4))
        for start in range(0, n_docs, size):
            yield slice(start, min(start + size, n_docs))

    def part(self, rows: range) -> StoredVectors:
        """Return some of the documents as an index of their own, in which places count from the first of them."""
        part = replace(self, metadata={**self.metadata, "doc_count": len(rows)}, held={})
        some = slice(rows.start, rows.stop)
        part.__dict__.update(matrix=self.matrix[some], names=self.names[some])
        return part

    @cached_property
    def names(self) -> npt.NDArray[np.bytes_]:
        """``(n_docs,)`` docnos in UTF-8, in the order of the vectors; objects where a few are much longer."""
        return read_lookup(self.folder)

    def docnos(self, docids: IntArray) -> list[str]:
        """Return the docnos of documents."""
        return [name.decode() for name in self.names[docids].tolist()]

    def docids(self, docnos: Sequence[str]) -> IntArray:
        """Return the places of documents, -1 for what is not there, or is not a string."""
        encoded = [docno.encode("utf-8", "surrogatepass") if isinstance(docno, str) else b"" for docno in docnos]
        wanted = np.array(encoded, dtype=self.names.dtype.type)
        places = np.searchsorted(self.names, wanted, sorter=self._by_name)
        docids = self._by_name[np.minimum(places, len(self._by_name) - 1)]
        docids[self.names[docids] != wanted] = -1
        return docids

    @cached_property
    def _by_name(self) -> IntArray:
        return np.argsort(self.names, kind="stable")

    @cached_property
    def largest_norm(self) -> float:
        """Euclidean norm of the longest vector."""
        recorded = self.metadata.get("largest_norm")
        return recorded or max(float(norms(self.rows(block)).max()) for block in self.blocks())
