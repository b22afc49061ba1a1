"""The kind ``rerank``: by hand, over the whole index and over the candidates alone."""

import pyterrier as pt
import pytest

from pyterrier_merge import E5Encoder
from pyterrier_merge.encoding.merged import MergedE5Encoder
from pyterrier_merge.systems import read_system


@pytest.fixture
def source(bert_retriever):
    return {"kind": "encoder", "model": str(bert_retriever), "dtype": "float32"}


@pytest.fixture
def merged(bert_retriever, bert_language_model):
    models = {"source": str(bert_retriever), "domain": str(bert_language_model)}
    return {"kind": "merged", **models, "alpha_lower": 0.5, "alpha_upper": 1, "dtype": "float32"}


FIRST = {"q1": {"c": 3.0, "e": 2.0, "a": 1.0, "b": 0.5}, "q2": {"d": 1.0}}


def by_hand(encoder, collection, qid, docnos):
    """The documents by the inner product of the vectors."""
    query = collection.topics("test").set_index("qid")["query"][qid]
    texts = {doc["docno"]: doc["text"] for doc in collection.corpus_iter()}
    vectors = encoder.encode_docs([texts[docno] for docno in docnos])
    return dict(zip(docnos, (vectors @ encoder.encode_queries([query])[0]).tolist(), strict=True))


@pytest.mark.parametrize("named", [True, False])
@pytest.mark.parametrize("kind", ["encoder", "merged"])
def test_the_first_results_are_scored_by_the_encoder(
    make_bench, three, results, source, merged, named, kind, bert_retriever, bert_language_model
):
    by = source if kind == "encoder" else merged
    systems = {"first": results(**FIRST), "other": by}
    systems["again"] = {"kind": "rerank", "first": "first", "by": "other" if named else by, "depth": 3}
    bench = make_bench(systems, three)
    encoder = E5Encoder(bert_retriever, dtype="float32")
    if kind == "merged":
        encoder = MergedE5Encoder(bert_retriever, bert_language_model, alpha_lower=0.5, alpha_upper=1, dtype="float32")
    found = bench.results("again", "test")
    for qid, docnos in (("1", ["c", "e", "a"]), ("2", ["d"])):
        expected = by_hand(encoder, three, qid, docnos)
        own = found[found["qid"] == qid]
        assert dict(zip(own["docno"], own["score"], strict=True)) == pytest.approx(expected, abs=1e-6)
        assert own["docno"].tolist() == sorted(expected, key=expected.get, reverse=True)
    whose = "the vectors of other" if named else "vectors of its own"
    assert bench.prepared("again").notes[0] == f"The first 3 results of first, scored by {whose}."
    assert bench.prepared("again").encoder is None


def test_an_encoder_of_its_own_encodes_the_candidates_alone_and_once(
    make_bench, three, results, source, monkeypatch, tmp_path
):
    monkeypatch.setenv("PYTERRIER_MERGE_CACHE", str(tmp_path))
    encoded = []
    real = E5Encoder.encode

    def remembered(self, texts, *, kind, **settings):
        texts = list(texts)
        encoded.extend(texts if kind == "document" else ())
        return real(self, texts, kind=kind, **settings)

    monkeypatch.setattr(E5Encoder, "encode", remembered)
    monkeypatch.setattr(type(three), "corpus_iter", lambda *_, **__: pytest.fail("a pass over all documents"))
    first = results(q1={"a": 2.0, "b": 1.0}, q2={"b": 2.0, "d": 1.0}).merge(three.topics("test"), on="qid")
    systems = {"first": pt.Transformer.from_df(first), "again": {"kind": "rerank", "first": "first", "by": source}}
    make_bench(systems, three).runs("again")
    make_bench(systems, three).runs("again")
    assert sorted(encoded) == ["fever", "kidney failure", "liver failure"]
    assert [folder.name.split("-")[0] for folder in (tmp_path / "indexes").iterdir()] == ["three"]


def test_what_its_own_encoder_chose_is_told(make_bench, small_collection, merged):
    sweep = {"grid": [[0.5, 1], [1, 1]], "pool": {"of": ["BM25"], "depth": 5, "judged": False}}
    by = {name: value for name, value in merged.items() if not name.startswith("alpha")} | {"sweep": sweep}
    bench = make_bench({"BM25": {"kind": "bm25"}, "again": {"kind": "rerank", "first": "BM25", "by": by, "depth": 20}})
    bench.check()
    prepared = bench.prepared("again")
    assert prepared.label in ("(0.5, 1)", "(1, 1)")
    assert len(prepared.labels) == 10
    assert {"sweep", "sweep_per_query"} <= set(prepared.tables)
    assert list(prepared.figures) == ["sweep"]
    assert any("dev queries of small" in note for note in prepared.notes)


def test_a_first_stage_without_results_for_a_query(make_bench, three, results, source):
    systems = {"first": results(q1={"a": 1.0}), "again": {"kind": "rerank", "first": "first", "by": source}}
    bench = make_bench(systems | {"again": systems["again"] | {"depth": 5}}, three)
    assert bench.results("again", "test")["qid"].tolist() == ["1"]


def test_only_systems_with_an_encoder_score(make_bench, three, results):
    first = results(**FIRST)
    bench = make_bench({"first": first, "x": {"kind": "rerank", "first": "first", "by": "first", "depth": 5}}, three)
    with pytest.raises(
        ValueError, match="by: the encoder of 'first' is not known; give a system of kind encoder or merged"
    ):
        bench.runs("x")
    with pytest.raises(ValueError, match=r"^by: a system of kind bm25 has no encoder; give one of kind encoder, "):
        read_system({"kind": "rerank", "first": "first", "by": {"kind": "bm25"}})


def test_a_depth_that_no_system_reaches_is_refused(make_bench, three, results, source):
    bench = make_bench(
        {"first": results(**FIRST), "x": {"kind": "rerank", "first": "first", "by": source, "depth": 21}}, three
    )
    with pytest.raises(ValueError, match=r"systems\.x: depth: 21 results are to be scored, and systems have 20 "):
        bench.check()


def test_models_and_systems_of_its_own_encoder_are_looked_up_before_any_work(make_bench, three, results, source):
    wrong = {"kind": "rerank", "first": "first", "by": {**source, "model": "./nowhere"}, "depth": 5}
    with pytest.raises(ValueError, match=r"systems\.x: no model at './nowhere'"):
        make_bench({"first": results(**FIRST), "x": wrong}, three).check()
    sweep = {"pool": {"of": ["BM52"]}}
    by = {"kind": "merged", "source": source["model"], "domain": source["model"], "sweep": sweep}
    with pytest.raises(ValueError, match=r"systems\.x: no system is named 'BM52'"):
        make_bench({"first": results(**FIRST), "x": {"kind": "rerank", "first": "first", "by": by}}, three)


def test_documents_that_the_collection_lacks_are_named(make_bench, three, results, source):
    first = results(q1={"a": 2.0, "zz": 1.0})
    bench = make_bench({"first": first, "x": {"kind": "rerank", "first": "first", "by": source, "depth": 5}}, three)
    with pytest.raises(ValueError, match=r"1 of 2 rows have documents that are not in .*'zz'"):
        bench.runs("x")
