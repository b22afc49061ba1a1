"""Judgements in the layouts of TREC, BEIR and SMART."""

from __future__ import annotations

import gzip
import logging

import pandas as pd
import pytest

from pyterrier_merge.collections.reading.qrels import lists_relevant, read_qrels, without_zeros


@pytest.fixture
def file(tmp_path):
    def write(content, name="qrels.txt"):
        path = tmp_path / name
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
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
        "topic iteration document gain\n1 0 d1 2\n1 0 d2 0\n",
        "1 0\td1\t2\n1\t0 d2 0\n",
        "  1\t 0\td1   2\n\n1 0 d2\t0\t\n",
        "1\x0b0\x0cd1 2\n1 0 d2 0\n",
        '"1"\t"d1"\t2\n"1"\t"d2"\t0\n',
        gzip.compress(b"1 0 d1 2\n1 0 d2 0\n", mtime=0),
    ],
    ids=["trec", "crlf", "three", "beir", "header", "mixed", "aligned", "feeds", "quoted", "gzip"],
)
def test_layouts_of_one_file(file, content):
    qrels = read_qrels(file(content))
    assert list(qrels.columns) == ["qid", "docno", "label"]
    assert qrels.values.tolist() == ROWS


def test_other_white_space_belongs_to_names_as_in_trec_eval(file):
    assert read_qrels(file("1 0 d\u30001 1\n1 0 d\xa02 1\n"))["docno"].tolist() == ["d\u30001", "d\xa02"]


SMART = {
    "1\t28\t0\t0.000000\n1\t35\t0\t0.000000\n": [["1", "28", 1], ["1", "35", 1]],
    "01 0028  0 0\n02 0035 0 0\n": [["01", "0028", 1], ["02", "0035", 1]],
    "1\t28\n1\t35\n": [["1", "28", 1], ["1", "35", 1]],
    "qid docno\na b\n": [["a", "b", 1]],
    "a b\na c\n": [["a", "b", 1], ["a", "c", 1]],
}


@pytest.mark.parametrize("content", SMART)
def test_lists_of_relevant_pairs(file, content):
    path = file(content, "x.REL")
    assert lists_relevant(path)
    assert read_qrels(path).values.tolist() == SMART[content]


@pytest.mark.parametrize("content", ["1 0 13 1\n1 0 14 1\n", "1 0 13 0\n", "1 0 0 0\n", "1 184 2\n1 29 0\n"])
def test_what_is_no_list_has_its_own_labels(file, content):
    path = file(content, "x.REL")
    expected = [[line.split()[0], *line.split()[-2:]] for line in content.splitlines()]
    assert not lists_relevant(path)
    assert read_qrels(path).values.tolist() == [[qid, docno, int(label)] for qid, docno, label in expected]


def test_the_layout_is_that_of_the_whole_file(file):
    """One line of a system's output does not make the others a list of relevant documents."""
    with pytest.raises(ValueError, match=r"line 1: the label '0\.000000' .*: '1 7 0 0\.000000'; .* SMART's .* every"):
        read_qrels(file("1 7 0 0.000000\n1 8 1 10.6\n", "x.REL"))


def test_leading_zeros():
    qids = pd.Series(["01", "0", "000", "10", "a01"])
    assert without_zeros(qids, ["1", "0"]).tolist() == ["1", "0", "0", "10", "a01"]
    assert without_zeros(qids, ["1", "010"]).tolist() == ["01", "0", "000", "10", "a01"]


def test_words_for_grades(file):
    grades = {"L0": 0, "L1": 1, "L2": 2}
    assert read_qrels(file("1 d1 L2\n1 d2 L0\n"), grades=grades).values.tolist() == ROWS
    assert read_qrels(file("a b high\na c low\n"), grades={"high": 1, "low": 0})["label"].tolist() == [1, 0]
    with pytest.raises(ValueError, match=r"qrels\.txt, line 2: unknown grade 'L3'; there are L0, L1, L2"):
        read_qrels(file("1 d1 L2\n1 d2 L3\n"), grades=grades)


def test_a_skipped_header_is_logged(file, caplog):
    with caplog.at_level(logging.INFO):
        read_qrels(file("query-id\tcorpus-id\tscore\n1\td1\t2\n"))
        read_qrels(file("abfrage dokument urteil\n1 d1 2\n"))
    assert [(record.levelname, record.message.rpartition("line ")[2]) for record in caplog.records] == [
        ("INFO", "1: ['query-id', 'corpus-id', 'score'] is read as a header, not as data"),
        ("WARNING", "1: ['abfrage', 'dokument', 'urteil'] is read as a header, not as data"),
    ]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("1\td1\n", r"qrels\.txt, line 1: a judgement has three columns .* four .*, found 2: '1\\td1'"),
        ("1 0 d1 1 x\n", r"line 1: a judgement has three columns .*, found 5: '1 0 d1 1 x'"),
        ("1 0 d1 1\n\n1 0\td2\n", r"line 3: expected 4 columns, as in the first line, found 3: '1 0\\td2'"),
        ("1 0 d1 1\n" + "x" * 500, "line 2: expected 4 columns, as in the first line, found 1: 'x{80}' "),
        ("1\tmy doc\t1\n", "line 1: docno 'my doc' has white space"),
        ("query-id\tcorpus-id\tscore\n1\tmy doc\t1\n", "line 2: expected 3 columns, .* found 4"),
        ("1 0 d1 1\n1 0 d2 high\n", "line 2: the label 'high' is not a whole number"),
        ("a b high\na c low\n", "line 2: the label 'low' is not a whole number"),
        ("q1 d1 high\n", "line 1: the label 'high' is not a whole number"),
        ("1 0 d1 1_0\n", "line 1: the label '1_0' is not a whole number"),
        (f"1 0 d1 {10**20}\n", "line 1: the label '1000.* is not a whole number of at most nine digits"),
        ("query-id\tcorpus-id\tscore\n", r"qrels\.txt: there is no judgement in it"),
        ("", r"qrels\.txt: there is no judgement in it"),
        ("1 0 d1 1\n1 0 d1 0\n", "line 2: qid '1' and docno 'd1' were already judged in line 1: '1 0 d1 0'"),
    ],
)
def test_wrong_judgements(file, content, message):
    with pytest.raises(ValueError, match=message):
        read_qrels(file(content))
