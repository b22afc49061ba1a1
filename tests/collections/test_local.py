"""The user's own folders: layouts, streaming, and what is wrong with them."""

from __future__ import annotations

import gzip
import json
import logging

import pytest
from ir_measures import AP

from pyterrier_merge.collections import from_folder, get_collection

CORPUS = (
    '{"_id": "d1", "title": "Cats", "text": "purr", "metadata": {"u": 1}}\n{"_id": "d2", "title": "", "text": "dogs"}\n'
)
QUERIES = '{"_id": "1", "text": "cat", "metadata": {}}\n{"_id": "2", "text": "dog"}\n'
HEADER = "query-id\tcorpus-id\tscore\n"


@pytest.fixture
def folder(tmp_path):
    def write(files):
        for name, content in files.items():
            path = tmp_path / "mine" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return tmp_path / "mine"

    return write


BEIR = {
    "corpus.jsonl": CORPUS,
    "queries.jsonl": QUERIES,
    "qrels/test.tsv": f"{HEADER}1\td1\t1\n",
    "qrels/dev.tsv": f"{HEADER}2\td2\t1\n",
}


def test_beir_layout(folder):
    collection = get_collection("local", path=folder(BEIR), measures=[AP], language="en")
    assert list(collection.corpus_iter()) == [
        {"docno": "d1", "title": "Cats", "text": "Cats purr"},
        {"docno": "d2", "title": "", "text": "dogs"},
    ]
    assert (collection.name, collection.num_docs, collection.splits) == ("mine", 2, ("dev", "test"))
    assert collection.measures == (AP,)
    assert collection.topics("dev").to_dict("records") == [{"qid": "2", "query": "dog"}]
    assert collection.qrels("test").to_dict("records") == [{"qid": "1", "docno": "d1", "label": 1}]


QRELS = "1 0 d1 1\n2 0 d2 1\n"
TSV = {"docs.tsv": "d1\tCats\tpurr\nd2\t\tdogs\n", "topics.tsv": "1\tcat\n2\tdog\n", "qrels.txt": QRELS}
TREC = {
    "collection.trec": "<DOC>\n<DOCNO>d1</DOCNO>\nCats\npurr\n</DOC>\n<DOC>\n<DOCNO>d2</DOCNO>dogs\n</DOC>\n",
    "topics.xml": "<t><topic number='1'><title>cat</title></topic><topic number='2'><title>dog</title></topic></t>",
    "qrels.test.txt": QRELS,
}


def test_topics_by_split(folder):
    files = {"docs.tsv": "d1\tx\n", "topics.dev.tsv": "1\tcat\n", "topics-test.tsv": "2\tdog\n3\tcow\n"}
    files |= {"qrels.dev": "1 0 d1 1\n", "qrels_test.txt": "2 0 d1 1\n"}
    collection = from_folder(folder(files), name="other")
    assert {split: collection.topics(split)["qid"].tolist() for split in ("dev", "test")} == {
        "dev": ["1"],
        "test": ["2", "3"],
    }


def test_med(shared):
    collection = get_collection("local", path=shared / "med", domain="medical")
    documents = list(collection.corpus_iter())
    assert len(documents) == collection.num_docs == 1_033
    assert len(collection.topics("test")) == 30
    assert len(collection.qrels("test")) == 696
    assert documents[0]["text"].startswith("correlation between maternal and fetal plasma levels of glucose")
    assert collection.topics("test").iloc[0].tolist() == ["1", "the crystalline lens in vertebrates, including humans."]


def test_what_does_not_match_is_counted_and_reported_once(folder, caplog):
    files = {
        "docs.jsonl": '{"docno": "d1", "text": "x"}\n{"docno": "d2", "text": " "}\n',
        "topics.tsv": "1\tcat\n2\tdog\n",
        "qrels.txt": "1 0 d1 1\n1 0 d8 1\n1 0 d9 0\n7 0 d1 1\n",
    }
    with caplog.at_level(logging.WARNING):
        collection = from_folder(folder(files))
        assert caplog.messages == [
            "mine: 1 of the 2 topics of 'test' have no judgement",
            "mine: 1 of the 2 judged qids of 'test' are not topics",
        ]
        caplog.clear()
        assert len(list(collection.corpus_iter())) == 2
        assert caplog.messages == [
            "mine: 1 of the 2 documents are empty; they are kept",
            "mine: 2 of the 3 judged documents are not in the corpus",
        ]
        caplog.clear()
        list(collection.corpus_iter())
        assert not caplog.messages


def test_documents_are_read_as_a_stream(folder):
    """Rubbish in the second line is not looked at before the first document has come."""
    collection = from_folder(folder({**TSV, "docs.tsv": "d1\tx\nrubbish\n"}))
    documents = collection.corpus_iter()
    assert next(documents)["docno"] == "d1"
    with pytest.raises(ValueError, match="line 2: expected 2 columns"):
        next(documents)


def test_counting_is_done_once_for_the_same_content(folder, monkeypatch):
    path = folder(BEIR)
    assert from_folder(path).num_docs == 2
    again = from_folder(path)
    monkeypatch.setattr(type(again.corpus), "__iter__", lambda _: pytest.fail("the documents were read again"))
    assert again.num_docs == 2


