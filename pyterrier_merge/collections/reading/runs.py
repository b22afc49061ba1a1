"""Run files: the results of a system in TREC's format."""

from __future__ import annotations

import csv
import gzip
import re
import zlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pandas as pd

from pyterrier_merge.collections.reading.files import place, read_lines

COLUMNS = ["qid", "iter", "docno", "rank", "score", "name"]


def read_run(path: Path) -> pd.DataFrame:
    """Read a run file: ``qid Q0 docno rank score name`` per line, split at any white space; also gzip and bzip2.

    As in trec_eval, scores count and ranks do not. The ``<SYSDESC>`` line of NTCIR is skipped.

    Returns:
        ``qid``, ``docno`` (strings) and ``score``, in the file's order.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: A line has another number of columns, a score is not a finite number, a document occurs twice for a
            query, or there is no result; the message has the file and the line.
    """
    rows: list[tuple[str, str, float]] = []
    seen = dict[tuple[str, str], int]()
    for number, line in read_lines(path):
        cells = line.split()
        if not cells or (number == 1 and line.startswith("<SYSDESC>")):
            continue
        if len(cells) != len(COLUMNS):
            raise ValueError(
                f"{place(path, number)}: a result has {len(COLUMNS)} columns (qid Q0 docno rank score name), found "
                f"{len(cells)}: {line[:80]!r}"
            )
        qid, docno, score = cells[0], cells[2], _score(path, number, cells[4])
        if (first := seen.setdefault((qid, docno), number)) != number:
            raise ValueError(f"{place(path, number)}: qid {qid!r} and docno {docno!r} are already in line {first}")
        rows.append((qid, docno, score))
    if not rows:
        raise ValueError(f"{path}: there is no result in it")
    return pd.DataFrame(rows, columns=["qid", "docno", "score"])


def write_run(results: pd.DataFrame, path: Path, name: str) -> None:
    """Write results (``qid``, ``docno``, ``rank``, ``score``) as a run file; compressed if its name ends in ``.gz``.

    pandas and PyTerrier would quote names that contain quotes, which other tools do not read.

    Raises:
        ValueError: A qid or docno is empty or contains white space.
    """
    require_plain_names(results)
    written = results.assign(iter="Q0", name=name)[COLUMNS]
    written.to_csv(path, sep=" ", header=False, index=False, quoting=csv.QUOTE_NONE)


def read_kept_run(path: Path, count: int | None) -> pd.DataFrame:
    """Read a run of ``write_run``, faster than :func:`read_run`; ``count`` is its number of results, if known.

    Raises:
        RuntimeError: The file is damaged.
    """
    types: dict[str, Any] = {"qid": str, "docno": str, "rank": int, "score": float}
    plain: dict[str, Any] = {"quoting": csv.QUOTE_NONE, "keep_default_na": False}  # "NA" is a docno too
    again = "delete it to search the system again"
    try:
        run = pd.read_csv(path, sep=" ", names=COLUMNS, dtype=types, **plain).drop(columns=["iter", "name"])
    except (ValueError, EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise RuntimeError(f"{path} is damaged ({error}): {again}") from error
    if count not in (None, len(run)):
        raise RuntimeError(f"{path} is damaged ({len(run)} of {count} results are there): {again}")
    return run


def require_plain_names(results: pd.DataFrame) -> None:
    """Raise ``ValueError`` if a qid or docno of results is empty or contains white space."""
    for kind in ("qid", "docno"):
        require_plain(kind, results[kind].drop_duplicates())


def require_plain(kind: str, names: Iterable[str]) -> None:
    """Raise ``ValueError`` if a name cannot be in a TREC run, whose fields are separated by white space."""
    for name in names:
        if not name or re.search(r"\s", name):
            raise ValueError(
                f"{kind} {name!r} cannot be in a TREC run: expected a name without white space; rename it in the "
                "collection"
            )


def _score(path: Path, number: int, text: str) -> float:
    try:
        score = float(text)
    except ValueError:
        score = float("nan")
    if score != score or abs(score) == float("inf"):
        raise ValueError(f"{place(path, number)}: the score {text!r} is not a finite number")
    return score
