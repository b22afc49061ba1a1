"""Judgements, topics and documents of evaluation campaigns."""

from __future__ import annotations

import pytest

from pyterrier_merge.collections.reading.trec_files import (
    read_qrels,
    read_smart,
    read_trec_documents,
    read_trec_topics,
    read_xml_topics,
)


@pytest.fixture
def file(tmp_path):
    def write(content):
        path = tmp_path / "file"
        path.write_text(content, encoding="utf-8")
        return path

    return write


ROWS = [["1", "d1", 2], ["1", "d2", 0]]


@pytest.mark.parametrize(
    "content",
    [
        "1 0 d1 2\n1 0 d2 0\n",
        "1\tQ0\td1\t2\r\n1\tQ0\td2\t0\r\n",
        "1 d1 2\n1 d2 0",
        "\ufeffquery-id\tcorpus-id\tscore\n1\td1\t2\n1\td2\t0\n",
    ],
    ids=["trec", "trec-crlf", "three columns", "beir"],
)
def test_qrels(file, content):
    qrels = read_qrels(file(content))
    assert list(qrels.columns) == ["qid", "docno", "label"]
    assert qrels.values.tolist() == ROWS


def test_qrels_with_words_for_grades(file):
    grades = {"L0": 0, "L1": 1, "L2": 2}
    assert read_qrels(file("1 d1 L2\n1 d2 L0\n"), grades=grades).values.tolist() == ROWS
    with pytest.raises(ValueError, match=r"file, line 2: unknown grade 'L3'; there are L0, L1, L2"):
        read_qrels(file("1 d1 L2\n1 d2 L3\n"), grades=grades)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("1 d1\n", "file, line 1: a judgement has three columns .* or four .*, found 2: '1 d1'"),
        ("1 0 d1 1\n1 0 d2\n", "line 2: expected 4 columns, as in the first line, found 3"),
        ("1 0 d1 1\n1 0 d2 high\n", "line 2: the label 'high' is no whole number"),
        ("1 0 d1 1_0\n", "line 1: the label '1_0' is no whole number"),
        (f"1 0 d1 {10**20}\n", "line 1: the label '1000.* is no whole number of at most nine digits"),
        ("query-id\tcorpus-id\tscore\n", "file: there is no judgement in it"),
        ("1 0 d1 1\n1 0 d1 0\n", "line 2: qid '1' and docno 'd1' are judged already in line 1"),
    ],
)
def test_wrong_qrels(file, content, message):
    with pytest.raises(ValueError, match=message):
        read_qrels(file(content))


def test_xml_topics(file):
    topics = read_xml_topics(
        file(
            '<?xml version="1.0" encoding="UTF-8"?>\n<topics task="x">\n<topic number=" 1 " type="diagnosis">'
            "<summary>A 58-year-old\n  woman &amp; pain</summary></topic>\n"
            "<topic><number>2</number><note>old <b>note</b></note></topic></topics>"
        )
    )
    assert topics.set_index("qid").to_dict("index") == {
        "1": {"type": "diagnosis", "summary": "A 58-year-old woman & pain", "note": ""},
        "2": {"type": "", "summary": "", "note": "old note"},
    }
    for content, message in (
        ("<topics>\n<topic number='1'></topics>", "file, line 2: no XML"),
        ("<topics><topic/></topics>", "topic 1 has no number"),
        ("<html></html>", "there is no <topic> in <html>"),
    ):
        with pytest.raises(ValueError, match=message):
            read_xml_topics(file(content))


def test_trec_topics(file):
    content = "<top>\n<num> Number: 301\n<title> International\n Crime &amp; law\n<desc> Description:\nlong\n</top>\n"
    assert list(read_trec_topics(file(content))) == [(1, "301", "International Crime & law")]
    content = "<top><num>2</num><title>p < 0.05 and q > 2</title></top>\n"
    assert list(read_trec_topics(file(content))) == [(1, "2", "p < 0.05 and q > 2")]
    with pytest.raises(ValueError, match="line 1: a <top> without <num> or <title>; it has num"):
        list(read_trec_topics(file("<top><num>1</num></top>")))


def test_trec_documents(file):
    content = (
        "<DOC>\n<DOCNO> FT-1 </DOCNO>\n<TITLE>Fish &amp; chips</TITLE>\n<TEXT>\nare <b>good</b>\n</TEXT>\n</DOC>\n\n"
        "<doc><docno>2</docno></doc>\n"
    )
    assert list(read_trec_documents(file(content))) == [
        (1, {"docno": "FT-1", "text": "Fish & chips are good"}),
        (9, {"docno": "2", "text": ""}),
    ]
    content = "<DOC>\n<DOCNO>1</DOCNO>\np < 0.05 and <!-- note --> q > 2\n</DOC>\n"
    assert [doc["text"] for _, doc in read_trec_documents(file(content))] == ["p < 0.05 and q > 2"]
    for content, message in (
        ("<DOC>\n<TEXT>x</TEXT>\n</DOC>", "line 1: a <DOC> without <DOCNO>"),
        ("<DOC>\n<DOCNO>1</DOCNO>\n", "line 1: this <DOC> is not closed: is the file truncated"),
        ("<DOC>\n<DOCNO>1</DOCNO>\n<DOC>\n", "line 1: this <DOC> is not closed before the next, in line 3"),
        ("<DOC><DOCNO>1</DOCNO></DOC>\nrubbish\n", "line 2: expected <DOC>, found 'rubbish'"),
    ):
        with pytest.raises(ValueError, match=message):
            list(read_trec_documents(file(content)))


def test_smart(file):
    content = ".I 1\n.T\nA title\n.A\nSomebody\n.W\nwords of\n  one .\n.I 2\n.W\n.I\n"
    assert list(read_smart(file(content))) == [
        (1, {"docno": "1", "title": "A title", "text": "A title words of one ."}),
        (9, {"docno": "2", "text": ""}),
    ]
    with pytest.raises(ValueError, match=r"line 1: expected '.I' and an identifier before 'words'"):
        list(read_smart(file("words\n")))
    with pytest.raises(ValueError, match=r"line 3: expected '.I' and an identifier before '.W'"):
        list(read_smart(file(".I 1\n.W\n.I\n.W\nx\n")))
