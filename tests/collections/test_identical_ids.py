"""Queries that are documents: the rows that go, the ranks that stay, and who is warned."""

from __future__ import annotations

import json
import logging
import pickle

import pandas as pd
import pytest

from pyterrier_merge.collections import from_folder, from_frames, from_irds, get_collection
from pyterrier_merge.collections.identical_ids import TopicWatch, without_identical_ids
from pyterrier_merge.collections.pool import pooled

RUN = pd.DataFrame(
    {"qid": list("aaabbb"), "docno": list("bacabc"), "rank": [0, 1, 2, 0, 1, 2], "score": [3.0, 2.0, 1.0] * 2}
)


def test_rows_of_the_querys_own_document_go_and_ranks_close_the_gap():
    found = without_identical_ids(RUN)
    assert found.to_dict("list") == {
        "qid": list("aabb"), "docno": list("bcac"), "rank": [0, 1, 0, 1], "score": [3.0, 1.0, 3.0, 1.0],
    }  # fmt: skip
    assert RUN["rank"].tolist() == [0, 1, 2, 0, 1, 2]
    assert without_identical_ids(RUN, 1)["docno"].tolist() == ["b", "a"]


def test_rows_keep_their_order_and_need_no_rank():
    shuffled = RUN.iloc[[5, 1, 3, 0, 4, 2]]
    found = without_identical_ids(shuffled)
    assert list(zip(found["qid"], found["docno"], found["rank"], strict=True)) == [
        ("b", "c", 1), ("b", "a", 0), ("a", "b", 0), ("a", "c", 1),
    ]  # fmt: skip
    assert without_identical_ids(RUN.drop(columns="rank"))["docno"].tolist() == list("bcac")


def test_numbers_are_names_and_an_empty_frame_stays_one():
    numbered = pd.DataFrame({"qid": [1, 1], "docno": ["1", "2"], "rank": [0, 1]})
    assert without_identical_ids(numbered).values.tolist() == [[1, "2", 0]]
    for empty in (RUN[:0], pd.DataFrame(columns=["qid", "docno", "rank"])):
        assert without_identical_ids(empty, 5).columns.tolist() == empty.columns.tolist()
    assert without_identical_ids(RUN.iloc[[1]]).empty


TITLE, TEXT = "Meat", "Being vegetarian  reduces risks"
DOC = {"docno": "7", "title": TITLE, "text": f"{TITLE} {TEXT}"}
WARNING = r"1 of the 1 topics are documents too, with the same id and text (such as '7')"


@pytest.mark.parametrize(
    ("qid", "query", "warned"),
    [
        ("7", TEXT, True),  # as in ArguAna
        ("7", f"{TITLE} {TEXT}", True),
        ("7", " being Vegetarian reduces\nrisks ", True),
        ("8", TEXT, False),  # the same text elsewhere
        ("7", "vegetarian", False),  # numbered alike by chance, even if the words are the document's
        ("7", TITLE, False),
        ("7", "", False),
    ],
)
@pytest.mark.parametrize("kind", ["frames", "folder"])
def test_topics_are_documents_where_id_and_text_are_the_same(qid, query, warned, kind, tmp_path, caplog):
    with caplog.at_level(logging.WARNING):
        make_collection(kind, qid, query, tmp_path)
    messages = [message for message in caplog.messages if "topics are documents" in message]
    assert len(messages) == warned
    assert all(WARNING in message and "ignore_identical_ids=True" in message for message in messages)


@pytest.mark.parametrize("kind", ["frames", "folder"])
def test_nobody_is_warned_where_it_is_on(kind, tmp_path, caplog):
    with caplog.at_level(logging.WARNING):
        assert make_collection(kind, "7", TEXT, tmp_path, ignore_identical_ids=True).ignore_identical_ids
    assert not caplog.messages


