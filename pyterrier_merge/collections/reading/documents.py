"""Reads documents from a file in the format given by its suffix."""

from __future__ import annotations

from collections.abc import Container, Iterator
from pathlib import Path
from typing import Any

from pyterrier_merge.collections.reading.files import kind_of, place, read_jsonl, read_tsv
from pyterrier_merge.collections.reading.header import named_columns, split_header
from pyterrier_merge.collections.reading.trec_files import read_smart, read_trec_documents

DOCNO_KEYS = ("docno", "_id", "doc_id", "docid", "id")
TEXT_KEYS = ("text", "contents")
DOCUMENT_KINDS = ("jsonl", "tsv", "trec", "all")


def read_documents(path: Path, *, judged: Container[str] = ()) -> Iterator[tuple[int, dict[str, str]]]:
    """Yield line number and document, read by the suffix of the file (below ``.gz`` or ``.bz2``).

    A document has ``docno``, ``text`` beginning with the title, and the fields that are strings.

    Args:
        path: The file.
        judged: Docnos in the judgements: a first line of TSV that begins with one is not a header.

    Raises:
        ValueError: The suffix is not one of ``DOCUMENT_KINDS``, or a line is not in the expected format.
    """
    kind = kind_of(path)
    if kind == "tsv":
        return _from_tsv(path, judged)
    readers = {"jsonl": _from_jsonl, "trec": read_trec_documents, "all": read_smart}
    if kind not in readers:
        raise ValueError(f"{path}: documents are read from .{', .'.join(DOCUMENT_KINDS)}, not .{kind}")
    return readers[kind](path)


def _from_jsonl(path: Path) -> Iterator[tuple[int, dict[str, str]]]:
    return ((number, _document(path, number, entry)) for number, entry in read_jsonl(path))


def _from_tsv(path: Path, judged: Container[str]) -> Iterator[tuple[int, dict[str, str]]]:
    names, rows = split_header(path, read_tsv(path), judged=judged)
    if names:
        docno, text = named_columns(path, names, ids=DOCNO_KEYS, texts=TEXT_KEYS, others=("title",))
        names[docno], names[text] = "docno", "text"
    for number, cells in rows:
        names = names or _columns(path, number, cells)
        yield number, _document(path, number, dict(zip(names, cells, strict=True)))


def _columns(path: Path, number: int, cells: list[str]) -> list[str]:
    if len(cells) not in (2, 3):
        raise ValueError(
            f"{place(path, number)}: found {len(cells)} columns and no header that begins with "
            f"{' or '.join(DOCNO_KEYS)}; without a header they are docno and text, or docno, title and text: "
            f"{chr(9).join(cells)[:80]!r}"
        )
    return ["docno", "text"] if len(cells) == 2 else ["docno", "title", "text"]


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
