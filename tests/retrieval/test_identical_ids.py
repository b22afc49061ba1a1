"""A query's own document in BM25, dense retrieval, sweeps and experiments."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pandas as pd
import pyterrier as pt
import pytest
from pyterrier.measures import RR, nDCG

from pyterrier_merge import E5Encoder, MergedE5Encoder, bm25, compare, dense_retriever, sweep
from pyterrier_merge.collections import from_frames
from pyterrier_merge.experiment import run as room
from pyterrier_merge.experiment.run import run_experiment
from pyterrier_merge.experiment.spec import ExperimentSpec
from pyterrier_merge.retrieval.candidates import GivenCandidates
from pyterrier_merge.retrieval.identical_ids import WithoutIdenticalIds


@pytest.fixture(scope="module")
def arguments(small_collection):
    """The small collection's documents; ten of them in each split are queries whose answer is the next document."""
    docs = list(small_collection.corpus_iter())
    topics, qrels = {}, {}
    for split, first in (("dev", 0), ("test", 10)):
        asked = docs[first : first + 10]
        topics[split] = pd.DataFrame({"qid": [doc["docno"] for doc in asked], "query": [doc["text"] for doc in asked]})
        answers = [doc["docno"] for doc in docs[first + 1 : first + 11]]
        qrels[split] = pd.DataFrame({"qid": topics[split]["qid"], "docno": answers, "label": 1})
    return from_frames("arguments", docs, topics, qrels, ignore_identical_ids=True)


@pytest.fixture
def plain(arguments):
    """The same, the setting off."""
    return dataclasses.replace(arguments, ignore_identical_ids=False)


def systems(kind, encoder, root):
    if kind == "bm25":
        return lambda collection, k: bm25(collection, num_results=k)
    return lambda collection, k: dense_retriever(encoder, collection, num_results=k, root=root)


@pytest.mark.parametrize("kind", ["bm25", "dense"])
@pytest.mark.parametrize("k", [1, 5, 29, 30, 100])
def test_all_results_but_the_querys_own(kind, k, arguments, plain, bert_retriever, tmp_path):
    """By hand: all that the setting off finds, the query's own row cut out, the first k of what is left.

    PISA adds a score's parts up in an order that depends on the depth: the last bits differ.
    """
    make = systems(kind, E5Encoder(bert_retriever, dtype="float32", device="cpu"), tmp_path)
    topics = arguments.topics("test")
    everything, found = make(plain, 30)(topics), make(arguments, k)(topics)
    for qid, rows in everything.groupby("qid"):
        assert qid in set(rows["docno"])
        expected = rows[rows["docno"] != qid].head(k)
        got = found[found["qid"] == qid]
        assert qid not in set(got["docno"])
        assert got["score"].tolist() == pytest.approx(expected["score"].tolist())
        assert got["score"].tolist() == pytest.approx(rows.set_index("docno")["score"][got["docno"]].tolist())
        assert got["rank"].tolist() == list(range(len(expected)))
    assert set(found.columns) == set(everything.columns)


@pytest.mark.parametrize("kind", ["bm25", "dense"])
def test_the_setting_is_part_of_identity_and_cutoffs_reach_the_search(kind, arguments, plain, bert_retriever, tmp_path):
    make = systems(kind, E5Encoder(bert_retriever, dtype="float32", device="cpu"), tmp_path)
    assert make(arguments, 5) != make(plain, 5)
    assert make(arguments, 5) == make(arguments, 5)
    assert hash(make(arguments, 5)) == hash(make(arguments, 5))
    assert (make(arguments, 20) % 5).compile() == make(arguments, 5).compile()
    assert (make(arguments, 5) % 20).compile() == make(arguments, 5).compile()
    topics = arguments.topics("dev")
    cut, few = (make(arguments, 20) % 5)(topics), make(arguments, 5)(topics)
    assert cut[["qid", "rank"]].equals(few[["qid", "rank"]])
    np.testing.assert_allclose(cut["score"], few["score"], rtol=1e-6)
    columns = pt.inspect.transformer_outputs(make(arguments, 5), ["qid", "query"])
    assert columns == pt.inspect.transformer_outputs(make(plain, 5), ["qid", "query"])


