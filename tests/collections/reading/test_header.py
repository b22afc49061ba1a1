"""What is a header, what is data, and what is said of it."""

from __future__ import annotations

import logging

import pytest

from pyterrier_merge.collections.reading.documents import read_documents
from pyterrier_merge.collections.reading.header import named_columns, split_header
from pyterrier_merge.collections.reading.topics import read_topics


@pytest.mark.parametrize(
    ("first", "second", "judged", "header", "level"),
    [
        (["docno", "text"], ["alpha", "x"], "", True, "INFO"),
        (["_id", "text_en"], ["1", "x"], "", True, "INFO"),
        (["Query ID", "Query Text"], ["1", "x"], "", True, "INFO"),
        (["passage-id", "title", "body"], ["1", "x", "y"], "", True, "INFO"),
        (["key", "wording"], ["k1", "x"], "", True, "WARNING"),
        (["\u756a\u53f7", "\u672c\u6587"], ["1", "x"], "", True, "WARNING"),
        (["key", "wording"], ["key two", "x"], "", False, "WARNING"),  # a collection of words as docnos
        (["key", "wording"], None, "", False, "WARNING"),
        (["key", "wording"], ["k1", "x"], "key", False, None),
        (["id", "identity"], ["k1", "x"], "id", False, None),
        (["d1", "kidney"], ["d2", "x"], "", False, None),
        (["1", "query"], ["2", "x"], "", False, None),
        (["key", "a text of several words"], ["k1", "x"], "", False, None),
        (["key", "sodium: low?"], ["k1", "x"], "", False, None),
        (["key", "x" * 31], ["k1", "x"], "", False, None),
        (["", "docno", "text"], ["0", "d1", "x"], "", False, None),
    ],
)
def test_the_first_line(tmp_path, caplog, first, second, judged, header, level):
    lines = [(2, first)] + ([(3, second)] if second else [])
    with caplog.at_level(logging.INFO):
        names, rows = split_header(tmp_path / "docs.tsv", iter(lines), judged={judged})
    assert list(rows) == lines[header:]
    assert names == ([cell.lower() for cell in first] if header else [])
    assert [record.levelname for record in caplog.records] == ([level] if level else [])
    verb = "is read as a header" if header else "may be names of columns"
    assert all(f"docs.tsv, line 2: {first} {verb}" in message for message in caplog.messages)


def test_an_empty_file(tmp_path):
    names, rows = split_header(tmp_path / "docs.tsv", iter([]))
    assert (names, list(rows)) == ([], [])


def test_each_line_is_told_of_once(tmp_path, caplog):
    path = tmp_path / "docs.tsv"
    path.write_text("key\twording\nd1\tx\n")
    assert [doc["docno"] for _ in range(2) for _, doc in read_documents(path)] == ["d1", "d1"]
    assert len(caplog.messages) == 1


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["docno", "text"], (0, 1)),
        (["number", "docno", "text"], (1, 2)),
        (["number", "url", "text"], (0, 2)),
        (["pid", "passage"], (0, 1)),
        (["passage", "pid"], (1, 0)),
        (["key", "title", "wording"], (0, 2)),
        (["text", "contents"], (0, 1)),
    ],
)
def test_columns_by_name(tmp_path, names, expected):
    assert named_columns(tmp_path, names, ids=["docno"], texts=["text", "contents"], others=["title"]) == expected


def test_columns_that_are_not_plain(tmp_path):
    path = tmp_path / "docs.tsv"
    for header in ("docno\turl\tabstract", "docno\ttitle", "docno\ttext\ttext"):
        path.write_text(header + "\n" + "\t".join("123"[: header.count("\t") + 1]) + "\n")
        with pytest.raises(
            ValueError, match=f"docs.tsv: the header is {header.replace(chr(9), ', ')}; expected .* text"
        ):
            list(read_documents(path))


def test_a_topic_that_is_judged_is_not_a_header(tmp_path):
    path = tmp_path / "topics.tsv"
    path.write_text("id\tidentity\nq2\tquery\n")
    assert read_topics(path, judged={"id"})["qid"].tolist() == ["id", "q2"]
    assert read_topics(path)["qid"].tolist() == ["q2"]
