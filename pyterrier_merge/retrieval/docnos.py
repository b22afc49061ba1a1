"""Document names on disk: a journal of JSON lines while the index grows, then the lookup that pyterrier_dr reads.

The journal holds a fingerprint of each document's text too, so that a job that goes on sees whether a text has changed.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from pathlib import Path

from npids import Lookup
from npids.codecs import FwdFixedBytes

JOURNAL = "docnos.jsonl"
LOOKUP = "docnos.npids"


def encode_journal(prints: Mapping[str, str]) -> bytes:
    """Return the lines for documents (docno -> fingerprint); JSON escapes line breaks, so that each has one line."""
    return "".join(f"{json.dumps(entry)}\n" for entry in prints.items()).encode()


def decode_journal(lines: bytes) -> dict[str, str]:
    """Return what :func:`encode_journal` wrote, in its order."""
    return dict(json.loads(b"[" + lines.rstrip(b"\n").replace(b"\n", b",") + b"]"))


def read_lookup(folder: Path) -> list[str]:
    """Return the names of a finished FLEX folder, ours or pyterrier_dr's."""
    return list(Lookup(folder / LOOKUP))


def write_lookup(folder: Path, docnos: Collection[str]) -> None:
    """Write ``docnos.npids``.

    Names are stored as plain bytes of one length. The denser codecs, which npids would choose by itself, fail when they
    read back a ``%`` before a number (PyTerrier's passages: ``d1%p0``), a single name, and some names outside ASCII.
    """
    path = folder / LOOKUP
    path.unlink(missing_ok=True)  # npids appends to what it finds
    # one block holds all names; and the inverse of a single name divides by zero in npids
    with Lookup.builder(path, build_inv=len(docnos) > 1, min_block=len(docnos) + 1) as builder:
        builder.seeded_formats = {FwdFixedBytes.NAME: FwdFixedBytes(prefix="")}
        for docno in docnos:
            builder.add(docno)