def test_results_of_equal_score_are_cut_by_docno(words):
    """Five documents of one text; the query is the third of them."""
    docs = [{"docno": docno, "text": "heart rate"} for docno in "abcde"] + [{"docno": "f", "text": "pain"}]
    topics = pd.DataFrame({"qid": ["c"], "query": ["heart rate"]})
    qrels = topics.assign(docno="a", label=1)
    collection = from_frames("tied", docs, topics, qrels, ignore_identical_ids=True)
    for k in (1, 2, 3, 4, 5):
        found = bm25(collection, num_results=k)(topics)
        assert found["docno"].tolist() == list("abde")[:k]
        assert found["rank"].tolist() == list(range(min(k, 4)))


def test_nothing_is_dropped_where_it_is_off(plain, bert_retriever, tmp_path):
    """Numbers that topics and documents share by chance, as in MS MARCO."""
    topics = plain.topics("test")
    for kind in ("bm25", "dense"):
        make = systems(kind, E5Encoder(bert_retriever, dtype="float32", device="cpu"), tmp_path)
        found = make(plain, 30)(topics)
        assert (found["qid"] == found["docno"]).sum() == len(topics)


def test_candidates_lack_it(reranking_collection, bert_retriever, tmp_path):
    """Of a re-ranking collection: what is given to be ranked is one document less."""
    own = reranking_collection.topics("test")["qid"][0]
    given = reranking_collection.candidates("test")
    docno = given[given["qid"] == own]["docno"].iloc[3]
    renamed = given.assign(qid=given["qid"].replace(own, docno))

    def changed(*, ignored):
        collection = dataclasses.replace(reranking_collection, ignore_identical_ids=ignored, splits=("test",))
        object.__setattr__(collection, "_candidates", lambda _split: renamed)
        return collection

    topics = pd.DataFrame({"qid": [docno], "query": ["kidney failure"]})
    for ignored in (True, False):
        collection = changed(ignored=ignored)
        encoder = E5Encoder(bert_retriever, dtype="float32", device="cpu")
        for system in (bm25(collection), dense_retriever(encoder, collection, root=tmp_path)):
            found = system(topics)
            assert len(found) == 8 - ignored
            assert (docno in set(found["docno"])) is not ignored
            assert found["rank"].tolist() == list(range(8 - ignored))
    assert GivenCandidates(changed(ignored=True)) != GivenCandidates(changed(ignored=False))


def test_a_pipeline_by_hand(arguments, bert_retriever, tmp_path):
    encoder = E5Encoder(bert_retriever, dtype="float32", device="cpu")
    pipeline = dense_retriever(encoder, arguments, num_results=5, root=tmp_path)
    by_hand = bm25(dataclasses.replace(arguments, ignore_identical_ids=False), num_results=6) >> WithoutIdenticalIds(5)
    topics = arguments.topics("dev")
    pd.testing.assert_frame_equal(by_hand(topics), bm25(arguments, num_results=5)(topics))
    assert list(pipeline)[-1] == WithoutIdenticalIds(5)


def test_the_stage_alone():
    stage = WithoutIdenticalIds(2)
    assert repr(stage) == "WithoutIdenticalIds(2)"
    assert stage.fuse_rank_cutoff(2) is stage
    assert stage.fuse_rank_cutoff(0) is None
    assert stage.fuse_rank_cutoff(1) == pt.RankCutoff(2) >> WithoutIdenticalIds(1)
    with pytest.raises(ValueError, match="num_results is at least 1, found 0"):
        WithoutIdenticalIds(0)
    with pytest.raises(pt.validate.InputValidationError):
        stage(pd.DataFrame({"qid": ["1"], "docno": ["2"]}))
    assert stage(pd.DataFrame(columns=["qid", "docno", "rank"])).empty


