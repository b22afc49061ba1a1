"""Decides whether the first line of a TSV file is a header or data."""

from __future__ import annotations

import logging
import re
from collections.abc import Container, Iterator, Sequence
from functools import cache
from itertools import chain
from pathlib import Path

from pyterrier_merge.collections.reading.files import place

logger = logging.getLogger(__name__)

Row = tuple[int, list[str]]

_NAME = re.compile(r"[^\W\d]\w*(?:[ .-]\w+){0,2}")
_LONGEST = 30  # characters of a column's name
_ID_NAME = re.compile(
    r"_?((doc|document|passage|corpus|p|query|question|topic|q)[ _.-]?)?(id|no|num|number)", re.IGNORECASE
)
_DIGIT = re.compile(r"\d")


def split_header(path: Path, rows: Iterator[Row], *, judged: Container[str] = ()) -> tuple[list[str], Iterator[Row]]:
    """Separate the names of columns from the data, reading at most two lines.

    The first line is a header if its cells look like names (a letter first, three words at most), if no judgement names
    its first cell, and if that cell is the name of an identifier (``docno``, ``topic_id``) or, without a digit, stands
    above one with a digit (``key`` above ``d1``). Otherwise it is data; if only the last condition fails, a warning
    says so. A skipped header is logged.

    Args:
        path: The file, for messages.
        rows: Line numbers and cells.
        judged: Identifiers in the judgements: they are never a header.

    Returns:
        The names in lower case (empty without a header), and the rows of data.
    """
    first = next(rows, None)
    if first is None:
        return [], rows
    number, cells = first
    data = chain([first], rows)
    if cells[0] in judged or not all(_NAME.fullmatch(cell) and len(cell) <= _LONGEST for cell in cells):
        return [], data
    if not is_id_name(cells[0]):
        if _DIGIT.search(cells[0]):
            return [], data
        second = next(rows, None)
        rows = rows if second is None else chain([second], rows)
        if second is None or not _DIGIT.search(second[1][0]):
            _log_once(
                logging.WARNING,
                f"{place(path, number)}: {cells} may be names of columns, but is read as data; a header begins with "
                "docno or qid",
            )
            return [], chain([first], rows)
    log_header(path, number, cells)
    return [cell.lower() for cell in cells], rows


def is_id_name(cell: str) -> bool:
    """Whether a cell is the name of a column of identifiers, such as ``docno``, ``_id`` or ``query-id``."""
    return _ID_NAME.fullmatch(cell) is not None


def log_header(path: Path, number: int, cells: Sequence[str]) -> None:
    """Log a skipped header, once: a warning unless its first cell is the name of an identifier."""
    level = logging.INFO if is_id_name(cells[0]) else logging.WARNING
    _log_once(level, f"{place(path, number)}: {list(cells)} is read as a header, not as data")


def named_columns(
    path: Path, names: Sequence[str], *, ids: Sequence[str], texts: Sequence[str], others: Sequence[str] = ()
) -> tuple[int, int]:
    """Return the positions of the columns of identifiers and of texts.

    Args:
        path: The file, for messages.
        names: The header, in lower case.
        ids: Names of a column of identifiers, preferred names first; then any ``is_id_name``, then the first column.
        texts: Names of a column of texts, preferred names first; then the only column left.
        others: Names of columns that are neither.

    Raises:
        ValueError: Two columns have the same name, or it is unclear which one holds the texts.
    """
    by_name = {name: position for position, name in enumerate(names)}
    id_name = next((name for name in (*ids, *filter(is_id_name, names)) if name in by_name), names[0])
    rest = [name for name in names if name not in (id_name, *others)]
    text_name = next((name for name in texts if name in rest), rest[0] if len(rest) == 1 else None)
    if text_name is None or len(by_name) < len(names):
        raise ValueError(
            f"{path}: the header is {', '.join(names)}; expected different names, one of them {' or '.join(texts)}"
        )
    return by_name[id_name], by_name[text_name]


@cache
def _log_once(level: int, message: str) -> None:
    logger.log(level, message)
