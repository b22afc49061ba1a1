"""NTCIR-15 Data Search: real topics, judgements and English titles; the Japanese collection in the published layout."""

from __future__ import annotations

import bz2
import json
import logging

import pandas as pd
import published
import pyterrier as pt
import pytest
from ir_measures import nDCG

from pyterrier_merge import bm25
from pyterrier_merge.collections import from_frames, get_collection
from pyterrier_merge.collections.ntcir import ntcir15_datasearch_ja, write_run

ENTRIES = [
    {
        "id": "000000700005",
        "url": "https://www.e-stat.go.jp/x",
        "attribution": "e-Stat",
        "title": "家計調査",
        "description": "紅茶の支出",
        "data_fields": {"調査名": "家計調査", "公開年": 2019, "空": ""},
        "data": [{"data_filename": "x.xls"}],
    },
    {"id": "000000700025", "title": "人口", "description": None, "data_fields": {}, "data": []},
]


@pytest.fixture
def japanese(tmp_path):
    topics = {
        "train": {"DS1-J-0001": "関西 紅茶 消費", "DS1-J-0002": "人口"},
        "test": {"DS1-J-1001": "人口 割合"},
    }
    qrels = {"train": [("DS1-J-0001", "000000700005", 2), ("DS1-J-0001", "000000700025", 0)]}
    return published.write_ntcir(tmp_path, "j", ENTRIES, topics, qrels)


def test_the_published_layout(japanese, caplog):
    collection = ntcir15_datasearch_ja(japanese)
    assert list(collection.corpus_iter()) == [
        {
            "docno": "000000700005",
            "title": "家計調査",
            "url": "https://www.e-stat.go.jp/x",
            "text": "家計調査\n紅茶の支出\n家計調査\n2019",
        },
        {"docno": "000000700025", "title": "人口", "text": "人口"},
    ]
    assert (collection.num_docs, collection.language, collection.splits) == (2, "ja", ("train", "test"))
    assert collection.measures[0] == nDCG @ 10
    assert "TITLES" not in collection.title
    with caplog.at_level(logging.WARNING):
        assert collection.qrels("train")["label"].tolist() == [2, 0]
    assert caplog.messages == ["ntcir15-datasearch-ja: 1 of the 2 topics of 'train' have no judgement"]
    assert collection.topics("test").to_dict("records") == [{"qid": "DS1-J-1001", "query": "人口 割合"}]


def test_official_test_judgements_are_read_when_they_are_there(japanese):
    collection = ntcir15_datasearch_ja(japanese)
    with pytest.raises(FileNotFoundError, match=r"there is no data_search_j_test_qrels\.txt in .*huggingface"):
        collection.qrels("test")
    (japanese / "data_search_j_test_qrels.txt").write_text("DS1-J-1001 000000700025 L1\n")
    assert collection.qrels("test")["label"].tolist() == [1]


def test_wrong_files(japanese, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"ntcir15-datasearch-ja: there is no folder .*nowhere"):
        get_collection("ntcir15-datasearch-ja", path=str(tmp_path / "nowhere"))
    with pytest.raises(FileNotFoundError, match=r"has no data_search_e_collection\.jsonl\.bz2; it is at https"):
        next(get_collection("ntcir15-datasearch-en", path=str(tmp_path)).corpus_iter())
    (japanese / "data_search_j_train_qrels.txt").write_text("DS1-J-0001 000000700005 L4\n")
    with pytest.raises(ValueError, match=r"qrels\.txt, line 1: unknown grade 'L4'; there are L0, L1, L2"):
        ntcir15_datasearch_ja(japanese).qrels("train")
    (japanese / "data_search_j_collection.jsonl.bz2").write_bytes(b"BZh9 and no more")
    with pytest.raises(ValueError, match=r"collection\.jsonl\.bz2: truncated or damaged"):
        next(ntcir15_datasearch_ja(japanese).corpus_iter())
    for line, message in (
        ({"id": 7, "title": "x"}, "line 1: expected strings 'id' and 'title', found 7 and 'x'"),
        ({"id": "7", "title": "x", "data_fields": [1]}, "line 1: expected an object 'data_fields'"),
    ):
        (japanese / "data_search_j_collection.jsonl.bz2").write_bytes(bz2.compress(json.dumps(line).encode()))
        with pytest.raises(ValueError, match=message):
            next(ntcir15_datasearch_ja(japanese).corpus_iter())