def test_a_sweep_measures_without_it_and_keeps_both_apart(
    arguments, plain, bert_retriever, bert_language_model, tmp_path
):
    encoder = MergedE5Encoder(
        bert_retriever, bert_language_model, alpha_lower=0.5, alpha_upper=1, dtype="float32", device="cpu"
    )
    tables = {}
    for name, collection in (("off", plain), ("on", arguments)):
        tables[name] = sweep(encoder, collection, grid=[(0.5, 1)], metric=RR, num_results=30, root=tmp_path).table
    topics, docs = arguments.topics("dev"), list(arguments.corpus_iter())
    answers = dict(arguments.qrels("dev")[["qid", "docno"]].values.tolist())
    scores = encoder.encode_queries(list(topics["query"])) @ encoder.encode_docs([doc["text"] for doc in docs]).T
    for name, table in tables.items():
        ranks = []
        for qid, line in zip(topics["qid"], scores, strict=True):
            ranked = [docs[place]["docno"] for place in np.argsort(-line)]
            ranks.append([docno for docno in ranked if name == "off" or docno != qid].index(answers[qid]) + 1)
        assert table["RR"].item() == pytest.approx(np.mean(1 / np.array(ranks)))
    assert tables["on"]["RR"].item() > tables["off"]["RR"].item()


@pytest.fixture
def spec(bert_retriever, bert_language_model, monkeypatch, tmp_path):
    monkeypatch.setenv("PYTERRIER_MERGE_CACHE", str(tmp_path / "cache"))
    content = {
        "name": "tiny",
        "collection": "hpo",
        "systems": {
            "BM25": {"kind": "bm25"},
            "source": {"kind": "encoder", "model": str(bert_retriever), "dtype": "float32"},
            "merged": {
                "kind": "merged",
                "source": str(bert_retriever),
                "domain": str(bert_language_model),
                "dtype": "float32",
                "sweep": {"grid": [[0.5, 1], [1, 1]], "pool": {"of": ["BM25", "source"], "depth": 2}},
            },
        },
        "measures": ["nDCG@10"],
        "num_results": 10,
    }
    return ExperimentSpec.model_validate(content)


def test_an_experiment_measures_without_it_and_says_so(spec, arguments, plain, tmp_path, monkeypatch):
    figures, keys = {}, {}
    for name, collection in (("off", plain), ("on", arguments)):
        monkeypatch.setattr(room, "get_collection", lambda _, collection=collection: collection)
        figures[name] = run_experiment(spec, tmp_path / "run")["hpo"].table.set_index("name")["nDCG@10"]
        notes = (tmp_path / "run" / "runs").glob("*.json")
        keys[name] = {file.name: json.loads(file.read_text())["key"] for file in notes}
        report = (tmp_path / "run" / "report.md").read_text()
        assert ("own document (docno equal to qid) is left out" in report) is (name == "on")
        run = pd.read_csv(tmp_path / "run" / "runs" / "source.test.res.gz", sep=" ", header=None, dtype=str)
        assert (run[0] == run[2]).any() == (name == "off")
        assert run.groupby(0).size().eq(10).all()
    assert keys["on"].keys() == keys["off"].keys()
    assert not set(keys["on"].values()) & set(keys["off"].values())
    topics, qrels = arguments.topics("test"), arguments.qrels("test")
    by_hand = bm25(plain, num_results=11)(topics).query("qid != docno")
    assert figures["on"]["BM25"] == pytest.approx(pt.Evaluate(by_hand, qrels, [nDCG @ 10])["nDCG@10"])
    assert (figures["on"].to_numpy() > figures["off"].to_numpy()).all()


def test_a_run_that_was_made_otherwise_is_measured_without_it(arguments, plain):
    """The safety net: whoever made the run."""
    run = bm25(plain, num_results=30)(arguments.topics("test"))
    own = run[run["qid"] == run["docno"]]
    given = {"all": run, "without": run.query("qid != docno"), "own": own}
    measured = compare(given, arguments, measures=[nDCG @ 10]).table.set_index("name")
    assert measured.loc["all", "nDCG@10"] == measured.loc["without", "nDCG@10"]
    assert measured.loc["own", "nDCG@10"] == 0


StageCase = pt.testing.transformer_test_class(lambda: WithoutIdenticalIds(10))
