"""Writes vectors shard by shard into a hidden folder, which becomes the index when it is complete.

The folder under construction is at all times a consistent index of its first documents: ``pt_meta.json`` counts only
what is known to be on disk; what a killed job wrote after that is cut off when the next one resumes. Of the
documents that are written, memory holds the docnos alone, to refuse one that comes twice.
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import IO, Any

import numpy as np
import numpy.typing as npt
from more_itertools import chunked

from pyterrier_merge.encoding.encoded_vector import encoders_of
from pyterrier_merge.fingerprint import fingerprint, fingerprint_file, fingerprint_texts
from pyterrier_merge.retrieval.dense.docnos import (
    JOURNAL,
    encode_journal,
    journal_entries,
    longest_names,
    lookup_width,
    write_lookup,
)
from pyterrier_merge.retrieval.dense.vectors import (
    ARTIFACT_TYPE,
    FORMATS,
    METADATA,
    as_vector,
    norms,
    read_metadata,
    stack_vectors,
)
from pyterrier_merge.storage import finish_folder, require_room, restore_folder, write_file
from pyterrier_merge.version import __version__

SHARDS = "shards"  # in the folder under construction: what other processes have encoded
RECOVERED = 1 << 16  # docnos of the journal that are held at once
JOURNAL_BYTES, INVERSE_BYTES = 64, 12  # a document's line, about, and its share of the way back from docnos


def part_folder(path: Path) -> Path:
    """Return where the index of ``path`` is built: a hidden folder next to it, always the same."""
    path = path.resolve()
    return path.parent / f".{path.name}.part"


class IndexBusyError(RuntimeError):
    """Another process is building the index."""


class VectorBuild:
    """The folder under construction; a context manager, since only one process may hold it.

    Attributes:
        part: The folder.
        docnos: Of the documents that are safe on disk.
    """

    def __init__(
        self, path: Path, *, encoder: str | None, encoder_name: str | None = None, dtype: str = "float32"
    ) -> None:
        """Open the unfinished index of ``path``, or begin one; a finished one that was moved aside is put back.

        Args:
            path: Where the finished index will stand.
            encoder: Identity of the encoder; None where the vectors have to tell (see
                :class:`~pyterrier_merge.encoding.encoded_vector.EncodedVector`).
            encoder_name: What it is called, for messages.
            dtype: What vectors are stored in, a key of ``FORMATS``.

        Raises:
            ValueError: The unfinished index is another encoder's, or is stored in another dtype.
            IndexBusyError: Another process is building it.
            RuntimeError: It is damaged.
        """
        self.path, self.part = path.resolve(), part_folder(path)
        self._format = FORMATS[dtype]
        self._told = encoder is not None
        self.docnos: set[str] = set()
        self._lengths: list[int] = []  # of the longest docnos
        self.part.mkdir(parents=True, exist_ok=True)
        self._files = ExitStack()
        try:
            self._names: IO[bytes] = self._files.enter_context((self.part / JOURNAL).open("ab"))
        except FileNotFoundError as error:  # another process has finished since, and its folder is gone
            raise self._busy() from error
        try:
            self._lock()
            restore_folder(self.path)
            if read_metadata(path) is not None:
                (path / JOURNAL).unlink(missing_ok=True)
            self._metadata = self._begun(encoder, encoder_name)
            self._vectors: IO[bytes] = self._files.enter_context((self.part / self._format.file).open("ab"))
            self._recover()
        except BaseException:
            self._files.close()
            raise

    @property
    def count(self) -> int:
        """Documents that are safe on disk."""
        return len(self.docnos)

    def entries(self) -> Iterator[tuple[str, str]]:
        """Yield docno and fingerprint of what each vector was made of, for what is safe on disk, in order."""
        return journal_entries(self.part, self.count)

    @property
    def encoder(self) -> str | None:
        """The encoder of the vectors, as far as it is known."""
        return self._metadata["encoder"]

    @property
    def truncated(self) -> int:
        """How many of them were too long for the encoder, and cut."""
        return self._metadata["truncated"]

    def require_room(self, coming: int, *, dim: int | None = None) -> None:
        """Refuse to go on where the disk lacks room; nothing is known of it before there is a vector.

        Args:
            coming: Documents that are still to come, as far as is known.
            dim: Dimensions of a vector; those of the finished shards by default.

        Raises:
            OSError: The disk has no room for as many.
        """
        dim = dim or self._metadata["vec_size"]
        if dim is None:
            return
        total = self.count + coming
        width = lookup_width(self._lengths or [0], total)
        needed = coming * (dim * self._format.itemsize + JOURNAL_BYTES) + total * (width + INVERSE_BYTES)
        what = f"{coming:,} more vectors of {dim} {self._format.dtype} numbers"
        mend = f"choose another path; {self.count:,} documents are kept, and the same call goes on after them"
        require_room(self.path, needed, what, mend=mend)

    def append(self, prints: Mapping[str, str], vectors: Sequence[npt.ArrayLike], *, truncated: int = 0) -> None:
        """Write one shard (docno -> fingerprint, and vectors); when this returns, it is safe on disk.

        Args:
            prints: Docno -> fingerprint of what its vector was made of.
            vectors: In the same order.
            truncated: How many of these documents the encoder has cut.

        Raises:
            ValueError: A vector of another dimension or another encoder than the first, one that is not finite or no
                numbers, or one that the stored dtype cannot hold.
        """
        owners = [f"document {docno!r}" for docno in prints]
        self._learn_encoder(vectors)
        if self._metadata["vec_size"] is None:
            self._metadata["vec_size"] = _dimension(owners[0], vectors[0])
        block = stack_vectors(owners, vectors, self._metadata["vec_size"])
        limit = float(np.finfo(self._format.dtype).max)
        if len(beyond := np.flatnonzero((np.abs(block) > limit).any(axis=1))):
            raise ValueError(
                f"the vector of {owners[beyond[0]]} has numbers beyond {limit:g}, the largest of {self._format.dtype}: "
                "normalise the vectors, or store them in float32"
            )
        stored = block.astype(self._format.dtype)
        for file, content in ((self._vectors, stored.tobytes()), (self._names, encode_journal(prints))):
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        self._remember(list(prints))
        longest = max(self._metadata["largest_norm"], float(norms(stored.astype(np.float32)).max()))
        self._write_metadata(doc_count=self.count, largest_norm=longest, truncated=self.truncated + truncated)

    def shard_folder(self) -> Path:
        """Return the folder, made if missing, where other processes leave shards; they are kept if the build fails."""
        folder = self.part / SHARDS
        folder.mkdir(exist_ok=True)
        return folder

    def finish(self, *, overwrite: bool) -> None:
        """Complete the folder and move it to its place.

        Raises:
            ValueError: There is no document.
            FileExistsError: Something else was put at the path during the build, and ``overwrite`` is false.
        """
        if not self.count:
            raise ValueError(f"no document came: there is nothing to index at {self.path}")
        width = lookup_width(self._lengths, self.count)
        write_lookup(self.part, (docno for docno, _ in self.entries()), count=self.count, width=width)
        for torn in self.part.glob(".*.part"):  # a job killed in write_file() leaves one
            torn.unlink()
        shutil.rmtree(self.part / SHARDS, ignore_errors=True)
        file = self.part / self._format.file
        content = fingerprint_file(file), fingerprint_texts(docno for docno, _ in self.entries())
        self._write_metadata(bytes=file.stat().st_size, fingerprint=fingerprint([self._metadata["vec_size"], *content]))
        finish_folder(self.part, self.path, overwrite=overwrite)
        # not earlier: a job killed above still needs it; another process may have deleted it by now
        (self.path / JOURNAL).unlink(missing_ok=True)

    def _lock(self) -> None:
        try:
            fcntl.flock(self._names, fcntl.LOCK_EX | fcntl.LOCK_NB)  # released when the process dies
            # else the process that held it has finished between open() and here, and the file lies in its index
            held = os.path.samestat(os.fstat(self._names.fileno()), (self.part / JOURNAL).stat())
        except (BlockingIOError, FileNotFoundError):
            held = False
        if not held:
            raise self._busy()

    def _busy(self) -> IndexBusyError:
        return IndexBusyError(f"another process is building {self.path}: wait for it or choose another path")

    def _begun(self, encoder: str | None, encoder_name: str | None) -> dict[str, Any]:
        metadata = read_metadata(self.part) or {
            "type": ARTIFACT_TYPE,
            "format": self._format.name,
            "package_hint": self._format.package_hint,
            "doc_count": 0,
            "vec_size": None,
            "vec_dtype": self._format.dtype,
            "largest_norm": 0.0,
            "truncated": 0,
            "encoder": encoder,
            "encoder_name": encoder_name,
            "version": __version__,
        }
        for key, what, found in (("encoder", "encoded with", encoder), ("vec_dtype", "stored in", self._format.dtype)):
            if (recorded := metadata[key]) != found and (self._told or key != "encoder"):
                raise ValueError(
                    f"{self.part} holds documents {what} {recorded or 'an unknown encoder'}, and this one is "
                    f"{found or 'unknown'}: go on with the same {key}, or delete that folder to start from scratch"
                )
        return metadata

    def _learn_encoder(self, vectors: Sequence[npt.ArrayLike]) -> None:
        """Take the encoder from the first vectors, where it was not told, and refuse later ones of another."""
        if self._told:
            return
        known = encoders_of(vectors) | ({self.encoder} if self.count else set())
        if len(known) > 1:
            names = ", ".join(sorted(encoder or "an unknown one" for encoder in known))
            raise ValueError(
                f"the vectors are of several encoders ({names}): encode all documents with one, or delete {self.part} "
                "to start from scratch"
            )
        [self._metadata["encoder"]] = known

    def _recover(self) -> None:
        count, dim = self._metadata["doc_count"], self._metadata["vec_size"] or 0
        try:
            for entries in chunked(journal_entries(self.part, count), RECOVERED):
                self._remember([docno for docno, _ in entries])
        except ValueError as error:
            raise RuntimeError(f"{self.part / JOURNAL} is damaged ({error}): delete {self.part}") from error
        size = count * dim * self._format.itemsize
        if self.count != count or os.fstat(self._vectors.fileno()).st_size < size:
            raise RuntimeError(f"{self.part} is damaged: some of its {count} documents are missing; delete it")
        self._vectors.truncate(size)
        for other in FORMATS.values():  # of a job that was to store them so, and was killed in its first shard
            if other is not self._format:
                (self.part / other.file).unlink(missing_ok=True)
        with (self.part / JOURNAL).open("rb") as lines:
            self._names.truncate(sum(len(line) for line, _ in zip(lines, range(count), strict=False)))

    def _remember(self, docnos: Sequence[str]) -> None:
        self.docnos.update(docnos)
        self._lengths = longest_names(self._lengths, docnos)

    def _write_metadata(self, **changes: Any) -> None:
        self._metadata.update(changes)
        write_file(self.part / METADATA, json.dumps(self._metadata, indent=1))

    def __enter__(self) -> VectorBuild:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if not self.count and not any(self.part.glob(f"{SHARDS}/*.npz")):
            shutil.rmtree(self.part, ignore_errors=True)  # before the lock goes: nothing here is worth resuming
        self._files.close()


def _dimension(owner: str, vector: npt.ArrayLike) -> int:
    shape = as_vector(owner, vector).shape
    if len(shape) != 1 or not shape[0]:
        raise ValueError(f"{owner} has a vector of shape {shape}, expected one dimension")
    return shape[0]
