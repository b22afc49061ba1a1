"""text_loader: what corpus_iter yields, put into results."""

from __future__ import annotations

import pandas as pd
import pyterrier as pt
import pytest

from pyterrier_merge import bm25
from pyterrier_merge.collections import from_folder, from_frames, get_collection
from pyterrier_merge.collections.pool import pooled
from pyterrier_merge.collections.provider import CollectionDataset
from pyterrier_merge.collections.text_loader import TextLoader

DOCS = [
    {"docno": "d1", "title": "Cats", "text": "Cats purr"},
    {"docno": "d2", "title": "", "text": "dogs"},
    {"docno": "d3", "title": "Cows", "text": "Cows \ud800"},
]
TOPICS = pd.DataFrame({"qid": ["1"], "query": ["cat"]})
QRELS = pd.DataFrame({"qid": ["1"], "docno": ["d1"], "label": [1]})


@pytest.fixture
def collection():
    return from_frames("pets", DOCS, TOPICS, QRELS)


def test_fields_are_those_of_the_documents_row_by_row(collection):
    given = pd.DataFrame({"docno": ["d3", "d1", "d3"], "score": [3.0, 2.0, 1.0], "text": "old"}, index=[5, 6, 7])
    found = collection.text_loader()(given)
    assert found.columns.tolist() == ["docno", "score", "title", "text"]
    assert found["text"].tolist() == ["Cows \ud800", "Cats purr", "Cows \ud800"]
    assert found["title"].tolist() == ["Cows", "Cats", "Cows"]
    assert found["score"].tolist() == [3.0, 2.0, 1.0]
    assert found.index.tolist() == [5, 6, 7]
    assert given["text"].tolist() == ["old"] * 3


@pytest.mark.parametrize("fields", ["text", ["text"], ("text",)])
def test_fields_by_name(collection, fields):
    assert collection.text_loader(fields)(pd.DataFrame({"docno": ["d2"]})).values.tolist() == [["d2", "dogs"]]


def test_an_unknown_field_is_named(collection):
    with pytest.raises(ValueError, match="documents of pets have no 'url'; they have title, text"):
        collection.text_loader(["text", "url"])


def test_missing_documents_are_named(collection):
    given = pd.DataFrame({"docno": ["d1", "x", "y", "x", "z", "w"]})
    with pytest.raises(ValueError, match=r"4 of 5 documents are not in pets: 'x', 'y', 'z' \.\.\.; load the texts"):
        collection.text_loader()(given)
    with pytest.raises(ValueError, match="1 of 1 documents are not in pets: 'x'; load"):
        collection.text_loader()(given[1:2])


def test_no_field_takes_the_place_of_a_result_unless_it_is_asked_for():
    docs = [{"docno": "d", "text": "t", "score": "9", "query": "q"}, {"docno": "e", "text": "u", "url": "v"}]
    collection = from_frames("odd", docs, TOPICS, QRELS)
    given = pd.DataFrame({"qid": "1", "query": "cat", "docno": ["d", "e"], "score": [2.0, 1.0]})
    found = collection.text_loader()(given)
    assert found.to_dict("list") == {**given.to_dict("list"), "text": ["t", "u"], "url": ["", "v"]}
    assert collection.text_loader("score")(given)["score"].tolist() == ["9", ""]


def test_a_folder_is_read_in_one_pass_that_ends_with_the_last_that_is_asked_for(tmp_path):
    (tmp_path / "docs.tsv").write_text("docno\turl\ttext\nd1\tu\tone\nd2\tv\ttwo\nrubbish\n")
    (tmp_path / "topics.tsv").write_text("1\tone\n")
    (tmp_path / "qrels.txt").write_text("1 0 d1 1\n")
    collection = from_folder(tmp_path)
    found = collection.text_loader()(pd.DataFrame({"docno": ["d2", "d1"]}))
    assert found.values.tolist() == [["d2", "v", "two"], ["d1", "u", "one"]]
    with pytest.raises(ValueError, match="line 4: "):
        collection.text_loader()(pd.DataFrame({"docno": ["d3"]}))


@pytest.mark.parametrize("name", ["irds:beir/scifact", "scifact", "hpo"])
def test_texts_are_those_of_the_corpus(name, scifact_home, monkeypatch):
    collection = get_collection(name)
    documents = list(collection.corpus_iter())[::-7]
    if name != "hpo":  # looked up in ir_datasets' document store
        monkeypatch.setattr(type(collection), "_documents", lambda _: pytest.fail("all documents were read"))
        monkeypatch.setattr("pyterrier_merge.collections.reading.irds_source.LOOKED_UP", 100)
    found = collection.text_loader()(pd.DataFrame({"docno": [doc["docno"] for doc in documents]}))
    assert found.to_dict("records") == documents
    with pytest.raises(ValueError, match=r"2 of 2 documents are not in .*: 'nowhere', '0'; load"):
        collection.text_loader()(pd.DataFrame({"docno": ["nowhere", "0"]}))


def test_candidates_have_the_same_texts(reranking_collection):
    given = reranking_collection.candidates("test")
    found = reranking_collection.text_loader("text")(given.drop(columns="text"))
    assert found["text"].tolist() == given["text"].tolist()


def test_a_pool_has_its_own_documents_alone(small_collection):
    pool = pooled(small_collection, "dev", [], depth=1)
    texts = {doc["docno"]: doc["text"] for doc in small_collection.corpus_iter()}
    assert pool.text_loader()(pd.DataFrame({"docno": ["d3"]}))["text"].tolist() == [texts["d3"]]
    with pytest.raises(ValueError, match="1 of 2 documents are not in small: 'd29'"):
        pool.text_loader()(pd.DataFrame({"docno": ["d3", "d29"]}))


def test_pyterriers_own_ways(collection):
    dataset = CollectionDataset(collection)
    for loader in (dataset.text_loader(), pt.text.get_text(dataset), pt.text.get_text(collection, ["title", "text"])):
        assert loader == collection.text_loader()
        assert hash(loader) == hash(collection.text_loader())
    assert collection.text_loader("text") != collection.text_loader()
    other = from_frames("pets", DOCS[:1], TOPICS, QRELS)
    assert other.text_loader() != collection.text_loader()
    assert "title" in pt.get_dataset("merge:scifact").text_loader().fields


def test_an_empty_frame_reads_nothing(collection, monkeypatch):
    loader = collection.text_loader()
    monkeypatch.setattr(type(collection), "documents_of", lambda *_: pytest.fail("documents were read"))
    assert loader(pd.DataFrame(columns=["qid", "docno"])).columns.tolist() == ["qid", "docno", "title", "text"]


@pytest.mark.parametrize("name", ["irds:beir/nq", "miracl-ja", "jqara", "trec-cds-2014", "trec-pm-2017"])
def test_inspection_downloads_nothing(name, irds_home, monkeypatch):
    monkeypatch.setattr("ir_datasets.util.RequestsDownload.stream", lambda _: pytest.fail("a download began"))
    outputs = pt.inspect.transformer_outputs(get_collection(name).text_loader(), ["docno"])
    assert outputs[0] == "docno"
    assert "text" in outputs


def test_a_cutoff_comes_before_the_texts(collection):
    pipeline = (bm25(collection) >> collection.text_loader() % 1).compile()
    assert pipeline == bm25(collection, num_results=1) >> collection.text_loader()
    assert pipeline(TOPICS)["text"].tolist() == ["Cats purr"]


LoaderCase = pt.testing.transformer_test_class(lambda: TextLoader(from_frames("pets", DOCS, TOPICS, QRELS)))
