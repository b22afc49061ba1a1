"""The kind ``bm25``."""

from pyterrier_merge import bm25


def test_it_finds_what_the_public_function_finds(make_bench, small_collection):
    bench = make_bench({"BM25": {"kind": "bm25", "k1": 0.9, "b": 0.4}})
    by_hand = bm25(small_collection, k1=0.9, b=0.4, num_results=20)(small_collection.topics("test"))
    found = bench.results("BM25", "test")
    key = ["qid", "docno"]
    joined = found.merge(by_hand, on=key)
    assert len(joined) == len(found) == len(by_hand)
    assert joined["score_x"].tolist() == joined["score_y"].tolist()
    [prepared] = bench.systems["BM25"].prepare(bench)
    assert prepared.notes == ("BM25 (PISA), k1 0.9, b 0.4.",)
    assert (prepared.encoder, prepared.labels, bench.trials("BM25")) == (None, frozenset(), 1)


def test_other_settings_are_another_system(make_bench):
    bench = make_bench({"one": {"kind": "bm25"}, "other": {"kind": "bm25", "k1": 0}})
    assert bench.prepared("one").identity != bench.prepared("other").identity
    assert not bench.results("one", "test").equals(bench.results("other", "test"))
