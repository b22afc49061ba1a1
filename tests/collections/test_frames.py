"""from_frames: the user's own data."""

from __future__ import annotations

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
    ],
)
def test_refuses(docs, topics, qrels, message):
    with pytest.raises(ValueError, match=message):
        from_frames("mine", docs, topics, qrels)
