"""Transformers and frames that ``compare`` is given: whatever goes wrong in them is the reason of their row."""

import re

import pandas as pd
import pyterrier as pt
import pytest
from pyterrier.measures import RR

from pyterrier_merge import compare


class Stage(pt.Transformer):
    """Answers with what a function makes of the topics."""

    def __init__(self, answer):
        self.answer = answer

    def transform(self, inp):
        return self.answer(inp)


def raising(error):
    def answer(_):
        raise error

    return answer


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (raising(KeyError("column")), "searching failed: KeyError: 'column'"),
        (raising(TypeError("no")), "searching failed: TypeError: no"),
        (raising(ZeroDivisionError()), "searching failed: ZeroDivisionError: "),
        (raising(RuntimeError("out of memory")), "out of memory"),
        (raising(ValueError("wrong")), "wrong"),
        (lambda _: None, "odd returned NoneType, expected a frame of results"),
        (lambda _: pd.DataFrame(), "odd returned no columns, expected qid, docno and score"),
        (lambda inp: inp, "docno, score is missing"),
    ],
)
def test_a_stage_that_breaks_is_a_row_and_the_others_go_on(three, results, answer, reason):
    good = results(q1={"a": 1.0}, q2={"b": 1.0})
    found = compare({"odd": Stage(answer), "good": good}, three, measures=[RR])
    assert list(found.table["name"]) == ["good"]
    assert reason in found.failed["odd"]


def test_the_report_names_no_folder_of_the_cache(three, tmp_path, monkeypatch):
    """It is a path of one machine; the rest of the name is a fingerprint."""
    monkeypatch.setenv("PYTERRIER_MERGE_CACHE", str(tmp_path))

    class Indexed(pt.Transformer):
        def transform(self, inp):
            return inp.assign(docno="a", score=1.0)

        def __repr__(self):
            return f"Indexed('{tmp_path}/indexes/three-1f')"

    assert "x: Indexed('…/indexes/three-1f')" in compare({"x": Indexed()}, three, measures=[RR]).notes


def test_the_user_s_own_line_is_named(three):
    """The last line of the traceback is pandas'."""
    failed = compare({"odd": Stage(lambda inp: inp["docno"])}, three, measures=[RR]).failed
    assert re.fullmatch(r"searching failed: KeyError: 'docno' \(test_given\.py, line \d+\)", failed["odd"])


def test_an_interrupt_ends_the_comparison(three, results):
    with pytest.raises(KeyboardInterrupt):
        compare({"odd": Stage(raising(KeyboardInterrupt()))}, three, measures=[RR])


def test_what_is_given_stays_as_it_is(three, results):
    frame = results(q1={"a": 1.0, "b": 2.0}, q2={"b": 1.0}).assign(further=1)
    before = frame.copy()
    compare({"frame": frame}, three, measures=[RR])
    pd.testing.assert_frame_equal(frame, before)
