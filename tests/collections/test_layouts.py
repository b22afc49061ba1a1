"""Layouts of folders as people have them: files in; documents, topics and judgements out."""

from __future__ import annotations

import bz2
import gzip

import pytest

from pyterrier_merge.collections import from_folder

DOCS = "d1\tkidney failure\nd2\tfever\n"
TOPICS = "1\tkidney\n2\tfever\n"
QRELS = "1 0 d1 1\n2 0 d2 1\n"
JSONL = '{"_id": "d1", "title": "kidney", "text": "failure"}\n{"_id": "d2", "title": "", "text": "fever"}\n'
QUERIES = '{"_id": "1", "text": "kidney"}\n{"_id": "2", "text": "fever"}\n'

# Each of these is the collection of DOCS, TOPICS and QRELS, which are put where a folder lacks one of the three.
SAME = {
    "tsv": {},
    "tsv, titles": {"docs.tsv": "d1\tkidney\tfailure\nd2\t\tfever\n"},
    "jsonl": {"corpus.jsonl": JSONL, "queries.jsonl": QUERIES},
    "packed, parts": {
        "corpus-1.jsonl": gzip.compress(JSONL.splitlines()[0].encode()),
        "corpus-2.jsonl.bz2": bz2.compress(JSONL.splitlines()[1].encode()),
        "queries.tsv.gz": gzip.compress(b"\xef\xbb\xbfqid\tquery\r\n1\tkidney\r\n2\tfever\r\n"),
        "qrels.test.tsv.gz": gzip.compress(b"1\td1\t1\r\n2\td2\t1\r\n"),
    },
    "header: docno text": {"docs.tsv": "docno\ttext\n" + DOCS, "topics.tsv": "qid\tquery\n" + TOPICS},
    "header: pid passage": {"collection.tsv": "pid\tpassage\n" + DOCS, "topics.tsv": "topic_id\tquery\n" + TOPICS},
    "header: document_id body": {
        "docs.tsv": "document_id\tbody\n" + DOCS,
        "queries.tsv": "Query ID\tQuery Text\n" + TOPICS,
    },
    "header: key content": {"docs.tsv": "key\tcontent\n" + DOCS, "topics.tsv": "number\ttitle\n" + TOPICS},
    "header: columns by name": {
        "docs.tsv": "doc_id\tbody\ttitle\nd1\tfailure\tkidney\nd2\tfever\t\n",
        "topics.tsv": "number\tdescription\ttitle\n1\tlong\tkidney\n2\tlonger\tfever\n",
    },
    "header: further columns": {
        "docs.tsv": "docno\turl\ttext\nd1\tu\tkidney failure\nd2\tu\tfever\n",
        "qrels.tsv": "query-id\tcorpus-id\tscore\n1\td1\t1\n2\td2\t1\n",
    },
    "cells quoted by a CSV writer": {
        "docs.tsv": '"docno"\t"text"\n"d1"\t"kidney failure"\n"d2"\t"fever"\n',
        "topics.tsv": '1\t"kidney"\n2\t"fever"\n',
        "qrels.tsv": '"1"\t"d1"\t1\n"2"\t"d2"\t1\n',
    },
    "judgements between spaces and tabs": {"qrels.txt": "1 0\td1\t1\n  2\t0 d2   1\n"},
    "beir": {
        "corpus.jsonl": JSONL,
        "queries.jsonl": QUERIES,
        "qrels/test.tsv": "query-id\tcorpus-id\tscore\n1\td1\t1\n2\td2\t1\n",
    },
    "trec": {
        "docs.trec": "<DOC>\n<DOCNO> d1 </DOCNO>\n<TITLE>kidney</TITLE>\n<TEXT>failure\n</TEXT></DOC>\n"
        "<doc><docno>d2</docno>fever</doc>\n",
        "topics.trec": "<top>\n<num> Number: 1\n<title> Topic: kidney\n<desc> Description:\nx\n</top>\n"
        "<top><num>2</num><title>fever</title></top>\n",
        "qrels": QRELS,
    },
    "ldc": {
        "docs.trec": "<DOC id=\"d1\" type='story' >\n<HEADLINE>\nkidney\n</HEADLINE>\n<TEXT>\n<P>failure</P>\n</TEXT>\n"
        "</DOC>\n<DOC>\n<DOCID> d2 </DOCID>\n<BODY>fever</BODY>\n</DOC>\n"
    },
    "fire": {
        "docs.trec": "<DOC >\n<DOCNO >d1</DOCNO >\n<TEXT>kidney failure</TEXT>\n</DOC>\n"
        "<DOC><DOCNO>d2</DOCNO>fever</DOC>\n",
        "topics.trec": "<topics>\n<top lang='mr'>\n<num>1</num>\n<title>kidney</title>\n<desc>x</desc>\n</top>\n"
        "<top lang='mr'>\n<num>2</num>\n<title>fever</title>\n</top>\n</topics>\n",
    },
    "fire, xml": {
        "topics.xml": "<topics><top lang='en'><num>1</num><title>kidney</title></top>"
        "<top lang='en'><num>2</num><title>fever</title></top></topics>"
    },
    "clef": {
        "topics.trec": "<top>\n<num> 1 </num>\n<EN-title> kidney </EN-title>\n<EN-desc> x </EN-desc>\n</top>\n"
        "<top>\n<num>2</num>\n<EN-title>fever</EN-title>\n</top>\n"
    },
    "clef, xml": {
        "topics.xml": "<topics><topic lang='en'><identifier>1</identifier><title>kidney</title></topic>"
        "<topic lang='en'><identifier>2</identifier><title>fever</title></topic></topics>"
    },
    "clef ehealth": {
        "queries.xml": "<queries xmlns='http://example.org/q'><query><id>1</id><title>kidney</title></query>"
        "<query><id>2</id><title>fever</title></query></queries>"
    },
    "trec web": {
        "topics.xml": "<w><topic number='1' type='x'><query>kidney</query><description>y</description></topic>"
        "<topic number='2'><query>fever</query></topic></w>"
    },
    "trec clinical trials": {
        "topics.xml": '<topics task="2021 TREC Clinical Trials">\n<topic number="1">\nkidney\n</topic>\n'
        '<topic number="2">fever</topic></topics>\n'
    },
    "files next to qrels": {
        "qrels.txt": QRELS,
        **dict.fromkeys(
            ("qrels.txt.bak", "qrels.txt~", "qrels.txt.swp", "qrels.txt.orig", "qrels.tmp", "qrels (1).txt"), ""
        ),
        **dict.fromkeys(("qrels/README", "qrels/README.txt", "qrels/dev.tsv.bak", "qrels/#dev.tsv#"), "one two"),
    },
}


