"""pt.get_dataset("merge:...") and the table of the collections."""

from __future__ import annotations

import pyterrier as pt
import pytest
from ir_measures import nDCG

from pyterrier_merge import bm25
from pyterrier_merge.collections import get_collection, list_collections
from pyterrier_merge.collections.catalogue import FACTS, catalogue
from pyterrier_merge.collections.provider import CollectionDataset


def test_a_dataset_is_the_collection():
    dataset, collection = pt.get_dataset("merge:hpo"), get_collection("hpo")
    assert next(iter(dataset.get_corpus_iter(verbose=False))) == next(collection.corpus_iter())
    assert dataset.get_topics().equals(collection.topics("test"))
    assert dataset.get_topics("dev").equals(collection.topics("dev"))
    assert dataset.get_qrels("dev").equals(collection.qrels("dev"))
    assert dataset.get_corpus_lang() == dataset.get_topics_lang() == "en"
    assert dataset.info["licence"] == collection.licence
    assert dataset.info["splits"] == ["train", "dev", "test"]
    with pytest.raises(ValueError, match="hpo has no split 'valid'"):
        dataset.get_qrels("valid")
    with pytest.raises(NotImplementedError, match=r"CollectionDataset\('hpo'\) gives no candidates"):
        dataset.get_results()


def test_an_unknown_dataset_is_pyterriers_own_error():
    with pytest.raises(KeyError, match="'merge:nothing' not found in provider 'merge'"):
        pt.get_dataset("merge:nothing")


def test_in_an_experiment(small_collection):
    dataset = CollectionDataset(small_collection)
    topics, qrels = dataset.get_topicsqrels("dev")
    table = pt.Experiment([bm25(small_collection)], topics, qrels, [nDCG @ 10])
    assert table["nDCG@10"][0] > 0.5


def test_the_table_has_every_collection_and_reads_none(monkeypatch):
    monkeypatch.setattr("ir_datasets.util.RequestsDownload.stream", lambda _: pytest.fail("a download began"))
    table = catalogue().set_index("name")
    assert list(table.index) == [name for name in list_collections() if name != "local"]
    assert table.loc["trec-cds-2014", "documents"] == "733,111"
    assert table.loc["trec-cds-2014", "download"] == "10.3 GB"
    assert table.loc["trec-cds-2016", "download"] == "18.9 GB"
    assert table.loc["trec-pm-2017", "download"] == "22.3 GB"
    assert table.loc["scifact", "queries"] == "train 647, dev 162, test 300"
    assert table.loc["hpo", "measures"] == "nDCG@10, R@100, RR@10"


@pytest.mark.parametrize("name", ["hpo", "scifact"])
def test_the_figures_are_the_datas(name, scifact_home):
    collection = get_collection(name)
    assert FACTS[name].documents == collection.num_docs
    assert FACTS[name].queries == {split: len(collection.topics(split)) for split in collection.splits}
