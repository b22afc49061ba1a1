import gzip

import pandas as pd
import pytest

from pyterrier_merge.collections.reading.runs import read_run, write_run

ROWS = [("1", "d1", 2.5), ("1", "d2", 1.5), ("2", "d1", -3.0)]


@pytest.mark.parametrize(
    "text",
    [
        "1 Q0 d1 1 2.5 x\n1 Q0 d2 2 1.5 x\n2 Q0 d1 1 -3 x\n",
        "1\tQ0\td1\t1\t2.5\tx\r\n1 Q0\td2 2 1.5 x\r\n\r\n2   Q0 d1 1 -3e0 x\r\n",
        "<SYSDESC>[our system]</SYSDESC>\n1 0 d1 1 2.5 x\n1 0 d2 2 1.5 x\n2 0 d1 1 -3 x",
    ],
)
@pytest.mark.parametrize("packed", [False, True])
def test_runs_as_people_have_them(text, packed, tmp_path):
    file = tmp_path / "run"
    file.write_bytes(gzip.compress(text.encode()) if packed else text.encode())
    assert list(read_run(file).itertuples(index=False, name=None)) == ROWS


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("1 Q0 d1 1 2.5 x\n1 Q0 d1 2 2.5 x\n", r"line 2.*qid '1' and docno 'd1' are already in line 1"),
        ("1 Q0 d1 1 2.5 x\n1 Q0 d2 2 1.5\n", r"line 2.*six columns|line 2.*6 columns .*found 5: '1 Q0 d2 2 1\.5'"),
        ("1 Q0 d1 1 high x\n", r"line 1.*the score 'high' is not a finite number"),
        ("1 Q0 d1 1 nan x\n", r"line 1.*the score 'nan' is not a finite number"),
        ("\n", "there is no result in it"),
    ],
)
def test_a_wrong_line_is_named(text, message, tmp_path):
    (tmp_path / "run").write_text(text)
    with pytest.raises(ValueError, match=message):
        read_run(tmp_path / "run")


def test_what_is_written_is_read_again(tmp_path):
    frame = pd.DataFrame(ROWS, columns=["qid", "docno", "score"]).assign(rank=[0, 1, 0])
    for name in ("run", "run.gz"):
        write_run(frame, tmp_path / name, "mine")
        pd.testing.assert_frame_equal(read_run(tmp_path / name), frame.drop(columns="rank"))
