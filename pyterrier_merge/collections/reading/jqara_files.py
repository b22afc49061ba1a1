"""Reads JQaRA's rows of a question and a passage from parquet or JSON lines: streamed, every row checked."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from pyterrier_merge.collections.names import clean_text, name_fault
from pyterrier_merge.collections.reading.files import kind_of, place, read_jsonl, stem_of

SPLITS = ("dev", "test")
COLUMNS = ("q_id", "question", "passage_row_id", "title", "text", "label")
KINDS = ("parquet", "jsonl")
_BATCH_ROWS = 4096


class Row(NamedTuple):
    """A question, one of its passages, and whether the passage answers it. Title and text are "" if not read."""

    qid: str
    question: str
    docno: str
    title: str
    text: str
    label: int


def find_files(path: Path) -> dict[str, list[Path]]:
    """Return the files of each available split, its shards in the order of their names.

    Args:
        path: A folder that has, itself or in its folder ``data``, files named after their split
            (``test-00000-of-00001.parquet``, ``dev.jsonl.gz``); or one such file, of the test split if its name has
            no split.

    Raises:
        FileNotFoundError: ``path`` does not exist, or has no file of a split.
        ValueError: A file is neither parquet nor JSON lines.
    """
    if path.is_file():
        if kind_of(path) not in KINDS:
            raise ValueError(f"{path}: expected a file in {' or '.join(KINDS)}, by its name")
        return {_split_of(path) or "test": [path]}
    if not path.is_dir():
        raise FileNotFoundError(f"jqara: there is no folder or file {path}")
    files = [file for folder in (path, path / "data") for file in sorted(folder.glob("*")) if kind_of(file) in KINDS]
    found = {split: [file for file in files if _split_of(file) == split] for split in SPLITS}
    if not any(found.values()):
        raise FileNotFoundError(
            f"jqara: {path} has no file such as test-00000-of-00001.parquet or test.jsonl, nor has its folder data"
        )
    return {split: shards for split, shards in found.items() if shards}


def read_rows(files: Iterable[Path], *, passages: bool = True) -> Iterator[Row]:
    """Yield the rows of one split, file by file.

    Args:
        files: Its shards.
        passages: Read titles and texts too; without them parquet is read several times as fast.

    Raises:
        ValueError: A file is damaged or lacks a column, a question has a passage or another wording twice, or a cell
            is invalid. The message names file and row.
    """
    columns = COLUMNS if passages else tuple(column for column in COLUMNS if column not in ("title", "text"))
    questions: dict[str, str] = {}
    seen: set[tuple[str, str]] = set()
    for path in files:
        for number, cells in _read_parquet(path, columns) if kind_of(path) == "parquet" else read_jsonl(path):
            row = _row(path, number, cells, columns)
            if (row.qid, row.docno) in seen:
                raise ValueError(f"{place(path, number)}: question {row.qid!r} has passage {row.docno!r} twice")
            if questions.setdefault(row.qid, row.question) != row.question:
                raise ValueError(
                    f"{place(path, number)}: question {row.qid!r} is {row.question!r}, but was before "
                    f"{questions[row.qid]!r}"
                )
            seen.add((row.qid, row.docno))
            yield row


def _read_parquet(path: Path, columns: Sequence[str]) -> Iterator[tuple[int, dict[str, Any]]]:
    import pyarrow
    from pyarrow import parquet

    number = 0
    try:
        with parquet.ParquetFile(path) as file:
            _check_columns(str(path), file.schema_arrow.names, columns)
            for batch in file.iter_batches(batch_size=_BATCH_ROWS, columns=list(columns)):
                for cells in batch.to_pylist():
                    number += 1
                    yield number, cells
    except (pyarrow.ArrowException, OSError) as error:
        if isinstance(error, FileNotFoundError):
            raise
        raise ValueError(
            f"{path}: no parquet file, or truncated or damaged after row {number} ({error}); fetch or copy it again"
        ) from error


def _row(path: Path, number: int, cells: Mapping[str, Any], columns: Sequence[str]) -> Row:
    where = place(path, number)
    _check_columns(where, cells, columns)
    qid, docno = (_name(where, column, cells[column]) for column in ("q_id", "passage_row_id"))
    if cells["label"] not in (0, 1):
        raise ValueError(f"{where}: the label is {cells['label']!r}, expected 0 or 1")
    texts = {column: cells[column] for column in ("question", "title", "text") if column in columns}
    for column, text in texts.items():
        if not isinstance(text, str) and not (column == "title" and text is None):
            raise ValueError(f"{where}: {column} is {text!r}, expected a string")
    question, title, text = (clean_text(texts.get(column) or "") for column in ("question", "title", "text"))
    return Row(qid, question, docno, title, text, int(cells["label"]))


def _name(where: str, column: str, value: Any) -> str:
    name = str(value) if isinstance(value, int) and not isinstance(value, bool) else value
    if fault := name_fault(name):
        raise ValueError(f"{where}: {column} {value!r} {fault}")
    return str(name)


def _check_columns(where: str, found: Iterable[str], expected: Sequence[str]) -> None:
    found = list(found)
    if missing := [column for column in expected if column not in found]:
        raise ValueError(f"{where}: columns {missing} are missing; there are {found}")


def _split_of(path: Path) -> str | None:
    words = re.split(r"[^a-z]+", stem_of(path).lower())
    return next((split for split in SPLITS if split in words), None)
