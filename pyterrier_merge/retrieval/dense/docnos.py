"""Document names on disk: a journal of JSON lines while the index grows, then the lookup that pyterrier_dr reads.

The journal holds a fingerprint of each document's text too, so that a job that goes on sees whether a text has changed.
Both are read and written as streams: a Python string for each document never exists at one time.
"""

from __future__ import annotations

import heapq
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from npids import Lookup
from npids.codecs import FwdFixedBytes

JOURNAL = "docnos.jsonl"
LOOKUP = "docnos.npids"
OUTLIERS = 1_000  # of the longest names, which may stand apart; each makes reading slower
SPACIOUS = 100 << 20  # bytes, from which on a lookup of mostly padding is written otherwise


def encode_journal(prints: Mapping[str, str]) -> bytes:
    """Return the lines for documents (docno -> fingerprint); JSON escapes line breaks, so that each has one line."""
    return "".join(f"{json.dumps(entry)}\n" for entry in prints.items()).encode()


def journal_entries(folder: Path, count: int) -> Iterator[tuple[str, str]]:
    """Yield docno and fingerprint of the first ``count`` documents in the journal of ``folder``."""
    with (folder / JOURNAL).open("rb") as lines:
        for line in islice(lines, count):
            docno, fingerprint = json.loads(line.decode())
            yield docno, fingerprint


def read_lookup(folder: Path) -> npt.NDArray[np.bytes_]:
    """Return the names of a finished FLEX folder, ours or pyterrier_dr's.

    Returns:
        ``(n_docs,)`` names in UTF-8, whose order as bytes is the order of the strings; Python's bytes where padding
        them to the longest would take most of the memory.
    """
    blocks = [_read_block(codec) for codec in Lookup(folder / LOOKUP).fwd.codecs]
    if len(blocks) == 1:
        return blocks[0]
    padded = sum(map(len, blocks)) * max(block.itemsize for block in blocks)
    if padded > max(SPACIOUS, 10 * sum(block.nbytes for block in blocks)):
        blocks = [block.astype(object) for block in blocks]
    return np.concatenate(blocks)


def longest_names(lengths: Iterable[int], docnos: Iterable[str]) -> list[int]:
    """Return the longest of ``lengths`` and of those of ``docnos`` in UTF-8, for ``lookup_width``."""
    return heapq.nlargest(OUTLIERS + 1, [*lengths, *(len(docno.encode()) for docno in docnos)])


def lookup_width(lengths: Sequence[int], count: int) -> int:
    """Return the bytes that a name takes in the lookup, but for a few that are much longer than the others.

    Args:
        lengths: Bytes of the ``OUTLIERS + 1`` longest names, or of all, the longest first.
        count: Number of names.
    """
    longest, usual = lengths[0], lengths[-1]
    return usual if longest * count > SPACIOUS and longest > 10 * usual else longest


def write_lookup(folder: Path, docnos: Iterable[str], *, count: int, width: int) -> None:
    """Write ``docnos.npids``.

    Names are stored as plain bytes of one length. The denser codecs, which npids would choose by itself, fail when they
    read back a ``%`` before a number (PyTerrier's passages: ``d1%p0``), a single name, and some names outside ASCII.

    Args:
        folder: Where to.
        docnos: The names in the order of the vectors.
        count: How many.
        width: Bytes that each takes in UTF-8; a longer one gets a block of its own.
    """
    path = folder / LOOKUP
    path.unlink(missing_ok=True)  # npids appends to what it finds
    # the length is known, so one name decides the block; and the inverse of a single name divides by zero in npids
    with Lookup.builder(path, build_inv=count > 1, min_block=1) as builder:
        builder.formats = builder.seeded_formats = {FwdFixedBytes.NAME: _PlainBytes(width)}
        for docno in docnos:
            builder.add(docno)


def _read_block(codec: Any) -> npt.NDArray[np.bytes_]:
    if isinstance(codec.fmt, FwdFixedBytes) and not codec.fmt.prefix:
        names: npt.NDArray[np.bytes_] = codec.ctxt[: codec.count]
        return names
    return np.array([name.encode() for name in codec])


class _PlainBytes(FwdFixedBytes):
    """Blocks of names up to a width, and of longer ones of one length; npids reads them as its own."""

    def __init__(self, width: int) -> None:
        super().__init__(prefix="", length=width)
        self._width = width

    def seed(self, name: str) -> bool:
        """Begin a block."""
        self.length = self._length_for(name)
        return True

    def encode(self, name: str) -> bytes | None:
        """Return the name's bytes, None where another block must begin."""
        encoded: bytes | None = super().encode(name)
        return encoded if self._length_for(name) == self.length else None

    def reset(self) -> None:
        """Keep the prefix: there is none."""

    def _length_for(self, name: str) -> int:
        return max(self._width, len(name.encode()))
