"""SciFact, for real; NFCorpus on a few documents in the layout that ir_datasets caches; and without a network."""

from __future__ import annotations

import dataclasses

import published
import pytest

from pyterrier_merge.collections import get_collection
from pyterrier_merge.collections.beir import nfcorpus

NF_DOCS = [
    {"_id": "MED-1", "title": "Statins", "text": "Statins and cancer.", "metadata": {"url": "http://u/1"}},
    {"_id": "MED-2", "title": "", "text": "No title.", "metadata": {"url": "http://u/2"}},
]
NF_QUERIES = [
    {"_id": f"PLAIN-{n}", "text": text, "metadata": {"url": f"http://q/{n}"}}
    for n, text in ((1, "do statins work?"), (2, "titles"), (3, "cancer"))
]
NF_QRELS = {
    "train": [("PLAIN-1", "MED-1", 2)],
    "dev": [("PLAIN-2", "MED-2", 1)],
    "test": [("PLAIN-3", "MED-1", 1), ("PLAIN-3", "MED-2", 2)],
}


@pytest.fixture(scope="module")
def scifact(scifact_home):
    return get_collection("scifact")


@pytest.fixture(scope="module")
def small_nfcorpus(irds_home):
    published.write_beir(irds_home, "nfcorpus", NF_DOCS, NF_QUERIES, NF_QRELS)
    return nfcorpus()


def test_scifact_counts(scifact):
    assert scifact.num_docs == len(list(scifact.corpus_iter())) == 5_183
    assert {split: len(scifact.topics(split)) for split in scifact.splits} == {"train": 647, "dev": 162, "test": 300}
    assert {split: len(scifact.qrels(split)) for split in ("test", "train", "dev")}["test"] == 339
    assert len(scifact.qrels("train")) + len(scifact.qrels("dev")) == 919


def test_scifact_text_begins_with_the_title(scifact):
    doc = next(scifact.corpus_iter())
    assert doc["docno"] == "4983"
    assert doc["title"].startswith("Microstructural development of human newborn cerebral white matter")
    assert doc["text"].startswith(f"{doc['title']} Alterations of the architecture")
    assert all(isinstance(value, str) for value in doc.values())


def test_scifact_dev_is_a_fixed_part_of_train(scifact):
    train, dev, test = (set(scifact.topics(split)["qid"]) for split in scifact.splits)
    assert not train & dev
    assert not (train | dev) & test
    # The order is that of the SHA-256 of "42:<qid>"; these five come from a separate script.
    assert sorted(dev, key=int)[:5] == ["20", "21", "39", "41", "44"]
    for split, qids in (("train", train), ("dev", dev)):
        assert set(scifact.qrels(split)["qid"]) == qids


def test_scifact_frames(scifact):
    topics, qrels = scifact.topics("test"), scifact.qrels("test")
    assert list(topics.columns) == ["qid", "query"]
    assert topics.iloc[0].tolist() == ["1", "0-dimensional biomaterials show inductive properties."]
    assert list(qrels.columns) == ["qid", "docno", "label"]
    assert qrels.iloc[0].tolist() == ["1", "31715818", 1]


def test_nfcorpus(small_nfcorpus):
    assert list(small_nfcorpus.corpus_iter()) == [
        {"docno": "MED-1", "text": "Statins Statins and cancer.", "title": "Statins", "url": "http://u/1"},
        {"docno": "MED-2", "text": "No title.", "title": "", "url": "http://u/2"},
    ]
    assert small_nfcorpus.num_docs == 2
    assert small_nfcorpus.topics("dev").to_dict("records") == [{"qid": "PLAIN-2", "query": "titles"}]
    assert small_nfcorpus.topics("train")["query"].tolist() == ["do statins work?"]
    assert small_nfcorpus.qrels("test").to_dict("records") == [
        {"qid": "PLAIN-3", "docno": "MED-1", "label": 1},
        {"qid": "PLAIN-3", "docno": "MED-2", "label": 2},
    ]


def test_unknown_split_is_refused_before_anything_is_read():
    with pytest.raises(ValueError, match="nfcorpus has no split 'valid'; it has train, dev, test"):
        nfcorpus().topics("valid")


def test_fingerprints_read_no_corpus_and_differ():
    assert len({get_collection("scifact").fingerprint, nfcorpus().fingerprint}) == 2
    assert nfcorpus().fingerprint == get_collection("nfcorpus").fingerprint


def away(name):
    """A collection of the same family that is never in this home."""
    source = dataclasses.replace(nfcorpus().source, name=name, corpus=f"beir/{name}", files=name)
    return dataclasses.replace(nfcorpus(), name=name, source=source)


def test_without_a_network(irds_home, monkeypatch):
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:9")  # nothing listens there
    monkeypatch.setenv("IR_DATASETS_DL_TRIES", "1")
    with pytest.raises(RuntimeError, match="cannot read arguana") as caught:
        next(away("arguana").corpus_iter())
    message = str(caught.value)
    assert "3.8 MB from https://public.ukp" in message
    assert "IR_DATASETS_HOME" in message
    assert str(irds_home / "beir" / "arguana" / "source.zip") in message


def test_a_broken_download_says_so(irds_home):
    source = irds_home / "beir" / "quora" / "source.zip"
    source.parent.mkdir(parents=True, exist_ok=True)
    source.write_bytes(b"<html>not found</html>")
    with pytest.raises(RuntimeError, match="cannot read quora: File is not a zip file"):
        next(away("quora").corpus_iter())
