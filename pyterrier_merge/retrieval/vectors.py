"""Vectors on disk in pyterrier_dr's FLEX layout: written shard by shard beside their place, opened only when finished.

The folder under construction is at all times a consistent index of its first documents: ``pt_meta.json`` counts only
what is known to be on disk, and whatever a killed job wrote after that is cut off when the next one goes on.
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import IO, Any

import numpy as np
import numpy.typing as npt

from pyterrier_merge.fingerprint import fingerprint, fingerprint_file, fingerprint_texts
from pyterrier_merge.retrieval.docnos import JOURNAL, decode_journal, encode_journal, read_lookup, write_lookup
from pyterrier_merge.storage import finish_folder, restore_folder, write_file
from pyterrier_merge.version import __version__

ARTIFACT_TYPE, ARTIFACT_FORMAT, PACKAGE_HINT = "dense_index", "flex", "pyterrier-dr"
METADATA = "pt_meta.json"
VECTORS = "vecs.f4"
FLOAT_BYTES = 4

FloatArray = npt.NDArray[np.float32]


def read_metadata(folder: Path) -> dict[str, Any] | None:
    """Return ``pt_meta.json`` of a FLEX folder, None where ``folder`` is none.

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
    return metadata if kind == (ARTIFACT_TYPE, ARTIFACT_FORMAT) else None


def part_folder(path: Path) -> Path:
    """Return where the index of ``path`` is built: a hidden folder beside it, the same at every call."""
    return path.parent / f".{path.name}.part"


def stack_vectors(owners: Sequence[str], vectors: Collection[npt.ArrayLike], dim: int) -> FloatArray:
    """Return vectors as ``(n, dim)`` float32.

    Args:
        owners: What each belongs to, in words: "document 'd1'".
        vectors: The vectors.
        dim: Dimensions that each must have.

    Raises:
        ValueError: A vector of another dimension, or one that is not finite.
    """
    for owner, vector in zip(owners, vectors, strict=True):
        if np.shape(vector) != (dim,):
            raise ValueError(
                f"{owner} has a vector of shape {np.shape(vector)}, expected ({dim},): "
                "encode all documents and queries with one encoder"
            )
    block = np.asarray(list(vectors), dtype=np.float32)
    if len(broken := np.flatnonzero(~np.isfinite(block).all(axis=1))):
        raise ValueError(
            f"the vector of {owners[broken[0]]} is not finite (NaN or infinity): "
            "look at its text, and encode in a wider dtype"
        )
    return block


class IndexBusyError(RuntimeError):
    """Another process is building the index."""


@dataclass(frozen=True)
class StoredVectors:
    """A finished FLEX folder; each file is read when it is first asked for."""

    folder: Path
    metadata: dict[str, Any]

    @property
    def shape(self) -> tuple[int, int]:
        """Number of documents, and of dimensions."""
        return self.metadata["doc_count"], self.metadata["vec_size"]

    @cached_property
    def matrix(self) -> FloatArray:
        """``(n_docs, dim)`` float32, mapped from disk.

        Raises:
            RuntimeError: The file is not as long as the metadata says.
        """
        file, (rows, columns) = self.folder / VECTORS, self.shape
        if (found := file.stat().st_size) != rows * columns * FLOAT_BYTES:
            raise RuntimeError(
                f"{file} is damaged: {rows} vectors of {columns} floats take {rows * columns * FLOAT_BYTES} bytes, "
                f"found {found}; build the index again with indexer(mode='overwrite')"
            )
        return np.memmap(file, dtype=np.float32, mode="r", shape=self.shape)

    @cached_property
    def docnos(self) -> npt.NDArray[np.object_]:
        """``(n_docs,)`` names, in the order of the vectors."""
        return np.array(read_lookup(self.folder), dtype=object)

    @cached_property
    def docno_order(self) -> npt.NDArray[np.int64]:
        """``(n_docs,)``: the place of each document when all are sorted by docno; what ties are broken by."""
        order = np.empty(len(self.docnos), dtype=np.int64)
        order[np.argsort(self.docnos, kind="stable")] = np.arange(len(order))
        return order

    @cached_property
    def largest_norm(self) -> float:
        """Euclidean norm of the longest vector."""
        return float(np.sqrt(np.einsum("nd,nd->n", self.matrix, self.matrix).max()))


