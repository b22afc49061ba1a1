import pandas as pd
import pytest

from pyterrier_merge.collections.pool import documents_alone, pooled


def test_a_pool_holds_the_judged_and_the_first_results(small_collection):
    run = pd.DataFrame({"qid": ["dev-d0"] * 3, "docno": ["d27", "d28", "d29"], "rank": [0, 1, 2]})
    pool = pooled(small_collection, "dev", [run], depth=2)
    docs = list(pool.corpus_iter())
    assert {doc["docno"] for doc in docs} == {f"d{number}" for number in range(10)} | {"d27", "d28"}
    assert pool.num_docs == len(docs) == 12
    assert pool.splits == ("dev",)
    pd.testing.assert_frame_equal(pool.topics("dev"), small_collection.topics("dev"))
    pd.testing.assert_frame_equal(pool.qrels("dev"), small_collection.qrels("dev"))


def test_a_pool_is_another_corpus(small_collection):
    run = pd.DataFrame({"qid": ["dev-d0"], "docno": ["d29"], "rank": [0]})
    fingerprints = {
        small_collection.fingerprint,
        pooled(small_collection, "dev", [], depth=1).fingerprint,
        pooled(small_collection, "dev", [run], depth=1).fingerprint,
    }
    assert len(fingerprints) == 3


def test_a_pool_without_depth_is_refused(small_collection):
    with pytest.raises(ValueError, match="at least 1, found 0"):
        pooled(small_collection, "dev", [], depth=0)
    with pytest.raises(ValueError, match="no split 'train'"):
        pooled(small_collection, "train", [], depth=1)


def test_a_run_of_other_queries_makes_no_pool(small_collection):
    run = pd.DataFrame({"qid": ["test-d10"], "docno": ["d1"], "rank": [0]})
    with pytest.raises(ValueError, match="other queries than those of dev, such as 'test-d10'"):
        pooled(small_collection, "dev", [run], depth=1)


def test_a_pool_of_a_reranking_collection_holds_the_candidates_of_its_split(reranking_collection):
    pool = pooled(reranking_collection, "dev", [], depth=1)
    candidates = reranking_collection.candidates("dev")
    pd.testing.assert_frame_equal(pool.candidates("dev"), candidates)
    assert {doc["docno"] for doc in pool.corpus_iter()} == set(candidates["docno"])
    assert pool.num_docs < reranking_collection.num_docs


def test_a_pool_without_the_judged_documents(small_collection):
    run = pd.DataFrame({"qid": ["dev-d0"] * 2, "docno": ["d28", "d1"], "rank": [0, 1]})
    pool = pooled(small_collection, "dev", [run], depth=2, judged=False)
    assert {doc["docno"] for doc in pool.corpus_iter()} == {"d28", "d1"}
    pd.testing.assert_frame_equal(pool.qrels("dev"), small_collection.qrels("dev"))
    with pytest.raises(ValueError, match="no split 'train'"):
        pooled(small_collection, "train", [run], depth=1, judged=False)


def test_documents_of_a_pool_are_looked_up(small_collection, monkeypatch):
    """Where the source can look documents up, no pass over all of them is needed."""
    asked = []

    def looked_up(_, docnos):
        asked.append(set(docnos))
        return ({"docno": docno, "text": "x"} for docno in sorted(docnos) if docno != "d999")

    monkeypatch.setattr(type(small_collection), "documents_of", looked_up)
    monkeypatch.setattr(type(small_collection), "_documents", lambda _: pytest.fail("a pass over all documents"))
    run = pd.DataFrame({"qid": ["dev-d0"] * 2, "docno": ["d28", "d999"], "rank": [0, 1]})
    pool = pooled(small_collection, "dev", [run], depth=2, judged=False)
    assert [doc["docno"] for doc in pool.corpus_iter()] == ["d28"]
    assert pool.num_docs == 1
    assert asked == [{"d28", "d999"}, {"d28"}]


def test_documents_alone(small_collection):
    part = documents_alone(small_collection, ["d3", "d1", "d999"])
    assert [doc["docno"] for doc in part.corpus_iter()] == ["d1", "d3"]
    assert part.splits == small_collection.splits
    assert part.fingerprint == documents_alone(small_collection, {"d1", "d999", "d3"}).fingerprint
    assert part.fingerprint != small_collection.fingerprint
