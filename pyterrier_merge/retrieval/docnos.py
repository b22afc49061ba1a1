"""Document names on disk: a journal of JSON lines while the index grows, then the lookup that pyterrier_dr reads."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeGuard

from npids import Lookup
from npids.codecs import FwdFixedBytes

JOURNAL = "docnos.jsonl"
LOOKUP = "docnos.npids"


def is_docno(docno: Any) -> TypeGuard[str]:
    """Whether a document can have this name: a string that is not empty and that files can hold (no NUL, Unicode)."""
    return (
        isinstance(docno, str)
        and docno != ""
        and "\0" not in docno
        and docno.encode("utf-8", "replace").decode() == docno
    )


def encode_docnos(docnos: Sequence[str]) -> bytes:
    """Return the lines of the journal; JSON escapes line breaks, so that any name has one line."""
    return "".join(f"{json.dumps(docno)}\n" for docno in docnos).encode()


def decode_docnos(lines: bytes) -> list[str]:
    """Return the names that :func:`encode_docnos` wrote."""
    return json.loads(b"[" + lines.rstrip(b"\n").replace(b"\n", b",") + b"]")


def read_lookup(folder: Path) -> list[str]:
    """Return the names of a finished FLEX folder, ours or pyterrier_dr's."""
    return list(Lookup(folder / LOOKUP))


def write_lookup(folder: Path, docnos: Sequence[str]) -> None:
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
