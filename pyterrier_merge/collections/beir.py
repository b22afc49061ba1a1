"""SciFact and NFCorpus as BEIR distributes them, read through ``ir_datasets`` (which downloads and caches them)."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Any

import pandas as pd

from pyterrier_merge.collections.base import TestCollection
from pyterrier_merge.collections.reading.irds_source import IrdsSource
from pyterrier_merge.collections.sourced import SourcedCollection

# SciFact has no dev queries: they are this share of the training queries, chosen by the SHA-256 of seed and qid.
DEV_SEED = 42
DEV_SHARE = 0.2


def scifact() -> TestCollection:
    """Return SciFact: claims -> 5,183 abstracts. 647 training, 162 dev (taken from training) and 300 test queries."""
    from ir_measures import AP, RR, R, nDCG

    source = IrdsSource(name="scifact", corpus="beir/scifact", files="scifact")
    return BeirCollection(
        name="scifact",
        title="scientific claims -> abstracts that support or refute them",
        language="en",
        domain="medical",
        task="Given a scientific claim, retrieve documents that support or refute the claim",
        splits=("train", "dev", "test"),
        measures=(nDCG @ 10, R @ 100, AP, RR @ 10),
        licence="claims CC BY-NC 2.0, abstracts ODC-BY 1.0",
        citation="Wadden et al.: Fact or Fiction: Verifying Scientific Claims. EMNLP 2020",
        default_domain_model="BioMistral/BioMistral-7B",
        download_bytes=source.download_bytes,
        source=source,
        source_splits=("train", "test"),
    )


def nfcorpus() -> TestCollection:
    """Return NFCorpus: health questions -> 3,633 medical documents. 2,590 training, 324 dev and 323 test queries."""
    from ir_measures import AP, R, nDCG

    source = IrdsSource(name="nfcorpus", corpus="beir/nfcorpus", files="nfcorpus")
    return BeirCollection(
        name="nfcorpus",
        title="questions about nutrition and health -> medical documents",
        language="en",
        domain="medical",
        task="Given a question, retrieve relevant documents that best answer the question",
        splits=("train", "dev", "test"),
        measures=(nDCG @ 10, R @ 100, AP),
        licence="free for academic use; other use is subject to the terms of NutritionFacts.org and PubMed",
        citation="Boteva et al.: A Full-Text Learning to Rank Dataset for Medical Information Retrieval. ECIR 2016",
        default_domain_model="BioMistral/BioMistral-7B",
        download_bytes=source.download_bytes,
        source=source,
        source_splits=("train", "dev", "test"),
    )


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class BeirCollection(SourcedCollection):
    """A collection of BEIR that ``ir_datasets`` names ``beir/<name>``.

    Attributes:
        source_splits: BEIR's splits. If "dev" is not one of them, it is taken from "train".
    """

    source_splits: tuple[str, ...]

    def _form(self) -> tuple[str, ...]:
        return ("title text",)

    def _document(self, doc: Any) -> dict[str, str]:
        fields = doc._asdict()
        return {"docno": fields.pop("doc_id"), **fields, "text": doc.default_text().strip()}

    def _topics(self, split: str) -> pd.DataFrame:
        return self._part(split, self.source.queries(self._dataset(split)).rename(columns={"text": "query"}))

    def _qrels(self, split: str) -> pd.DataFrame:
        return self._part(split, self.source.qrels(self._dataset(split)))

    def _dataset(self, split: str) -> str:
        return f"beir/{self.name}/{split if split in self.source_splits else 'train'}"

    def _part(self, split: str, frame: pd.DataFrame) -> pd.DataFrame:
        if "dev" in self.source_splits or split == "test":
            return frame
        return frame[frame["qid"].isin(dev_qids(frame["qid"])) == (split == "dev")]


def dev_qids(train_qids: pd.Series[str]) -> set[str]:
    """Return a fifth of the training queries, always the same: the dev split of a collection without one."""
    qids = sorted(set(train_qids), key=lambda qid: hashlib.sha256(f"{DEV_SEED}:{qid}".encode()).hexdigest())
    return set(qids[: round(DEV_SHARE * len(qids))])
