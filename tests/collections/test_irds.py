"""Any data set of ir_datasets; SciFact stands for them."""

from __future__ import annotations

import pytest

from pyterrier_merge.collections import from_irds, get_collection


def test_a_data_set_with_parts(scifact_home):
    collection = get_collection("irds:beir/scifact")
    ours = get_collection("scifact")
    assert collection.splits == ("train", "test")
    assert collection.name == "irds-beir-scifact"
    assert collection.num_docs == 5_183
    assert next(collection.corpus_iter()) == next(ours.corpus_iter())
    assert collection.topics("test").equals(ours.topics("test"))
    assert collection.qrels("test").equals(ours.qrels("test"))
    assert len(collection.topics("train")) == 809


def test_one_part_is_the_test_split_and_another_can_be_dev(scifact_home):
    collection = from_irds("beir/scifact/test", dev="beir/scifact/train")
    assert [(split, len(collection.topics(split))) for split in collection.splits] == [("dev", 809), ("test", 300)]


@pytest.mark.parametrize(
    ("dataset", "dev", "message"),
    [
        ("beir/nothing", None, "ir_datasets has no 'beir/nothing'; its names are listed at"),
        ("beir", None, "'beir' of ir_datasets has no documents; name one of its parts"),
        ("pmc/v1", None, "'pmc/v1' of ir_datasets has no judgements, and no parts train, dev or test"),
        ("beir/scifact", "beir/none", "'beir/none' is not a data set of ir_datasets with topics"),
        ("miracl/ja", None, "'miracl/ja' has no test part; it has train, dev"),
    ],
)
def test_wrong_names(dataset, dev, message):
    with pytest.raises(ValueError, match=message):
        from_irds(dataset, dev=dev)


def test_large_ones_and_ones_of_unknown_size_are_asked_for(monkeypatch):
    monkeypatch.delenv("PYTERRIER_MERGE_DOWNLOAD", raising=False)
    monkeypatch.setattr("ir_datasets.util.RequestsDownload.stream", lambda _: pytest.fail("a download began"))
    for dataset, size in (("beir/nq", "0.5 GB"), ("msmarco-passage/dev/small", "at most 26.4 GB")):
        collection = from_irds(dataset)
        for attempt in (collection.topics, collection.qrels, lambda _, its=collection: next(its.corpus_iter())):
            with pytest.raises(RuntimeError, match=f"irds:{dataset} needs the files .*: {size} from"):
                attempt("test")


@pytest.mark.parametrize("by", ["option", "environment"])
def test_a_yes_lets_the_download_begin(monkeypatch, irds_home, by):
    def stream(_):
        raise OSError("the download began")

    monkeypatch.setenv("PYTERRIER_MERGE_DOWNLOAD", "1" if by == "environment" else "0")
    monkeypatch.setattr("ir_datasets.util.RequestsDownload.stream", stream)
    with pytest.raises(RuntimeError, match="cannot read irds:beir/nq: the download began") as caught:
        next(from_irds("beir/nq", download=by == "option").corpus_iter())
    assert "put the files there yourself" in str(caught.value)
    assert str(irds_home / "beir" / "nq" / "source.zip") in str(caught.value)
    assert not (irds_home / "beir" / "nq" / "source.zip").exists()