class VectorBuild:
    """The folder under construction; a context manager, since only one process may hold it.

    Attributes:
        prints: Docno -> fingerprint of what its vector was made of, for the documents that are safe on disk, in order.
        part: The folder.
    """

    def __init__(self, path: Path, *, encoder: str | None) -> None:
        """Open the unfinished index of ``path``, or begin one; what a killed job left about a finished one is mended.

        Args:
            path: Where the finished index will stand.
            encoder: Identity of the encoder, where it is known.

        Raises:
            ValueError: The unfinished index is another encoder's.
            IndexBusyError: Another process is building it.
            RuntimeError: It is damaged.
        """
        self.path, self.part = path, part_folder(path)
        self.part.mkdir(parents=True, exist_ok=True)
        self._vectors: IO[bytes] = (self.part / VECTORS).open("ab")
        self._names: IO[bytes] = (self.part / JOURNAL).open("ab")
        try:
            self._lock()
            restore_folder(path)
            if read_metadata(path) is not None:
                (path / JOURNAL).unlink(missing_ok=True)
            self.prints = self._recover(encoder)
        except BaseException:
            self._close()
            raise

    def append(self, prints: Mapping[str, str], vectors: Sequence[npt.ArrayLike]) -> None:
        """Write one shard; when this returns, it is safe on disk.

        Raises:
            ValueError: A vector of another dimension than the first, or one that is not finite.
        """
        owners = [f"document {docno!r}" for docno in prints]
        if self._metadata["vec_size"] is None:
            self._metadata["vec_size"] = _dimension(owners[0], vectors[0])
        block = stack_vectors(owners, vectors, self._metadata["vec_size"])
        for file, content in ((self._vectors, block.tobytes()), (self._names, encode_journal(prints))):
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        self.prints.update(prints)
        self._write_metadata(doc_count=len(self.prints))

    def finish(self, *, overwrite: bool) -> None:
        """Complete the folder and move it to its place.

        Raises:
            ValueError: There is no document.
            FileExistsError: The place was taken meanwhile, and ``overwrite`` is false.
        """
        if not self.prints:
            raise ValueError(f"no document came: there is nothing to index at {self.path}")
        write_lookup(self.part, self.prints)
        for torn in self.part.glob(".*.part"):  # a job killed in write_file() leaves one
            torn.unlink()
        content = fingerprint_file(self.part / VECTORS), fingerprint_texts(self.prints)
        size = (self.part / VECTORS).stat().st_size
        self._write_metadata(bytes=size, fingerprint=fingerprint([self._metadata["vec_size"], *content]))
        finish_folder(self.part, self.path, overwrite=overwrite)
        (self.path / JOURNAL).unlink()  # not before: a job killed here above still needs it

    def _lock(self) -> None:
        try:
            fcntl.flock(self._vectors, fcntl.LOCK_EX | fcntl.LOCK_NB)  # the kernel lets go when the process dies
            # else the process that held it has finished between open() and here, and the file lies in its index
            held = os.path.samestat(os.fstat(self._vectors.fileno()), (self.part / VECTORS).stat())
        except (BlockingIOError, FileNotFoundError):
            held = False
        if not held:
            raise IndexBusyError(f"another process is building {self.path}: wait for it or choose another path")

    def _recover(self, encoder: str | None) -> dict[str, str]:
        self._metadata = read_metadata(self.part) or {
            "type": ARTIFACT_TYPE,
            "format": ARTIFACT_FORMAT,
            "package_hint": PACKAGE_HINT,
            "doc_count": 0,
            "vec_size": None,
            "vec_dtype": "float32",
            "encoder": encoder,
            "version": __version__,
        }
        if (recorded := self._metadata["encoder"]) != encoder:
            raise ValueError(
                f"{self.part} holds documents encoded with {recorded or 'an unknown encoder'}, and this one is "
                f"{encoder or 'unknown'}: go on with the same encoder, or delete that folder to start afresh"
            )
        count, dim = self._metadata["doc_count"], self._metadata["vec_size"] or 0
        lines = b"".join((self.part / JOURNAL).read_bytes().splitlines(keepends=True)[:count])
        size = count * dim * FLOAT_BYTES
        if lines.count(b"\n") != count or (self.part / VECTORS).stat().st_size < size:
            raise RuntimeError(f"{self.part} is damaged: some of its {count} documents are missing; delete it")
        self._vectors.truncate(size)
        self._names.truncate(len(lines))
        return decode_journal(lines)

    def _write_metadata(self, **changes: Any) -> None:
        self._metadata.update(changes)
        write_file(self.part / METADATA, json.dumps(self._metadata, indent=1))

    def _close(self) -> None:
        self._vectors.close()
        self._names.close()

    def __enter__(self) -> VectorBuild:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if not self.prints:
            shutil.rmtree(self.part, ignore_errors=True)  # before the lock goes: nothing here is worth resuming
        self._close()


def _dimension(owner: str, vector: npt.ArrayLike) -> int:
    if np.ndim(vector) != 1 or not np.size(vector):
        raise ValueError(f"{owner} has a vector of shape {np.shape(vector)}, expected one dimension")
    return int(np.size(vector))
