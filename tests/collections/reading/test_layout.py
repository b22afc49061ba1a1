"""Files told by their names."""

from __future__ import annotations

import pytest

from pyterrier_merge.collections.reading.layout import find_layout


@pytest.fixture
def folder(tmp_path):
    def make(*names):
        for name in ("docs.tsv", *names):
            (tmp_path / name).parent.mkdir(exist_ok=True)
            (tmp_path / name).touch()
        return tmp_path

    return make


@pytest.mark.parametrize(
    ("name", "split"),
    [
        ("qrels", "test"),
        ("qrels.txt", "test"),
        ("QRELS.TSV.GZ", "test"),
        ("qrels.text", "test"),
        ("x.REL", "test"),
        ("qrels.dev", "dev"),
        ("qrels-train.gz", "train"),
        ("qrels_validation", "validation"),
        ("qrels.dev.small.tsv", "dev.small"),
        ("qrels.robust2004.txt", "robust2004"),
        ("qrels.fold.1", "fold.1"),  # the topics name it
        ("qrels/dev.tsv", "dev"),
        ("qrels/dev", "dev"),
        ("qrels/qrels.dev.txt.bz2", "dev"),
        ("qrels/2017.txt", "2017"),
    ],
)
def test_splits_of_judgements(folder, caplog, name, split):
    path = folder("topics.tsv", "topics.fold.1.tsv", name)
    assert find_layout(path).qrels == {split: path / name}
    assert not caplog.messages


@pytest.mark.parametrize(
    "name",
    [
        "qrels.txt.bak", "qrels.txt~", "qrels.txt.swp", "qrels.txt.orig", "qrels.txt.gz.tmp", "qrels.tmp",
        "qrels.bak.gz", "qrels copy.txt", "qrels (1).txt", "qrels_README.txt", "qrels.robust2004", "qrels/README",
        "qrels/README.md", "qrels/readme.txt", "qrels/LICENSE.txt", "qrels/dev.tsv.bak", "qrels/dev.tsv~",
        "qrels/#dev.tsv#", "qrels/notes",
    ],
)  # fmt: skip
def test_what_is_not_judgements(folder, caplog, name):
    path = folder("topics.tsv", "qrels.txt", name, "qrels/.dev.tsv.swp")
    assert find_layout(path).qrels == {"test": path / "qrels.txt"}
    (message,) = caplog.messages
    assert f"not read as judgements: {name}; their names end in .tsv, .txt" in message


def test_topics_by_split(folder):
    path = folder(
        "qrels.txt", "topics.tsv", "queries.dev.small.tsv.gz", "topics-train.jsonl", "topics.tsv.bak", "x.qry.bak"
    )
    assert {split: file.name for split, file in find_layout(path).topics.items()} == {
        "": "topics.tsv",
        "dev.small": "queries.dev.small.tsv.gz",
        "train": "topics-train.jsonl",
    }
