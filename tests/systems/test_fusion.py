"""The kind ``fusion``: reciprocal ranks and linear mixtures, computed by hand."""

import dataclasses

import pandas as pd
import pyterrier as pt
import pytest
from pyterrier.measures import RR

from pyterrier_merge.collections import from_frames
from pyterrier_merge.experiment.assembling import compared
from pyterrier_merge.systems import read_system
from pyterrier_merge.systems.fusion import MIXTURES, fuse_linear


@pytest.fixture
def runs(results):
    """Query 1: one system has a, b, c; the other c, a. Query 2: the first alone has results."""
    one = results(q1={"a": 9.0, "b": 6.0, "c": 3.0}, q2={"a": 5.0, "b": 4.0}, q3={"c": 2.0, "d": 1.0}, q4={"c": 1.0})
    other = results(q1={"c": 0.8, "a": 0.2}, q3={"d": 1.0, "c": 0.5}, q4={"d": 1.0, "c": 0.4})
    return {"one": one, "other": other}


def scores(found, qid):
    own = found[found["qid"] == qid]
    return dict(zip(own["docno"], own["score"], strict=True))


def test_reciprocal_ranks(make_bench, three, runs):
    bench = make_bench({**runs, "both": {"kind": "fusion", "of": ["one", "other"], "k": 10}}, three)
    found = bench.results("both", "test")
    assert scores(found, "1") == pytest.approx({"a": 1 / 11 + 1 / 12, "c": 1 / 13 + 1 / 11, "b": 1 / 12})
    assert found.loc[found["qid"] == "1", "docno"].tolist() == ["a", "c", "b"]
    assert scores(found, "2") == pytest.approx({"a": 1 / 11, "b": 1 / 12})
    prepared = bench.prepared("both")
    assert prepared.notes == ("Reciprocal rank fusion (k = 10) of one, other.",)
    assert (prepared.label, prepared.labels) == ("", None)  # of frames nobody knows what they used


def test_a_linear_mixture_as_given(make_bench, three, runs):
    section = {"kind": "fusion", "of": ["one", "other"], "method": "linear", "weights": [1, 2]}
    bench = make_bench({**runs, "both": section}, three)
    # one: (9, 6, 3) becomes (1, .5, 0); other: (.8, .2) becomes (1, 0)
    assert scores(bench.results("both", "test"), "1") == pytest.approx({"a": 1, "b": 0.5, "c": 2})
    assert scores(bench.results("both", "test"), "2") == pytest.approx({"a": 1, "b": 0})
    assert bench.prepared("both").label == "(1, 2)"
    assert bench.prepared("both").notes == ("Linear fusion of one, other with weights (1, 2), as given.",)


def test_results_of_one_score_are_all_the_best(results):
    """A single result, or several of one score: there is nothing to scale by."""
    found = fuse_linear([results(q1={"a": 7.0}), results(q1={"b": 3.0, "c": 3.0})], [1, 1], 10)
    assert scores(found, "1") == {"a": 1, "b": 1, "c": 1}
    assert found["docno"].tolist() == ["a", "b", "c"]  # equal scores go by docno


def test_the_weight_is_chosen_on_dev(make_bench, three, runs):
    """Dev query 3 wants c, which "one" has first; query 4 wants d, which "other" alone has."""
    bench = make_bench({**runs, "both": {"kind": "fusion", "of": ["one", "other"], "method": "linear"}}, three)
    prepared = bench.prepared("both")
    by_hand = {}
    for weight in MIXTURES:
        # query 3: one (c 1, d 0), other (d 1, c 0); query 4: one (c 1), other (d 1, c 0); ties: the larger docno first
        rank_3 = 1 if weight > 0.5 else 2
        rank_4 = 1 if weight <= 0.5 else 2
        by_hand[weight] = (1 / rank_3 + 1 / rank_4) / 2
    best = max(by_hand.values())
    chosen = min((weight for weight in MIXTURES if by_hand[weight] == best), key=lambda weight: abs(weight - 0.5))
    assert prepared.label == f"({chosen:g}, {1 - chosen:g})"
    assert prepared.notes == (
        f"Linear fusion of one, other with weights ({chosen:g}, {1 - chosen:g}), chosen on 2 dev queries.",
    )
    assert prepared.labels is None  # the parts are frames


def test_queries_whose_judgements_are_free_count_too(make_bench, three, runs):
    free = dataclasses.replace(three, labelled=False)
    bench = make_bench({**runs, "both": {"kind": "fusion", "of": ["one", "other"], "method": "linear"}}, free)
    assert bench.prepared("both").notes[0].endswith("chosen on 2 dev queries.")


