"""Text files, read strictly."""

from __future__ import annotations

import bz2
import csv
import gzip
import io
import zipfile

import pytest

from pyterrier_merge.collections.reading.files import kind_of, read_jsonl, read_lines, read_tsv, stem_of


@pytest.fixture
def file(tmp_path):
    def write(content, name="file.tsv"):
        path = tmp_path / name
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path

    return write


@pytest.mark.parametrize("pack", [bytes, gzip.compress, bz2.compress], ids=["plain", "gzip", "bzip2"])
def test_lines_whatever_the_packing_the_mark_and_the_ends(file, pack):
    path = file(pack("\ufeffa\tb\r\nc\u2028d\n\n腎臓".encode()))
    assert list(read_lines(path)) == [(1, "a\tb"), (2, "c\u2028d"), (3, ""), (4, "腎臓")]


def test_an_empty_file_has_no_lines(file):
    assert list(read_lines(file(""))) == []


@pytest.mark.parametrize("pack", [gzip.compress, bz2.compress], ids=["gzip", "bzip2"])
def test_a_truncated_archive_is_said(file, pack):
    packed = pack("".join(f"line {number * number}\n" for number in range(50_000)).encode())
    with pytest.raises(ValueError, match=r"file\.tsv: truncated or damaged after line \d+ "):
        list(read_lines(file(packed[: len(packed) // 2])))
    with pytest.raises(ValueError, match="truncated or damaged"):
        list(read_lines(file(packed[:40] + b"\0" * 40 + packed[80:])))


def test_what_is_no_utf8_is_said_with_its_line(file):
    with pytest.raises(ValueError, match=r"file\.tsv, line 2: not UTF-8 \(invalid start byte, byte 3\)"):
        list(read_lines(file(b"good\nbad\xff\n")))
    with pytest.raises(ValueError, match="line 1: UTF-16; expected UTF-8"):
        list(read_lines(file("a\tb".encode("utf-16"))))


def test_a_zip_archive_and_missing_files_are_said(file, tmp_path):
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        archive.writestr("a", "b")
    with pytest.raises(ValueError, match="a zip archive; unpack it"):
        list(read_lines(file(packed.getvalue())))
    with pytest.raises(FileNotFoundError, match="nothing: there is no such file"):
        list(read_lines(tmp_path / "nothing"))
    with pytest.raises(FileNotFoundError, match="is a folder, not a file"):
        list(read_lines(tmp_path))


def test_jsonl(file):
    path = file('{"a": 1}\n\n{"b": "x\\u2028y"}\r\n')
    assert list(read_jsonl(path)) == [(1, {"a": 1}), (3, {"b": "x\u2028y"})]
    with pytest.raises(ValueError, match=r"file\.tsv, line 2: no JSON \(.*\): 'oops'"):
        list(read_jsonl(file('{"a": 1}\noops')))
    with pytest.raises(ValueError, match="line 1: no JSON"):
        list(read_jsonl(file("[" * 100_000)))
    with pytest.raises(ValueError, match="line 1: expected a JSON object, found '3'"):
        list(read_jsonl(file("3")))


def test_tsv(file):
    assert list(read_tsv(file("a b\tc\n\nd\t\n"))) == [(1, ["a b", "c"]), (3, ["d", ""])]
    with pytest.raises(
        ValueError, match=r"line 2: expected 3 columns, as in the first line, found 2: 'd\\te f' \(tabs"
    ):
        list(read_tsv(file("a\tb\tc\nd\te f\n")))
    with pytest.raises(ValueError, match="line 1: expected two or more columns, found 1: 'a b'"):
        list(read_tsv(file("a b\n")))


TEXTS = ['the "kidney" failed', 'needle of 5"', '"', '"kidney" failure', "plain", "", "10", '"a phrase"', 'a ""b""']


@pytest.mark.parametrize("quoting", [csv.QUOTE_MINIMAL, csv.QUOTE_ALL, csv.QUOTE_NONNUMERIC])
def test_what_a_csv_writer_wrote_comes_back(file, quoting):
    written = io.StringIO()
    csv.writer(written, delimiter="\t", quoting=quoting, lineterminator="\n").writerows(enumerate(TEXTS))
    assert [cells for _, cells in read_tsv(file(written.getvalue()))] == [
        [str(n), text] for n, text in enumerate(TEXTS)
    ]


@pytest.mark.parametrize(
    "text", ['5" needle', '" needle', 'needle 5"', '"a" or "b"', '"a phrase"', '"5" needle"', '"', '""']
)
def test_what_an_author_wrote_stays(file, text):
    rows = [["0", text], ["1", "kidney"]]
    for ordered in (rows, rows[::-1]):
        content = "\n".join("\t".join(row) for row in ordered)
        assert [cells for _, cells in read_tsv(file(content))] == ordered


def test_quotes_are_told_by_the_first_hundred_lines(file):
    lines = [f'{number}\t"phrase"' for number in range(150)]
    assert {cells[1] for _, cells in read_tsv(file("\n".join(lines)))} == {"phrase"}
    lines[99] = "99\tphrase"
    assert [cells[1] for _, cells in read_tsv(file("\n".join(lines)))].count('"phrase"') == 149


def test_names_of_files(tmp_path):
    path = tmp_path / "Topics.Dev.TSV.gz"
    assert (kind_of(path), stem_of(path)) == ("tsv", "Topics.Dev")
    assert (kind_of(tmp_path / "qrels"), stem_of(tmp_path / "qrels.v2.txt")) == ("", "qrels.v2")