def folder(path, files):
    path.mkdir()
    for name, content in files.items():
        file = path / name
        file.parent.mkdir(exist_ok=True)
        file.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def completed(files):
    """The files, and those of TSV where one of the three is lacking."""
    parts = {"docs.tsv": (DOCS, ("docs", "corpus", "coll")), "topics.tsv": (TOPICS, ("topics", "queries"))}
    parts["qrels.txt"] = (QRELS, ("qrels",))
    missing = {name: text for name, (text, begun) in parts.items() if not any(file.startswith(begun) for file in files)}
    return {**missing, **files}


@pytest.mark.parametrize("layout", SAME)
def test_one_collection_in_many_layouts(tmp_path, layout):
    collection = from_folder(folder(tmp_path / "mine", completed(SAME[layout])))
    assert [(doc["docno"], doc["text"]) for doc in collection.corpus_iter()] == [
        ("d1", "kidney failure"),
        ("d2", "fever"),
    ]
    assert collection.splits == ("test",)
    assert collection.topics("test").values.tolist() == [["1", "kidney"], ["2", "fever"]]
    assert collection.qrels("test").values.tolist() == [["1", "d1", 1], ["2", "d2", 1]]


ALL = ".I 1\n.T\nkidney\n.A\nx\n.W\nkidney failure\n.X\n1\t5\t1\n.I 2\n.T\nfever\n.W\nfever pain\n.I 10\n.W\nheart\n"
QRY = ".I 1\n.W\nkidney\n.I 2\n.W\nfever\n"
LISTED = [["1", "1", 1], ["1", "10", 1], ["2", "2", 1]]
SMART = {
    "cisi, tabs": ("1\t1\t0\t0.000000\n1\t10\t0\t0.000000\n2\t2\t0\t0.000000\n", LISTED),
    "cisi, spaces": ("     1      1 0  0.000000\n     1     10 0  0.000000\n     2      2 0  0.000000\n", LISTED),
    "cacm": ("01 0001  0 0\n01 0010 0 0\n02 0002  0 0\n", LISTED),
    "pairs": ("1\t1\n1\t10\n2\t2\n", LISTED),
    "med": ("1 0 1 1\n1 0 10 1\n2 0 2 1\n", LISTED),
    "cranfield": ("1 1 2\n1 10 -1\n2 2 3\n", [["1", "1", 2], ["1", "10", -1], ["2", "2", 3]]),
}


