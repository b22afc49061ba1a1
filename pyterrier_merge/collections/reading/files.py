"""Strict, streaming readers of text files; every error names the file and the line."""

from __future__ import annotations

import bz2
import gzip
import json
import re
import zlib
from collections.abc import Iterator
from itertools import chain, islice
from pathlib import Path
from typing import Any, BinaryIO, cast

_COMPRESSED = (".gz", ".bz2")
_BOM = b"\xef\xbb\xbf"
_UTF16 = (b"\xff\xfe", b"\xfe\xff")
_QUOTED = re.compile(r'"(?:[^"]|"")*"')
_PEEKED = 100  # lines


def bare_name(path: Path) -> str:
    """Return a file's name without ``.gz`` or ``.bz2``."""
    return path.stem if path.suffix.lower() in _COMPRESSED else path.name


def kind_of(path: Path) -> str:
    """Return a file's suffix in lower case, without a dot; that below ``.gz`` and ``.bz2``."""
    return Path(bare_name(path)).suffix.lower().lstrip(".")


def stem_of(path: Path) -> str:
    """Return a file's name without its suffixes: ``topics.dev`` of ``topics.dev.tsv.gz``."""
    return Path(bare_name(path)).stem


def place(path: Path, line: int) -> str:
    """Return the name of a line of a file for error messages."""
    return f"{path}, line {line}"


def read_lines(path: Path) -> Iterator[tuple[int, str]]:
    """Yield the number (from 1) and the text of each line, without its end (``LF`` or ``CRLF``).

    gzip and bzip2 are detected by the first bytes, not by the file's name; a byte order mark is dropped.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: A line is not UTF-8, or an archive is truncated or damaged.
    """
    number = 0
    opened = _open(path)
    try:
        with opened as stream:
            for number, raw in enumerate(stream, start=1):
                line = raw.removeprefix(_BOM) if number == 1 else raw
                yield number, line.decode().rstrip("\r\n")
    except UnicodeDecodeError as error:
        raise ValueError(f"{place(path, number)}: not UTF-8 ({error.reason}, byte {error.start})") from error
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise _damaged(path, number, error) from error
    except OSError as error:
        if error.errno is None:  # bz2's error for invalid data
            raise _damaged(path, number, error) from error
        raise


def read_jsonl(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield the number and the object of each line that is not blank.

    Raises:
        ValueError: A line is not JSON, or not an object.
    """
    for number, line in read_lines(path):
        if not line.strip():
            continue
        try:
            value = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise ValueError(f"{place(path, number)}: no JSON ({error}): {line[:80]!r}") from error
        if not isinstance(value, dict):
            raise ValueError(f"{place(path, number)}: expected a JSON object, found {line[:80]!r}")  # noqa: TRY004
        yield number, value


def read_tsv(path: Path) -> Iterator[tuple[int, list[str]]]:
    """Yield the number and the cells of each line that is not blank; cells are separated by tabs.

    Cells that a CSV writer quoted are unquoted: cells quoted from end to end with doubled quotes inside
    (``"the ""kidney"" failed"``), and all quoted cells if the last cells of the first 100 lines are quoted. Other
    quotes are kept: a lone inch mark, a phrase between quotes.

    Raises:
        ValueError: A line has another number of cells than the first, or only one.
    """
    expected = 0
    quoted, lines = _all_quoted((number, line) for number, line in read_lines(path) if line.strip())
    for number, line in lines:
        cells = line.split("\t")
        expected = expected or len(cells)
        if len(cells) == 1 or len(cells) != expected:
            columns = "two or more columns" if expected == 1 else f"{expected} columns, as in the first line"
            raise ValueError(
                f"{place(path, number)}: expected {columns}, found {len(cells)}: {line[:80]!r} (tabs separate columns)"
            )
        yield number, [unquoted(cell.strip(), always=quoted) for cell in cells]


def unquoted(cell: str, *, always: bool) -> str:
    """Return a cell without the quotes of a CSV writer.

    Args:
        cell: It counts as quoted if it is quoted from end to end and every quote inside is doubled.
        always: Also unquote without quotes inside, although an author may have written such quotes.
    """
    if not cell.startswith('"') or not _QUOTED.fullmatch(cell) or not (always or '""' in cell[1:-1]):
        return cell
    return cell[1:-1].replace('""', '"')


def _all_quoted(lines: Iterator[tuple[int, str]]) -> tuple[bool, Iterator[tuple[int, str]]]:
    """Return whether a CSV writer quoted all texts, by the last cells of the first lines, and these lines."""
    head: list[tuple[int, str]] = []
    for entry in islice(lines, _PEEKED):
        head.append(entry)
        if not _QUOTED.fullmatch(entry[1].rpartition("\t")[2].strip()):
            return False, chain(head, lines)
    return len(head) > 1, chain(head, lines)


def _open(path: Path) -> BinaryIO:
    if not path.is_file():
        what = "is a folder, not a file" if path.is_dir() else "there is no such file"
        raise FileNotFoundError(f"{path}: {what}")
    with path.open("rb") as file:
        start = file.read(4)
    if start.startswith(b"\x1f\x8b"):
        return cast("BinaryIO", gzip.open(path, "rb"))
    if start.startswith(b"BZh"):
        return cast("BinaryIO", bz2.open(path, "rb"))
    if start == b"PK\x03\x04":
        raise ValueError(f"{path}: a zip archive; unpack it, or compress the file with gzip or bzip2")
    if start.startswith(_UTF16):
        raise ValueError(f"{place(path, 1)}: UTF-16; expected UTF-8")
    return path.open("rb")


def _damaged(path: Path, number: int, error: Exception) -> ValueError:
    return ValueError(f"{path}: truncated or damaged after line {number} ({error}); fetch or copy it again")