def test_labels_of_the_parts_count(make_bench, small_collection, bert_retriever, bert_language_model):
    merged = {
        "kind": "merged", "source": str(bert_retriever), "domain": str(bert_language_model), "dtype": "float32",
        "sweep": {"grid": [[0.5, 1]]},
    }  # fmt: skip
    systems = {"BM25": {"kind": "bm25"}, "merged": merged, "both": {"kind": "fusion", "of": ["BM25", "merged"]}}
    bench = make_bench(systems)
    assert bench.num_labels("both") == len(small_collection.topics("dev")) == 10


def test_more_results_than_asked_for_are_cut(make_bench, three, runs):
    bench = make_bench(
        {**runs, "both": {"kind": "fusion", "of": ["one", "other"]}}, three, num_results=2, measures=[RR @ 2]
    )
    assert bench.results("both", "test").groupby("qid").size().tolist() == [2, 2]


def test_a_fusion_of_a_fusion(make_bench, three, runs):
    systems = {
        **runs,
        "inner": {"kind": "fusion", "of": ["one", "other"]},
        "outer": {"kind": "fusion", "of": ["inner", "one"], "k": 1},
    }
    found = make_bench(systems, three).results("outer", "test")
    assert scores(found, "1") == pytest.approx({"a": 1 / 2 + 1 / 2, "c": 1 / 3 + 1 / 4, "b": 1 / 4 + 1 / 3})


def with_dev(collection, qids):
    """The collection with these test queries among those of dev."""
    topics, qrels = (
        {"dev": pd.concat([of("dev"), of("test")[of("test")["qid"].isin(qids)]]), "test": of("test")}
        for of in (collection.topics, collection.qrels)
    )
    return from_frames("leaking", collection.corpus_iter(), topics, qrels)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"split": "test"}, "split: nothing can be chosen on 'test', which the tables are computed on"),
        ({"split": "valid"}, "split: leaking has no split 'valid' to choose on; it has dev, test"),
        ({}, r"split: 1 of 3 dev queries are test queries too \(such as qid '2'\)"),
        ({"metric": "R@50"}, "R@50 looks deeper than num_results, 20"),
        ({"metric": "P(rel=2)@5"}, r"P\(rel=2\)@5 would be 0 for every query: it needs judgements with a label of 2"),
    ],
)
def test_what_cannot_be_chosen_on_is_refused_before_any_work(make_bench, three, runs, change, message):
    collection = with_dev(three, [] if "metric" in change else ["2"])
    section = {"kind": "fusion", "of": ["one", "other"], "method": "linear", **change}
    with pytest.raises(ValueError, match=message):
        make_bench({**runs, "both": section}, collection).check()


@pytest.mark.parametrize(
    ("section", "message"),
    [
        ({"method": "linear", "k": 10}, "^linear does not use k: leave out what does not apply$"),
        ({"split": "valid"}, "^rrf does not use split: "),
        ({"method": "linear", "weights": [1, 1], "metric": "AP"}, "^linear with given weights does not use metric: "),
        (
            {"method": "linear", "weights": [1, 1], "k": 1, "split": "train"},
            "^linear with given .* does not use k, split: ",
        ),
    ],
)
def test_fields_that_do_not_apply_are_refused(section, message):
    with pytest.raises(ValueError, match=message):
        read_system({"kind": "fusion", "of": ["one", "other"], **section})


def test_given_weights_need_no_dev(make_bench, three, runs):
    section = {"kind": "fusion", "of": ["one", "other"], "method": "linear", "weights": [1, 1]}
    make_bench({**runs, "both": section}, with_dev(three, ["2"])).check()


@pytest.mark.parametrize("order", [("picky", "fused"), ("fused", "picky")])
def test_a_system_that_answers_no_dev_query_is_still_compared(make_bench, three, runs, order):
    def answer(topics):
        if (topics["qid"] == "3").any():
            raise ValueError("dev queries are too hard")
        return runs["one"][runs["one"]["qid"].isin(topics["qid"])]

    systems = {
        "one": runs["one"],
        "picky": pt.apply.generic(answer),
        "fused": {"kind": "fusion", "of": ["one", "picky"], "method": "linear"},
    }
    bench = make_bench({name: systems[name] for name in ("one", *order)}, three)
    found = compared(bench, [])
    assert found.table["name"].tolist() == ["one", "picky"]
    assert list(found.failed) == ["fused"]
    assert "dev queries are too hard" in found.failed["fused"]
