"""A small part of HPO with all of its splits: what a reduced run searches."""

from __future__ import annotations

from itertools import islice

from pyterrier_merge import TestCollection, from_frames, get_collection

TestCollection.__test__ = False


def small_hpo(queries: int = 60, others: int = 150) -> TestCollection:
    """Return the relevant documents of so many queries a split, and so many other documents."""
    whole = get_collection("hpo")
    topics = {split: whole.topics(split).head(queries) for split in ("train", "dev", "test")}
    qrels = {
        split: whole.qrels(split).query("qid in @some.qid", local_dict={"some": some}) for split, some in topics.items()
    }
    wanted = set().union(*(found["docno"] for found in qrels.values()))
    relevant = [doc for doc in whole.corpus_iter() if doc["docno"] in wanted]
    further = islice((doc for doc in whole.corpus_iter() if doc["docno"] not in wanted), others)
    return from_frames("hpo-part", [*relevant, *further], topics, qrels)