def test_fingerprint_is_of_the_content(folder):
    path = folder(BEIR)
    first = from_folder(path).fingerprint
    assert from_folder(path, name="other").fingerprint == first
    (path / "corpus.jsonl").write_text(CORPUS + json.dumps({"_id": "d3", "text": ""}))
    assert from_folder(path).fingerprint != first
    assert from_folder(path).num_docs == 3


def test_a_collection_whose_files_change_is_another_from_then_on(folder):
    path = folder(BEIR)
    collection = from_folder(path)
    before = collection.fingerprint, collection.num_docs
    (path / "corpus.jsonl").write_text(CORPUS + json.dumps({"_id": "d3", "text": ""}))
    assert collection.fingerprint != before[0]
    assert (before[1], collection.num_docs) == (2, 3)


def test_what_cannot_be_written_becomes_a_question_mark(folder):
    """A frame of such a text could not even be made, and no tokenizer takes it."""
    files = {
        **TSV,
        "docs.tsv": "d2\tdogs\n",
        "corpus.jsonl": '{"docno": "d1", "title": "\\udc00", "text": "a \\ud83d"}\n',
    }
    docs = list(from_folder(folder(files)).corpus_iter())
    assert docs[0] == {"docno": "d1", "title": "?", "text": "? a ?"}


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        (
            "docs.tsv",
            "d1\tx\nd2\ty\nd1\tz\n",
            r"docs\.tsv, line 3: docno 'd1' occurs twice; first in .*docs\.tsv, line 1;",
        ),
        ("docs.tsv", "\tx\n", "line 1: docno '' is empty"),
        ("docs.tsv", "d1\ta\tb\tc\n", "line 1: found 4 columns and no header"),
        ("docs.tsv", "", "mine: there are no documents in .*docs.tsv"),
        ("docs.jsonl", '{"docno": "d9"}\n', r"docs\.jsonl, line 1: a document has a docno or .* found docno"),
        ("docs.jsonl", '{"docno": 1.5, "text": "x"}\n', "line 1: docno is 1.5, no string"),
        ("docs.jsonl", '{"docno": "d9", "text": null}\n', "text and title of 'd9' are strings, found None and ''"),
        (
            "docs.jsonl.gz",
            gzip.compress(b'{"docno": "d9", "text": "x"}\n', mtime=0)[:-9],
            "truncated or damaged after line",
        ),
    ],
)
def test_wrong_documents(folder, name, content, message):
    collection = from_folder(folder({**TSV, name: content}))
    with pytest.raises(ValueError, match=message):
        list(collection.corpus_iter())


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("topics.tsv", "1\tcat\n1\tdog\n", r"topics\.tsv, line 2: topic '1' is already in line 1"),
        ("topics.tsv", "1\tcat\tdog\n", "line 1: expected qid and query, or a header .* found 3 columns"),
        ("qrels.txt", "1 d1\n", r"qrels\.txt, line 1: a judgement has three columns"),
        ("qrels.tsv", "1\td1\t1\n", "two files have the split 'test': .*qrels.tsv and .*qrels.txt; keep one"),
        ("queries.jsonl", '{"_id": "1"}\n', "two files have the split ''"),
        ("topics.tsv", "qid\tquery\n", r"topics\.tsv: there is no topic in it"),
        ("qrels.txt", "", r"qrels\.txt: there is no judgement in it"),
        ("qrels.test", QRELS, r"two files have the split 'test': .*qrels\.test and .*qrels\.txt; keep one"),
    ],
)
def test_wrong_topics_and_judgements(folder, name, content, message):
    with pytest.raises(ValueError, match=message):
        from_folder(folder({**TSV, name: content}))


def test_xml_topics_without_a_query_tell_what_they_have(folder):
    files = {**TREC, "topics.xml": "<topics><topic number='1'><disease>x</disease></topic></topics>"}
    with pytest.raises(ValueError, match="a topic has no query or text or title or question, but qid, disease"):
        from_folder(folder(files))


def test_missing_files(folder, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"there is no folder .*nowhere"):
        get_collection("local", path=tmp_path / "nowhere")
    with pytest.raises(ValueError, match=r"local needs the option 'path': get_collection\('local', path=\.\.\.\)"):
        get_collection("local")
    path = folder({"docs.tsv": "d1\tx\n"})
    with pytest.raises(FileNotFoundError, match=r"has no topics: expected a file such as .* found docs\.tsv"):
        from_folder(path)
    folder({"topics.dev.tsv": "1\tcat\n", "qrels.test.txt": "1 0 d1 1\n"})
    with pytest.raises(FileNotFoundError, match="there are judgements but no topics of 'test'; topics are of dev"):
        from_folder(path)
    folder({"topics.test.tsv": "1\tcat\n", "qrels.dev.txt": "1 0 d1 1\n", "qrels.train.txt": "1 0 d1 1\n"})
    with pytest.raises(
        FileNotFoundError, match="there are judgements but no topics of 'train'; topics are of dev, test"
    ):
        from_folder(path)


def test_the_name_is_an_option_of_the_folder(folder):
    assert get_collection("local", path=folder(BEIR), name="other").name == "other"
    for name in ("a/b", ""):
        with pytest.raises(ValueError, match=f"the name '{name}' is part of folder names"):
            from_folder(folder(BEIR), name=name)
