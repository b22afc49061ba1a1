"""MIRACL in Japanese, read with ``ir_datasets``: the whole corpus, or the judged passages that the paper ranks."""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import pandas as pd

from pyterrier_merge.collections.base import TestCollection
from pyterrier_merge.collections.beir import dev_qids
from pyterrier_merge.collections.reading.irds_source import IrdsSource, load
from pyterrier_merge.collections.sourced import SourcedCollection

logger = logging.getLogger(__name__)

CORPUS = "miracl/ja"
# MIRACL's test topics have no published judgements: its dev set is what papers test on.
SOURCE_SPLITS = {"train": "train", "dev": "train", "test": "dev"}
POOLS = {"judged": "test", "judged-dev": "dev"}


def miracl_ja(*, pool: str | None = None, download: bool = False) -> TestCollection:
    """Return MIRACL in Japanese: questions -> 6,953,614 passages of Wikipedia.

    The split "test" (860 questions) is MIRACL's dev set. MIRACL's training set is divided into "dev" (695 questions, by
    the SHA-256 of a seed and the qid, as in "scifact") and "train" (2,782).

    Args:
        pool: The passages: all of them (None); those that occur in the judgements of the test split, which the paper
            ranks ("judged"); or those in the judgements of the dev split ("judged-dev"), to choose alphas on. A pool
            has only the split that it is made from.
        download: Consent to download the corpus (1.1 GB).

    Raises:
        ValueError: There is no such pool.
    """
    if pool is not None and pool not in POOLS:
        raise ValueError(f"miracl-ja has no pool {pool!r}; it has {', '.join(POOLS)}, and None for the whole corpus")
    from ir_measures import R, nDCG

    source = IrdsSource(name="miracl-ja", corpus=CORPUS, files="v1.0/ja/corpus", download=download)
    part = f" (only those judged for the {POOLS[pool]} questions)" if pool else ""
    return MiraclCollection(
        name="miracl-ja",
        title=f"questions -> passages of the Japanese Wikipedia{part}",
        language="ja",
        domain="Japanese",
        task="Given a question, retrieve Wikipedia passages that answer the question",
        splits=(POOLS[pool],) if pool else tuple(SOURCE_SPLITS),
        measures=(nDCG @ 10, R @ 100),
        licence="Apache-2.0; passages CC BY-SA 3.0 (Wikipedia)",
        citation="Zhang et al.: MIRACL: A Multilingual Retrieval Dataset Covering 18 Diverse Languages. TACL 2023",
        default_domain_model="stabilityai/japanese-stablelm-base-gamma-7b",
        download_bytes=source.download_bytes,
        judged_pool=pool is not None,
        evaluation="The test split is MIRACL's dev set. The paper ranks only passages that occur in its judgements: "
        "pool='judged'.",
        source=source,
    )


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class MiraclCollection(SourcedCollection):
    """The collection that ``miracl_ja`` makes."""

    @property
    def num_docs(self) -> int:
        """Number of passages."""
        return len(self._pool) if self.judged_pool else self.source.num_docs()

    @property
    def document_fields(self) -> tuple[str, ...]:
        """Names of the fields that documents have besides ``docno``."""
        return "title", "text"

    def documents_of(self, docnos: Collection[str]) -> Iterator[dict[str, str]]:
        """Look documents up in ir_datasets' document store, or in the pool."""
        return TestCollection.documents_of(self, docnos) if self.judged_pool else super().documents_of(docnos)

    def _documents(self) -> Iterator[dict[str, str]]:
        return map(self._document, self._pool) if self.judged_pool else super()._documents()

    def _document(self, doc: Any) -> dict[str, str]:
        return {"docno": doc.doc_id, "title": doc.title, "text": doc.default_text().strip()}

    def _form(self) -> tuple[str, ...]:
        return "title text", *(self.splits if self.judged_pool else ())

    def _further_files(self) -> tuple[str, ...]:
        parts = set(SOURCE_SPLITS.values())
        return tuple(f"v1.0/ja/{part}/{kind}" for part in parts for kind in ("topics", "qrels"))

    def _topics(self, split: str) -> pd.DataFrame:
        return self._part(split, self._all_topics(SOURCE_SPLITS[split]))

    def _qrels(self, split: str) -> pd.DataFrame:
        source = SOURCE_SPLITS[split]
        return self._part(split, self.source.qrels(f"{CORPUS}/{source}", f"v1.0/ja/{source}/qrels"))

    def _all_topics(self, source: str) -> pd.DataFrame:
        topics = self.source.queries(f"{CORPUS}/{source}", f"v1.0/ja/{source}/topics")
        return topics.rename(columns={"text": "query"})

    def _part(self, split: str, frame: pd.DataFrame) -> pd.DataFrame:
        return frame if split == "test" else frame[frame["qid"].isin(self._dev_qids) == (split == "dev")]

    @cached_property
    def _dev_qids(self) -> set[str]:
        return dev_qids(self._all_topics("train")["qid"])

    @cached_property
    def _pool(self) -> list[Any]:
        docnos = set(self.qrels(self.splits[0])["docno"])
        self.source.num_docs()  # builds the document store if it is missing
        found = list(load(CORPUS).docs_store().get_many_iter(sorted(docnos)))
        if lacking := len(docnos) - len(found):
            logger.warning("%s: %d of the %d judged documents are not in the corpus", self.name, lacking, len(docnos))
        return found
