"""Document names on disk: a journal of JSON lines while the index grows, then the lookup that pyterrier_dr reads.

The journal holds a fingerprint of each document's text too, so that a job that goes on sees whether a text has changed.
Both are read and written as streams: a Python string for each document never exists at one time.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from pathlib import Path

import numpy as np
import numpy.typing as npt
from npids import Lookup
from npids.codecs import FwdFixedBytes

JOURNAL = "docnos.jsonl"
LOOKUP = "docnos.npids"


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
        ``(n_docs,)`` names in UTF-8, whose order as bytes is the order of the strings. Ours are mapped from disk.
    """
    lookup = Lookup(folder / LOOKUP)
    codecs = lookup.fwd.codecs
    if len(codecs) == 1 and isinstance(codecs[0].fmt, FwdFixedBytes) and not codecs[0].fmt.prefix:
        names: npt.NDArray[np.bytes_] = codecs[0].ctxt[: codecs[0].count]
        return names
    return np.array([name.encode() for name in lookup])


def write_lookup(folder: Path, docnos: Iterable[str], *, count: int, longest: int) -> None:
    """Write ``docnos.npids``.

    Names are stored as plain bytes of one length. The denser codecs, which npids would choose by itself, fail when they
    read back a ``%`` before a number (PyTerrier's passages: ``d1%p0``), a single name, and some names outside ASCII.

    Args:
        folder: Where to.
        docnos: The names in the order of the vectors.
        count: How many.
        longest: Bytes of the longest in UTF-8.
    """
    path = folder / LOOKUP
    path.unlink(missing_ok=True)  # npids appends to what it finds
    # the length is known, so one name decides the block; and the inverse of a single name divides by zero in npids
    with Lookup.builder(path, build_inv=count > 1, min_block=1) as builder:
        builder.seeded_formats = {FwdFixedBytes.NAME: FwdFixedBytes(prefix="", length=longest)}
        for docno in docnos:
            builder.add(docno)
