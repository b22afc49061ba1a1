"""from_frames: the user's own data."""

from __future__ import annotations

import logging
import math
from operator import length_hint

import pandas as pd
import pytest
from ir_measures import AP, nDCG

from pyterrier_merge.collections import from_frames

DOCS = [{"docno": "d1", "text": "a cat", "url": "u"}, {"docno": "d2", "text": "a dog", "url": "v"}]
TOPICS = pd.DataFrame({"qid": [1], "query": ["cat"]})
QRELS = pd.DataFrame({"qid": [1], "docno": ["d1"], "label": [1]})


def test_gives_back_what_it_was_given():
    collection = from_frames("mine", pd.DataFrame(DOCS), TOPICS, QRELS, measures=[AP, nDCG @ 5], language="ja")
    assert list(collection.corpus_iter()) == DOCS
    assert collection.num_docs == 2
    assert collection.splits == ("test",)
    assert collection.measures == (AP, nDCG @ 5)
    assert collection.language == "ja"
    topics, qrels = collection.topics("test"), collection.qrels("test")
    assert topics.to_dict("records") == [{"qid": "1", "query": "cat"}]
    assert qrels.to_dict("records") == [{"qid": "1", "docno": "d1", "label": 1}]


def test_documents_may_be_an_iterator_and_are_read_again_each_time():
    collection = from_frames("mine", iter(DOCS), TOPICS, QRELS)
    assert list(collection.corpus_iter()) == list(collection.corpus_iter(verbose=True)) == DOCS


def test_an_iterator_says_how_many_documents_are_left():
    for verbose in (False, True):
        documents = from_frames("mine", iter(DOCS), TOPICS, QRELS).corpus_iter(verbose=verbose)
        assert length_hint(documents) == 2
        assert [length_hint(documents) for _ in documents] == [1, 0]


def test_changing_what_comes_out_or_went_in_changes_nothing():
    topics = TOPICS.copy()
    collection = from_frames("mine", DOCS, topics, QRELS)
    topics["query"] = "other"
    out = collection.topics("test")
    out["query"] = "other"
    next(collection.corpus_iter())["text"] = "other"
    assert collection.topics("test")["query"].tolist() == ["cat"]
    assert next(collection.corpus_iter())["text"] == "a cat"


def test_splits_keep_their_order_and_unknown_ones_are_named():
    collection = from_frames("mine", DOCS, {"dev": TOPICS, "test": TOPICS}, {"dev": QRELS, "test": QRELS})
    assert collection.splits == ("dev", "test")
    for method in (collection.topics, collection.qrels):
        with pytest.raises(ValueError, match="mine has no split 'train'; it has dev, test"):
            method("train")


def test_splits_may_come_in_any_order():
    collection = from_frames("mine", DOCS, {"dev": TOPICS, "test": TOPICS[:0]}, {"test": QRELS[:0], "dev": QRELS})
    assert collection.splits == ("dev", "test")
    assert [len(collection.qrels(split)) for split in collection.splits] == [1, 0]


def test_whole_numbers_are_names_and_labels():
    docs = pd.DataFrame({"docno": [1, 2], "text": ["a", "b"]})
    collection = from_frames("mine", docs, TOPICS, QRELS.assign(docno=2, label=2.0))
    assert [doc["docno"] for doc in collection.corpus_iter()] == ["1", "2"]
    assert collection.qrels("test").to_dict("records") == [{"qid": "1", "docno": "2", "label": 2}]


def test_says_how_many_judged_documents_are_lacking(caplog):
    judged = pd.DataFrame({"qid": "1", "docno": ["d1", "d8", "d9"], "label": 1})
    with caplog.at_level(logging.WARNING):
        from_frames("mine", DOCS, TOPICS, judged[:1])
        assert not caplog.records
        from_frames("mine", DOCS, {"dev": TOPICS, "test": TOPICS}, {"dev": judged[:2], "test": judged[1:]})
    assert caplog.messages == ["mine: 2 of the 3 judged documents are not in the corpus"]


def test_says_how_many_documents_are_empty(caplog):
    docs = [{"docno": "a", "text": "fever"}, {"docno": "b", "text": " "}]
    frames = pd.DataFrame({"qid": ["1"], "query": ["x"]}), pd.DataFrame({"qid": ["1"], "docno": ["a"], "label": [1]})
    from_frames("some", docs, *frames)
    assert caplog.messages == ["some: 1 of the 2 documents are empty; they are kept"]


