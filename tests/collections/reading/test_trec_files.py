"""Topics and documents of evaluation campaigns."""

from __future__ import annotations

import pytest

from pyterrier_merge.collections.reading.trec_files import (
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
        ("<topics><topic lang='en'><title>x</title></topic></topics>", "topic 1 has no number; it has lang, title"),
        ("<t><topic number='7'><title>x</title><title>y</title></topic></t>", "topic 1 has more than one <title>"),
        ("<html></html>", "there is no <topic>, <top>, <query> in <html>"),
    ):
        with pytest.raises(ValueError, match=message):
            read_xml_topics(file(content))


def test_trec_topics(file):
    content = "<top>\n<num> Number: 301\n<title> International\n Crime &amp; law\n<desc> Description:\nlong\n</top>\n"
    assert list(read_trec_topics(file(content))) == [(1, "301", "International Crime & law")]
    content = "<top><num>2</num><title>p < 0.05 and q > 2</title></top>\n"
    assert list(read_trec_topics(file(content))) == [(1, "2", "p < 0.05 and q > 2")]
    for content, found in (
        ("<top lang='de'><num>1</num></top>", "lang, num"),
        ("<top><title>cat</title></top>", "title"),
        ("<top><num>1</num><EN-title>cat</EN-title><DE-title>Katze</DE-title></top>", "num, EN-title, DE-title"),
        ("<top><num>1</num><title>a</title><title>b</title></top>", "num, title, title"),
        ("<top></top>", "nothing"),
    ):
        with pytest.raises(ValueError, match=f"line 1: expected a <top> with .* found a <top> with {found}$"):
            list(read_trec_topics(file(content)))


def test_trec_documents(file):
    content = (
        "<DOC>\n<DOCNO> FT-1 </DOCNO>\n<TITLE>Fish &amp; chips</TITLE>\n<TEXT>\nare <b>good</b>\n</TEXT>\n</DOC>\n\n"
        "<doc><docno>2</docno></doc>\n"
    )
    assert list(read_trec_documents(file(content))) == [
        (1, {"docno": "FT-1", "text": "Fish & chips are good"}),
        (9, {"docno": "2", "text": ""}),
    ]
    content = (
        "<DOC id='a' type=\"story\" >\nx\n</DOC>\n<DOC ID=b>y</DOC >\n<DOC\tid='c'><DOCNO >d</DOCNO ></DOC>\n"
        "<DOC><DOCID> e </DOCID>z</DOC>\n<DOC><DOCNO a='1'>f</DOCNO><DOCID>7</DOCID></DOC>\n"
    )
    assert [(doc["docno"], doc["text"]) for _, doc in read_trec_documents(file(content))] == [
        ("a", "x"), ("b", "y"), ("d", ""), ("e", "z"), ("f", "7"),
    ]  # fmt: skip
    content = "<DOC>\n<DOCNO>1</DOCNO>\np < 0.05 and <!-- note --> q > 2\n</DOC>\n"
    assert [doc["text"] for _, doc in read_trec_documents(file(content))] == ["p < 0.05 and q > 2"]
    for content, message in (
        ("<DOC type='story'>\n<TEXT>x</TEXT>\n</DOC>", "line 1: a <DOC> without <DOCNO>.* are {'type': 'story'}"),
        ("<set>\n<DOC one two>\n<P>x", "line 3: expected <DOC>, found '<P>x', after '<DOC one two>' in line 2"),
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