def make_collection(kind, qid, query, tmp_path, **options):
    """A collection of one document, read twice."""
    if kind == "frames":
        topics = pd.DataFrame({"qid": [qid], "query": [query]})
        collection = from_frames("one", [DOC], topics, topics.assign(docno="7", label=1), **options)
    else:
        (tmp_path / "corpus.jsonl").write_text(json.dumps({"_id": "7", "title": TITLE, "text": TEXT}))
        (tmp_path / "queries.jsonl").write_text(json.dumps({"_id": qid, "text": query}))
        (tmp_path / "qrels.txt").write_text(f"{qid} 0 7 1\n")
        collection = from_folder(tmp_path, **options)
    for _ in range(2):
        assert list(collection.corpus_iter()) == [DOC]
    return collection


def test_a_pass_that_ends_early_says_nothing_and_topics_are_read_with_the_first_document(caplog):
    watch, topics = TopicWatch("x"), pd.DataFrame({"qid": ["7"], "query": [TEXT]})
    read = []
    documents = watch.over(iter([DOC, DOC]), lambda: read.append(1) or topics)
    assert not read
    next(documents)
    assert read
    documents.close()
    assert not caplog.messages


def test_topics_that_cannot_be_had_do_not_end_a_pass(caplog):
    def unreachable():
        raise RuntimeError("no network")

    assert list(TopicWatch("x").over(iter([DOC]), unreachable)) == [DOC]
    assert not caplog.messages


def test_a_data_set_of_ir_datasets_is_watched_too(scifact_home, caplog, monkeypatch):
    collection = get_collection("irds:beir/scifact")
    first = next(collection.corpus_iter())
    topics = collection.topics("test")
    topics.loc[0] = [first["docno"], first["text"]]
    monkeypatch.setattr(type(collection), "topics", lambda *_: topics)
    with caplog.at_level(logging.WARNING):
        for _ in range(2):
            assert len(list(collection.corpus_iter())) == 5_183
    ours = [record.getMessage() for record in caplog.records if record.name.startswith("pyterrier_merge")]
    assert [message[:68] for message in ours] == [
        "irds-beir-scifact: 1 of the 300 topics are documents too, with the s"
    ]
    assert pickle.loads(pickle.dumps(collection)).name == collection.name


@pytest.mark.parametrize(
    ("dataset", "ignored"),
    [
        ("beir/arguana", True),
        ("beir/quora/test", True),
        ("beir/quora/dev", True),
        ("beir/scifact", False),
        ("nano-beir/arguana", False),  # its evaluators leave the query's document where it is
        ("nano-beir/quora", False),
    ],
)
def test_arguana_and_quora_have_it_on(dataset, ignored):
    assert get_collection(f"irds:{dataset}").ignore_identical_ids is ignored
    assert from_irds(dataset, ignore_identical_ids=not ignored).ignore_identical_ids is not ignored


def test_arguana_and_quora_with_another_split(scifact_home):
    assert from_irds("beir/quora/test", dev="beir/quora/dev").ignore_identical_ids
    assert not from_irds("beir/scifact/test", dev="beir/quora/dev").ignore_identical_ids


def test_it_is_true_or_false(tmp_path):
    with pytest.raises(ValueError, match="ignore_identical_ids is True or False, found 'yes'"):
        make_collection("folder", "7", TEXT, tmp_path, ignore_identical_ids="yes")


def test_a_pool_inherits_it_and_takes_no_place_for_a_querys_own_document():
    documents = [{"docno": docno, "text": docno} for docno in "abc"]
    topics = pd.DataFrame({"qid": ["a", "b"], "query": ["x", "y"]})
    qrels = pd.DataFrame({"qid": ["a", "b"], "docno": ["z", "z"], "label": 1})
    run = pd.DataFrame({"qid": ["a", "a"], "docno": ["a", "c"], "rank": [0, 1]})
    for ignored, docnos in ((True, {"c"}), (False, {"a"})):
        whole = from_frames("own", documents, topics, qrels, ignore_identical_ids=ignored)
        pool = pooled(whole, "test", [run], depth=1)
        assert (pool.docnos, pool.ignore_identical_ids) == (docnos, ignored)
