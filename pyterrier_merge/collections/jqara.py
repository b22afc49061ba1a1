"""JQaRA: quiz questions in Japanese, each with the passages of Wikipedia to rank for it."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import pandas as pd

from pyterrier_merge.collections.base import TestCollection
from pyterrier_merge.collections.reading.hub import hub_file, in_hub_cache
from pyterrier_merge.collections.reading.jqara_files import SPLITS, find_files, read_rows
from pyterrier_merge.fingerprint import fingerprint, fingerprint_file
from pyterrier_merge.storage import cache_folder, user_path

logger = logging.getLogger(__name__)

HUB_DATASET = "hotchpotch/JQaRA"
HUB_REVISION = "6172542a3159fd43ade568d9d7267d1b3d364cc9"
HUB_FILE = "data/{split}-00000-of-00001.parquet"
HUB_MEGABYTES = {"dev": 39.9, "test": 61.9}


def jqara(path: str | Path | None = None, *, title: bool = True) -> TestCollection:
    """Return JQaRA: 1,667 test questions with 100 passages each, 1,737 dev questions with 50.

    Args:
        path: A folder or a file with the dataset's columns, in parquet or JSON lines (see
            :func:`~pyterrier_merge.collections.reading.jqara_files.find_files`). When None, the folder
            ``collections/jqara`` of the package's cache if it exists, else the hub's files, which are downloaded
            split by split (102 MB).
        title: Put the title before the text, as JQaRA's own evaluation does. The paper's script leaves it out.

    Raises:
        FileNotFoundError: There is no such folder or file, or it holds no split.
    """
    from ir_measures import RR, nDCG

    local = user_path(path) if path is not None else cache_folder("collections") / "jqara"
    files = find_files(local) if path is not None or local.is_dir() else None
    return JqaraCollection(
        name="jqara",
        title="quiz questions -> the given passages of the Japanese Wikipedia",
        language="ja",
        domain="Japanese",
        task="Given a question, retrieve Wikipedia passages that answer the question",
        splits=tuple(files or SPLITS),
        measures=(nDCG @ 10, RR @ 10),
        licence="questions CC BY-SA 4.0 (JAQKET), passages CC BY-SA 4.0 or GFDL (Wikipedia)",
        citation="Tateno: JQaRA: Japanese Question Answering with Retrieval Augmentation. 2024, "
        "https://huggingface.co/datasets/hotchpotch/JQaRA",
        default_domain_model="stabilityai/japanese-stablelm-base-gamma-7b",
        download_bytes=round(sum(HUB_MEGABYTES.values()) * 1e6),
        reranking=True,
        evaluation="Each question's own passages are ranked. The paper's script scores texts without their titles "
        "(title=False) and computes scikit-learn's nDCG; see docs/evaluation.md.",
        files=files,
        with_title=title,
    )


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class JqaraCollection(TestCollection):
    """The collection that ``jqara`` makes. A docno is the ``passage_row_id``: the passage's row in its Wikipedia dump.

    Attributes:
        files: The user's own files by split; None for the hub's.
        with_title: A text begins with its title.
    """

    files: dict[str, list[Path]] | None
    with_title: bool
    _judged: dict[str, pd.DataFrame] = field(default_factory=dict, init=False)

    @cached_property
    def num_docs(self) -> int:
        """Number of distinct passages in all splits together."""
        return len({row.docno for split in self.splits for row in read_rows(self._files(split), passages=False)})

    @cached_property
    def fingerprint(self) -> str:
        """Fingerprint of the hub's revision or of the content of the user's files, and of the form of the text."""
        content = [fingerprint_file(file) for split in self.splits for file in self.files[split]] if self.files else []
        return fingerprint([HUB_DATASET, content or HUB_REVISION, "title text" if self.with_title else "text"])

    @property
    def missing_bytes(self) -> int:
        """Bytes of the hub's files that its cache lacks."""
        if self.files is not None:
            return 0
        kept = {split: in_hub_cache(HUB_DATASET, HUB_FILE.format(split=split), HUB_REVISION) for split in self.splits}
        return round(sum(HUB_MEGABYTES[split] for split, there in kept.items() if not there) * 1e6)

    @property
    def document_fields(self) -> tuple[str, ...]:
        """Names of the fields that documents have besides ``docno``."""
        return "title", "text"

    def _documents(self) -> Iterator[dict[str, str]]:
        seen: dict[str, int] = {}  # hashes instead of the texts of 200,000 passages
        empty = 0
        for split in self.splits:
            for row in read_rows(self._files(split)):
                content = hash((row.title, row.text))
                if row.docno not in seen:
                    seen[row.docno] = content
                    empty += not row.text.strip()
                    yield {"docno": row.docno, "title": row.title, "text": self._text(row.title, row.text)}
                elif seen[row.docno] != content:
                    raise ValueError(
                        f"{self.name}: passage {row.docno!r} for question {row.qid!r} of {split!r} has another "
                        "title or text than before; a passage_row_id must name one passage"
                    )
        if empty:
            logger.warning("%s: %d of the %d passages have no text; they are kept", self.name, empty, len(seen))

    def _topics(self, split: str) -> pd.DataFrame:
        return self._judgements(split).drop_duplicates("qid")

    def _qrels(self, split: str) -> pd.DataFrame:
        return self._judgements(split)

    def _candidates(self, split: str) -> pd.DataFrame:
        rows = (
            (row.qid, row.question, row.docno, self._text(row.title, row.text)) for row in read_rows(self._files(split))
        )
        return pd.DataFrame(rows, columns=["qid", "query", "docno", "text"])

    def _judgements(self, split: str) -> pd.DataFrame:
        if split not in self._judged:
            rows = (
                (row.qid, row.question, row.docno, row.label) for row in read_rows(self._files(split), passages=False)
            )
            frame = pd.DataFrame(rows, columns=["qid", "query", "docno", "label"])
            if not len(frame):
                raise ValueError(f"{self.name}: the split {split!r} has no rows in {self._files(split)}")
            best = frame.groupby("qid")["label"].max()
            if without := int((best == 0).sum()):
                logger.warning(
                    "%s: %d of the %d questions of %r have no passage with label 1",
                    self.name,
                    without,
                    len(best),
                    split,
                )
            self._judged[split] = frame
        return self._judged[split]

    def _text(self, title: str, text: str) -> str:
        return f"{title} {text}".strip() if self.with_title else text

    def _files(self, split: str) -> list[Path]:
        if self.files is not None:
            return self.files[split]
        file, size = HUB_FILE.format(split=split), f"{HUB_MEGABYTES[split]} MB"
        return [hub_file(HUB_DATASET, file, name=self.name, revision=HUB_REVISION, size=size)]
