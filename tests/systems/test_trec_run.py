"""The kind ``trec_run``: somebody else's results, checked against the collection."""

import bz2
import gzip

import pytest

from pyterrier_merge.collections.reading import runs

LINES = "1 Q0 a 1 2.5 them\n1 Q0 b 2 1.5 them\n2\tQ0\tc 7 0.5\tthem\n"


@pytest.mark.parametrize(
    ("name", "write"),
    [
        ("run.res", lambda path: path.write_text(LINES)),
        ("run.res.gz", lambda path: path.write_bytes(gzip.compress(LINES.encode()))),
        ("run.bz2", lambda path: path.write_bytes(bz2.compress(LINES.encode()))),
        ("NTCIR-J-1", lambda path: path.write_text(f"<SYSDESC>theirs\tN,N,N,N</SYSDESC>\n{LINES}")),
    ],
)
def test_a_file_is_read(make_bench, three, tmp_path, name, write):
    write(tmp_path / name)
    bench = make_bench({"theirs": {"kind": "trec_run", "file": str(tmp_path / name)}}, three)
    bench.check()
    found = bench.results("theirs", "test")
    assert found[["qid", "docno", "score", "rank"]].to_numpy().tolist() == [
        ["1", "a", 2.5, 0], ["1", "b", 1.5, 1], ["2", "c", 0.5, 0],
    ]  # fmt: skip
    assert found["query"].tolist() == ["kidney", "kidney", "liver"]
    assert bench.prepared("theirs").notes == (f"Run file {name}.",)


def test_scores_count_and_ranks_do_not(make_bench, three, tmp_path):
    (tmp_path / "run").write_text("1 Q0 a 1 0.5 x\n1 Q0 b 2 1.5 x\n")
    found = make_bench({"theirs": tmp_path / "run"}, three).results("theirs", "test")
    assert found["docno"].tolist() == ["b", "a"]


def test_another_content_is_another_system(make_bench, three, tmp_path):
    file = tmp_path / "run"
    file.write_text(LINES)
    before = make_bench({"theirs": file}, three).prepared("theirs").identity
    file.write_text(LINES.replace("2.5", "3.5"))
    assert make_bench({"theirs": file}, three).prepared("theirs").identity != before


def test_a_file_that_changes_during_a_run_is_not_the_one_that_was_read(make_bench, three, tmp_path, monkeypatch):
    file = tmp_path / "run"
    file.write_text(LINES)
    before = make_bench({"theirs": file}, three).prepared("theirs").identity
    read = runs.read_run

    def changed_later(path):
        found = read(path)
        file.write_text(LINES.replace("2.5", "3.5"))
        return found

    monkeypatch.setattr(runs, "read_run", changed_later)
    assert make_bench({"theirs": file}, three).prepared("theirs").identity == before


def test_other_splits_have_no_results(make_bench, three, tmp_path):
    (tmp_path / "run").write_text(LINES)
    assert make_bench({"theirs": tmp_path / "run"}, three).results("theirs", "dev").empty


def test_what_does_not_match_is_told(make_bench, three, tmp_path, caplog):
    (tmp_path / "run").write_text("1 Q0 a 1 2 x\n1 Q0 zz 2 1 x\n9 Q0 a 1 1 x\n")
    bench = make_bench({"theirs": tmp_path / "run"}, three)
    assert bench.prepared("theirs").notes == (
        "Run file run.",
        "1 of 2 qids in run are not test topics of three.",
        "1 of 2 docnos in run are not documents of three.",
    )
    assert "(such as 'zz')" in caplog.text
    assert set(bench.results("theirs", "test")["qid"]) == {"1"}


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ("x Q0 a 1 2 x\n", r"run belongs to another collection: none of its 1 qids is among the test topics of three"),
        ("1 Q0 x 1 2 x\n", r"run belongs to another collection: none of its 1 docnos is among the documents of three"),
        ("1 Q0 a 1 2\n", "run, line 1: a result has 6 columns"),
        ("1 Q0 a 1 high x\n", "run, line 1: the score 'high' is not a finite number"),
        ("1 Q0 a 1 nan x\n", "the score 'nan' is not a finite number"),
        ("1 Q0 a 1 2 x\n1 Q0 a 2 1 x\n", "run, line 2: qid '1' and docno 'a' are already in line 1"),
        ("\n", "there is no result in it"),
    ],
)
def test_wrong_files_are_the_reason(make_bench, three, tmp_path, lines, message):
    (tmp_path / "run").write_text(lines)
    bench = make_bench({"theirs": tmp_path / "run"}, three)
    with pytest.raises(ValueError, match=message):
        bench.runs("theirs")
    if "another collection" not in message:  # that is known when the collection is read
        with pytest.raises(ValueError, match=rf"systems\.theirs: .*{message}"):
            bench.check()


def test_a_missing_file_shows_before_any_work(make_bench, three, tmp_path):
    for path in (tmp_path / "nowhere.res", tmp_path):
        with pytest.raises(ValueError, match=rf"systems\.theirs: file: no run file {path}"):
            make_bench({"theirs": {"kind": "trec_run", "file": str(path)}}, three).check()