def test_judgements_out_of_reach_do_not_end_a_pass_over_the_documents(monkeypatch, japanese):
    """They are only counted when the last document has come, which may be hours after the first."""

    def fetch(_dataset, file, **_):
        if "qrels" in file:
            raise OSError("no network")
        return str(japanese / file)

    monkeypatch.setattr("huggingface_hub.hf_hub_download", fetch)
    assert len(list(ntcir15_datasearch_ja(download=True).corpus_iter())) == 2


def test_nothing_large_is_fetched_without_a_yes(monkeypatch, tmp_path):
    monkeypatch.delenv("PYTERRIER_MERGE_DOWNLOAD", raising=False)
    monkeypatch.setattr("huggingface_hub.hf_hub_download", lambda *_, **__: pytest.fail("a download began"))
    with pytest.raises(RuntimeError, match=r"needs data_search_j_collection.* which this machine lacks") as caught:
        next(ntcir15_datasearch_ja().corpus_iter())
    for part in ("https://huggingface.co/datasets/mpkato/ntcir_data_search", "download=True", "=1", "hub"):
        assert part in str(caught.value)


def test_small_files_and_what_is_allowed_come_from_the_hub(monkeypatch, japanese):
    asked = []

    def fetch(dataset, file, *, repo_type, **_):
        asked.append((dataset, file, repo_type))
        return str(japanese / file)

    monkeypatch.setattr("huggingface_hub.hf_hub_download", fetch)
    assert len(ntcir15_datasearch_ja().topics("train")) == 2
    assert ntcir15_datasearch_ja(download=True).num_docs == 2
    monkeypatch.setenv("PYTERRIER_MERGE_DOWNLOAD", "1")
    assert len(list(ntcir15_datasearch_ja().corpus_iter())) == 2
    assert asked[:2] == [
        ("mpkato/ntcir_data_search", "data_search_j_train_topics.tsv", "dataset"),
        ("mpkato/ntcir_data_search", "data_search_j_collection.jsonl.bz2", "dataset"),
    ]


def test_real_topics_and_judgements(shared):
    for language, train in (("en", 2_008), ("ja", 2_035)):
        collection = get_collection(f"ntcir15-datasearch-{language}", path=str(shared / "ntcir15_data_search"))
        assert [len(collection.topics(split)) for split in collection.splits] == [96, 96]
        qrels = collection.qrels("train")
        assert len(qrels) == train
        assert set(qrels["label"]) == {0, 1, 2}


def test_real_titles(shared):
    """BM25 over the titles that were judged: the whole file takes longer than a test should."""
    whole = get_collection("ntcir15-datasearch-en", path=str(shared / "ntcir15_data_search"))
    assert "TITLES ONLY" in whole.title
    qrels = whole.qrels("train")
    judged = set(qrels["docno"])
    docs = [doc for doc in whole.corpus_iter() if doc["docno"] in judged]
    assert whole.num_docs == 46_615
    part = from_frames("titles", docs, whole.topics("train"), qrels)
    table = pt.Experiment([bm25(part)], part.topics("test"), part.qrels("test"), [nDCG @ 10])
    assert 0.2 < table["nDCG@10"][0] < 0.9


def test_run_files(tmp_path):
    run = pd.DataFrame({"qid": "DS1-J-1001", "docno": ["a", "b"], "rank": [0, 1], "score": [2.5, 1.0]})
    write_run(run, tmp_path / "TOKYO-J-1", description="a merged encoder")
    assert (tmp_path / "TOKYO-J-1").read_text().splitlines() == [
        "<SYSDESC>a merged encoder\tN,Y,N,N</SYSDESC>",
        "DS1-J-1001 0 a 1 2.500000 TOKYO-J-1",
        "DS1-J-1001 0 b 2 1.000000 TOKYO-J-1",
    ]
    with pytest.raises(ValueError, match="expected a description in one line without tabs"):
        write_run(run, tmp_path / "x", description="a\tb")
    with pytest.raises(ValueError, match="such as 'N,Y,N,N', found 'x' and 'Y'"):
        write_run(run, tmp_path / "x", description="x", kind="Y")
    with pytest.raises(ValueError, match="no white space in it: 'a b'"):
        write_run(run, tmp_path / "a b", description="x")