@pytest.mark.parametrize("layout", SMART)
def test_smart(tmp_path, layout):
    judgements, expected = SMART[layout]
    collection = from_folder(folder(tmp_path / "mine", {"X.ALL": ALL, "X.QRY": QRY, "X.REL": judgements}))
    assert [(doc["docno"], doc["text"]) for doc in collection.corpus_iter()] == [
        ("1", "kidney kidney failure"),
        ("2", "fever fever pain"),
        ("10", "heart"),
    ]
    assert collection.topics("test").values.tolist() == [["1", "kidney"], ["2", "fever"]]
    assert collection.qrels("test").values.tolist() == expected


def test_smart_keeps_the_zeros_of_topics_and_documents(tmp_path):
    files = {
        "X.ALL": ALL.replace(".I ", ".I 00"),
        "X.QRY": QRY.replace(".I ", ".I 0"),
        "X.REL": "01 001 0 0\n02 002 0 0\n",
    }
    collection = from_folder(folder(tmp_path / "mine", files))
    assert collection.qrels("test").values.tolist() == [["01", "001", 1], ["02", "002", 1]]


def test_ms_marco_as_it_is_unpacked(tmp_path, caplog):
    files = {
        "collection.tsv": '0\tThe "kidney" failed.\n1\t"Fever" and "pain"\n2\t5" needle\n',
        "queries.train.tsv": "121352\tdefine extreme\n634306\tfever\n",
        "queries.dev.tsv": "1048578\tpain\n2\tkidney failure\n",
        "queries.dev.small.tsv": "2\tkidney failure\n",
        "queries.eval.tsv": "786786\tone\n786787\ttwo\n786788\tthree\n",
        "queries.eval.small.tsv": "786786\tone\n",
        "qrels.train.tsv": "121352\t0\t0\t1\n634306\t0\t1\t1\n",
        "qrels.dev.small.tsv": "2\t0\t0\t1\n",
    }
    path = folder(tmp_path / "msmarco", files)
    collection = from_folder(path)
    assert caplog.messages == [
        f"msmarco: there are no judgements of '{split}', so its {count} topics are left out "
        f"({path / f'queries.{split}.tsv'})"
        for split, count in (("dev", 2), ("eval", 3), ("eval.small", 1))
    ]
    assert [(doc["docno"], doc["text"]) for doc in collection.corpus_iter()] == [
        ("0", 'The "kidney" failed.'),
        ("1", '"Fever" and "pain"'),
        ("2", '5" needle'),
    ]
    assert collection.splits == ("dev.small", "train")
    assert collection.topics("dev.small").values.tolist() == [["2", "kidney failure"]]
    assert collection.topics("train").values.tolist() == [["121352", "define extreme"], ["634306", "fever"]]
    assert collection.qrels("dev.small").values.tolist() == [["2", "0", 1]]
    assert collection.qrels("train").values.tolist() == [["121352", "0", 1], ["634306", "1", 1]]
