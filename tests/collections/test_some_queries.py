"""A collection with some of its queries."""

import pytest

from pyterrier_merge.collections.pool import pooled
from pyterrier_merge.collections.some_queries import with_queries


def test_queries_and_judgements_are_cut_and_documents_stay(small_collection):
    part = with_queries(small_collection, "dev", ["dev-d3", "dev-d1"])
    assert part.splits == ("dev",)
    assert part.topics("dev")["qid"].tolist() == ["dev-d1", "dev-d3"]
    assert part.qrels("dev")["docno"].tolist() == ["d1", "d3"]
    assert list(part.corpus_iter()) == list(small_collection.corpus_iter())
    assert (part.num_docs, part.name, part.fingerprint, part.origin) == (
        small_collection.num_docs, small_collection.name, small_collection.fingerprint, small_collection.origin
    )  # fmt: skip
    assert part.label_names("dev", ["dev-d1"]) == {"small/dev/dev-d1"}
    with pytest.raises(ValueError, match="no split 'test'"):
        part.topics("test")


def test_a_pool_of_it_has_its_judged_documents_alone(small_collection):
    part = with_queries(small_collection, "dev", ["dev-d3", "dev-d1"])
    assert {doc["docno"] for doc in pooled(part, "dev", [], depth=1).corpus_iter()} == {"d1", "d3"}


def test_candidates_are_cut(reranking_collection):
    qid = reranking_collection.topics("dev")["qid"].iloc[2]
    part = with_queries(reranking_collection, "dev", [qid])
    assert set(part.candidates("dev")["qid"]) == {qid}
    assert len(part.candidates("dev")) == 8


def test_unknown_queries_are_refused(small_collection):
    with pytest.raises(ValueError, match="1 qids are not queries of dev, such as 'dev-x'"):
        with_queries(small_collection, "dev", ["dev-x", "dev-d1"])
    with pytest.raises(ValueError, match="no split 'dve'"):
        with_queries(small_collection, "dve", [])