def test_fingerprint_is_of_docnos_and_texts():
    def fingerprint(docs, name="mine"):
        return from_frames(name, docs, TOPICS, QRELS).fingerprint

    assert fingerprint(DOCS) == fingerprint(pd.DataFrame(DOCS), "other name")
    assert fingerprint(DOCS) != fingerprint(DOCS[:1])
    assert fingerprint(DOCS) != fingerprint([{**DOCS[0], "text": "a bat"}, DOCS[1]])
    assert fingerprint(DOCS) != fingerprint([{**DOCS[0], "docno": "d3"}, DOCS[1]])


@pytest.mark.parametrize(
    ("docs", "topics", "qrels", "message"),
    [
        ([], TOPICS, QRELS, "mine: there are no documents"),
        ([{"docno": "d1"}], TOPICS, QRELS, "document 0 has no 'text'; it has docno"),
        ([DOCS[0], {"text": "x"}], TOPICS, QRELS, "document 1 has no 'docno'; it has text"),
        ([*DOCS, DOCS[1]], TOPICS, QRELS, "docno 'd2' occurs twice"),
        ([{"docno": "d1", "text": None}], TOPICS, QRELS, "text of document 'd1' is None, not a string"),
        (DOCS, TOPICS.drop(columns="query"), QRELS, r"topics of 'test': columns \['query'\] are missing"),
        (DOCS, TOPICS, QRELS.drop(columns=["docno", "label"]), r"qrels of 'test': columns \['docno', 'label'\] are"),
        (DOCS, pd.concat([TOPICS, TOPICS]), QRELS, "topics of 'test': qid '1' occurs twice"),
        (DOCS, {"dev": TOPICS}, QRELS, r"topics \(dev\) and of the qrels \(test\) differ"),
        (["a", "b"], TOPICS, QRELS, "document 0 is 'a', expected a mapping with 'docno' and 'text'"),
        ([("d1", "a")], TOPICS, QRELS, r"document 0 is \('d1', 'a'\), expected a mapping"),
        ([{"docno": None, "text": "x"}], TOPICS, QRELS, "documents: docno None is a NoneType"),
        ([{"docno": "", "text": "x"}], TOPICS, QRELS, "documents: docno '' is empty"),
        (pd.DataFrame({"docno": [1.0, math.nan], "text": "x"}), TOPICS, QRELS, "documents: docno 1.0 is a float"),
        (DOCS, TOPICS.assign(qid=1.0), QRELS, "topics of 'test': qid 1.0 is a float"),
        (DOCS, TOPICS, QRELS.assign(qid=1.0), "qrels of 'test': qid 1.0 is a float"),
        (DOCS, TOPICS.assign(query=[None]), QRELS, "topics of 'test': the query of qid '1' is None, not a string"),
        (DOCS, TOPICS.assign(query=math.nan), QRELS, "topics of 'test': the query of qid '1' is nan, not a string"),
        (DOCS, TOPICS, QRELS.assign(docno=None), "qrels of 'test': docno (None|nan) is a"),
        (DOCS, TOPICS, QRELS.assign(label=0.5), "qid '1' and docno 'd1' has a label that is not a whole number"),
        (DOCS, TOPICS, QRELS.assign(label=math.nan), "qid '1' and docno 'd1' has a label that is not a whole number"),
        (DOCS, TOPICS, QRELS.assign(label="high"), "qid '1' and docno 'd1' has a label that is not a whole number"),
        (DOCS, TOPICS, QRELS.assign(label=10**12), "qid '1' and docno 'd1' has a label of more than nine digits"),
        (DOCS, TOPICS, pd.concat([QRELS, QRELS]), "the judgement of qid '1' and docno 'd1' occurs twice"),
    ],
)
def test_refuses(docs, topics, qrels, message):
    with pytest.raises(ValueError, match=message):
        from_frames("mine", docs, topics, qrels)


@pytest.mark.parametrize("measures", [["nDCG@10"], "nDCG@10", nDCG @ 10])
def test_refuses_measures_that_are_none(measures):
    with pytest.raises(ValueError, match=r"objects of ir_measures in a list, such as \[nDCG @ 10\]; found .*nDCG@10"):
        from_frames("mine", DOCS, TOPICS, QRELS, measures=measures)


@pytest.mark.parametrize("name", ["", "a/b", "a\\b", "a\0b"])
def test_refuses_names_that_no_folder_can_have(name):
    with pytest.raises(ValueError, match="part of folder names"):
        from_frames(name, DOCS, TOPICS, QRELS)
