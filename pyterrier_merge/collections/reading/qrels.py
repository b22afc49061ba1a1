"""Reads judgements in the layouts of TREC, BEIR and SMART. Only this module reads them."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path

import pandas as pd

from pyterrier_merge.collections.reading.files import kind_of, place, read_lines, unquoted
from pyterrier_merge.collections.reading.header import is_id_name, log_header

QREL_KINDS = ("tsv", "txt", "text", "trec", "qrels")

_CELL = re.compile(r"[^ \t\r\v\f]+")  # the only white space of trec_eval's isspace()
_LABEL = re.compile(r"[+-]?[0-9]{1,9}")
_WORD = re.compile(r"[^\W\d]+([.-][^\W\d]+)*")
_ZERO = re.compile(r"0(\.0+)?")
_ITERATION = re.compile(r"Q?[0-9]+", re.IGNORECASE)
_LAYOUTS = (
    "three columns (qid docno label), four (qid iteration docno label) or SMART's four (qid docno 0 0 in every line)"
)


def read_qrels(path: Path, *, grades: Mapping[str, int] | None = None) -> pd.DataFrame:
    """Read judgements; any white space separates columns, as in trec_eval.

    A file has one layout: ``qid iteration docno label`` (TREC), ``qid docno label`` with or without a header (BEIR), or
    one that ``lists_relevant`` recognises (SMART), whose pairs have label 1.

    Args:
        path: The file.
        grades: Labels that are words, and their grades. None if labels are whole numbers.

    Returns:
        Columns ``qid``, ``docno`` and ``label``, in the file's order.

    Raises:
        ValueError: A line has neither three nor four columns, a label is unknown, a judgement occurs twice, or there
            is none.
    """
    listed = lists_relevant(path)
    rows: dict[tuple[str, str], int] = {}
    lines: dict[tuple[str, str], int] = {}
    for position, (number, line, cells) in enumerate(_rows(path)):
        qid, docno, label = (*cells[:2], "1") if listed else (cells[0], cells[-2], cells[-1])
        named = is_id_name(cells[0]) if listed else label not in (grades or ())
        if position == 0 and named and all(map(_WORD.fullmatch, cells)):
            log_header(path, number, cells)
            continue
        key = (qid, docno)
        if key in rows:
            raise ValueError(
                f"{place(path, number)}: qid {qid!r} and docno {docno!r} were already judged in line {lines[key]}: "
                f"{line[:80]!r}; a file has {_LAYOUTS}"
            )
        rows[key], lines[key] = 1 if listed else _grade(path, number, line, label, grades), number
    if not rows:
        raise ValueError(f"{path}: there is no judgement in it")
    return pd.DataFrame([(*key, label) for key, label in rows.items()], columns=["qid", "docno", "label"])


def lists_relevant(path: Path) -> bool:
    """Whether a file lists only the relevant pairs, as SMART's CISI and CACM do; stops at the first other line.

    Every line is ``qid docno 0 0`` (or ``0.000000``), or, in a file ``.rel``, ``qid docno``. SMART numbers documents
    from 1, so a docno 0 is the iteration in TREC's layout.
    """
    return all(len(cells) == 2 or (len(cells) == 4 and _all_zero(cells)) for _, _, cells in _rows(path))


def without_zeros(names: pd.Series, like: Collection[str]) -> pd.Series:
    """Return numbers without leading zeros, unless a name in ``like`` has some: CACM has ``01`` for topic ``1``."""
    if any(name.isdigit() and name.startswith("0") and name != "0" for name in like):
        return names
    return names.str.replace(r"^0+(?=[0-9]+$)", "", regex=True)


def _rows(path: Path) -> Iterator[tuple[int, str, list[str]]]:
    """Yield number, line and cells of each line that is not blank."""
    expected = 0
    counts = (2, 3, 4) if kind_of(path) == "rel" else (3, 4)
    for number, line in read_lines(path):
        cells = [unquoted(cell, always=True) for cell in _CELL.findall(line)]
        if not cells:
            continue
        expected = expected or len(cells)
        found = f"found {len(cells)}: {line[:80]!r}"
        if expected not in counts:
            raise ValueError(f"{place(path, number)}: a judgement has {_LAYOUTS}, {found}")
        if len(cells) != expected:
            raise ValueError(
                f"{place(path, number)}: expected {expected} columns, as in the first line, {found} (any white space "
                "separates columns)"
            )
        if len(cells) == 4 and "\t" in line and (docno := _spaced_docno(line)):
            raise ValueError(
                f"{place(path, number)}: docno {docno!r} has white space, which separates columns here as in trec_eval"
            )
        yield number, line, cells


def _all_zero(cells: Sequence[str]) -> bool:
    return cells[1] != "0" and all(map(_ZERO.fullmatch, cells[2:]))


def _spaced_docno(line: str) -> str | None:
    """Return the docno of a line such as ``1<TAB>my doc<TAB>1``, which would be read as iteration and docno."""
    cells = [cell.strip() for cell in line.strip().split("\t")]
    words = cells[1].split() if len(cells) == 3 else []
    return cells[1] if len(words) == 2 and not _ITERATION.fullmatch(words[0]) else None


def _grade(path: Path, number: int, line: str, label: str, grades: Mapping[str, int] | None) -> int:
    if grades is not None:
        if label not in grades:
            raise ValueError(f"{place(path, number)}: unknown grade {label!r}; there are {', '.join(grades)}")
        return grades[label]
    if not _LABEL.fullmatch(label):
        raise ValueError(
            f"{place(path, number)}: the label {label!r} is not a whole number of at most nine digits: {line[:80]!r}; "
            f"a file has {_LAYOUTS}"
        )
    return int(label)
