"""Recognises the files of a folder by their names."""

from __future__ import annotations

import logging
import re
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from pyterrier_merge.collections.reading.documents import DOCUMENT_KINDS
from pyterrier_merge.collections.reading.files import bare_name, kind_of, stem_of
from pyterrier_merge.collections.reading.qrels import QREL_KINDS
from pyterrier_merge.collections.reading.topics import TOPIC_KINDS

logger = logging.getLogger(__name__)

DOCUMENT_NAMES = ("corpus", "docs", "documents", "collection")
TOPIC_NAMES = ("queries", "topics")
SPLITS = ("train", "dev", "valid", "val", "validation", "eval", "test")

_SPLIT = re.compile(r"\w[\w.-]*")
_ABOUT = ("readme", "license", "licence")  # files without data


@dataclass(frozen=True)
class Layout:
    """The files of a folder: documents in their order, topics and judgements by split ("" for topics of all splits)."""

    documents: tuple[Path, ...]
    topics: dict[str, Path]
    qrels: dict[str, Path]


def find_layout(folder: Path) -> Layout:
    """Recognise documents, topics and judgements by the names of files, as ``from_folder`` describes.

    Raises:
        FileNotFoundError: There is no such folder, or it lacks one of the three.
        ValueError: Two files hold the topics or the judgements of the same split.
    """
    if not folder.is_dir():
        raise FileNotFoundError(f"there is no folder {folder.absolute()}")
    files = sorted(file for file in folder.iterdir() if file.is_file() and not file.name.startswith("."))
    topics = _by_split(
        (_rest(stem_of(file), TOPIC_NAMES), file)
        for file in files
        if _is(file, TOPIC_NAMES, TOPIC_KINDS) or kind_of(file) == "qry"
    )
    layout = Layout(
        documents=tuple(file for file in files if _is(file, DOCUMENT_NAMES, DOCUMENT_KINDS) or kind_of(file) == "all"),
        topics=topics,
        qrels=_qrels(folder, files, topics),
    )
    for what, found, expected in (
        ("documents", layout.documents, "corpus.jsonl, docs.tsv or collection.trec"),
        ("topics", layout.topics, "queries.jsonl, topics.tsv or topics.xml"),
        ("judgements", layout.qrels, "qrels.txt, qrels.dev.tsv or a folder qrels"),
    ):
        if not found:
            raise FileNotFoundError(
                f"{folder} has no {what}: expected a file such as {expected}, found "
                f"{', '.join(file.name for file in files) or 'no file'}"
            )
    return layout


def _qrels(folder: Path, files: Sequence[Path], splits: Collection[str]) -> dict[str, Path]:
    candidates = [file for file in files if file.name.lower().startswith("qrels")]
    candidates += [file for file in sorted((folder / "qrels").glob("[!.]*")) if file.is_file()]
    found = [(_qrels_split(file, splits), file) for file in candidates]
    found += [("test", file) for file in files if kind_of(file) == "rel" and file not in candidates]
    if left := [str(file.relative_to(folder)) for split, file in found if not split]:
        logger.warning(
            "%s: not read as judgements: %s; their names end in %s, or in a split that has topics or is one of %s",
            folder, ", ".join(left), ", ".join(f".{kind}" for kind in QREL_KINDS), ", ".join(SPLITS),
        )  # fmt: skip
    return _by_split((split, file) for split, file in found if split)


def _qrels_split(file: Path, splits: Collection[str]) -> str | None:
    """Return the split of a file of judgements; None for names such as ``qrels.txt.bak`` or ``README.txt``."""
    ended = kind_of(file) in QREL_KINDS
    stem = stem_of(file) if ended else bare_name(file)
    split = _rest(stem, ("qrels",)) if stem.lower().startswith("qrels") else stem
    if not split:
        return "test"
    known = split in splits or split.lower() in SPLITS
    return split if known or (ended and _SPLIT.fullmatch(split) and not split.lower().startswith(_ABOUT)) else None


def _is(file: Path, names: Sequence[str], kinds: Sequence[str]) -> bool:
    return file.name.lower().startswith(tuple(names)) and kind_of(file) in kinds


def _rest(stem: str, names: Sequence[str]) -> str:
    """Return the part after one of the names and its separator: ``dev.small`` of ``topics.dev.small``."""
    begun = next((name for name in names if stem.lower().startswith(name)), stem)
    return stem[len(begun) :].lstrip("._-")


def _by_split(found: Iterable[tuple[str, Path]]) -> dict[str, Path]:
    files: dict[str, Path] = {}
    for split, file in found:
        if split in files:
            raise ValueError(f"two files have the split {split!r}: {files[split]} and {file}; keep one of them")
        files[split] = file
    return files
