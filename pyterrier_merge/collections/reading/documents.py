"""Documents from a file of whatever format its suffix says."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pyterrier_merge.collections.reading.files import kind_of, place, read_columns, read_jsonl
from pyterrier_merge.collections.reading.trec_files import read_smart, read_trec_documents

DOCNO_KEYS = ("docno", "_id", "doc_id", "docid", "id")
TEXT_KEYS = ("text", "contents")
DOCUMENT_KINDS = ("jsonl", "tsv", "trec", "all")


def read_documents(path: Path) -> Iterator[tuple[int, dict[str, str]]]:
    """Yield line number and document, read by the suffix of the file (below ``.gz`` or ``.bz2``).

    A document has ``docno``, ``text`` with the title in front, and the fields that are strings.

    Raises:
        ValueError: The suffix is none of ``DOCUMENT_KINDS``, or a line is not what it should be.
    """
    readers = {"jsonl": _from_jsonl, "tsv": _from_tsv, "trec": read_trec_documents, "all": read_smart}
    kind = kind_of(path)
    if kind not in readers:
        raise ValueError(f"{path}: documents are read from {', '.join(f'.{kind}' for kind in readers)}, not .{kind}")
    return readers[kind](path)


def _from_jsonl(path: Path) -> Iterator[tuple[int, dict[str, str]]]:
    return ((number, _document(path, number, entry)) for number, entry in read_jsonl(path))


def _from_tsv(path: Path) -> Iterator[tuple[int, dict[str, str]]]:
    columns: list[str] | None = None
    for number, cells in read_columns(path, tabs_only=True):
        if columns is None and cells[0].lower() in DOCNO_KEYS:
            columns = [cell.lower() for cell in cells]
            continue
        columns = columns or _columns(path, number, len(cells))
        yield number, _document(path, number, dict(zip(columns, cells, strict=True)))


def _columns(path: Path, number: int, count: int) -> list[str]:
    if count not in (2, 3):
        raise ValueError(
            f"{place(path, number)}: found {count} columns and no header that begins with {' or '.join(DOCNO_KEYS)}; "
            "without a header they are docno and text, or docno, title and text"
        )
    return ["docno", "text"] if count == 2 else ["docno", "title", "text"]


def _document(path: Path, number: int, entry: dict[str, Any]) -> dict[str, str]:
    docno_key = next((key for key in DOCNO_KEYS if key in entry), None)
    text_key = next((key for key in TEXT_KEYS if key in entry), None)
    if docno_key is None or text_key is None:
        raise ValueError(
            f"{place(path, number)}: a document has a {' or '.join(DOCNO_KEYS)} and a {' or '.join(TEXT_KEYS)}; found "
            f"{', '.join(map(str, entry))}"
        )
    docno, text, title = entry[docno_key], entry[text_key], entry.get("title") or ""
    if isinstance(docno, bool) or not isinstance(docno, str | int):
        raise ValueError(f"{place(path, number)}: {docno_key} is {docno!r}, no string")  # noqa: TRY004
    if not isinstance(text, str) or not isinstance(title, str):
        raise ValueError(  # noqa: TRY004 (data)
            f"{place(path, number)}: text and title of {docno!r} are strings, found {text!r} and {title!r}"
        )
    fields = {str(key): value for key, value in entry.items() if isinstance(value, str)}
    fields.pop(docno_key, None)
    return {**fields, "docno": str(docno), "text": f"{title} {text}".strip()}
