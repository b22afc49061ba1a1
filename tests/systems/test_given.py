"""Transformers and frames that ``compare`` is given: whatever goes wrong in them is the reason of their row."""

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


def test_an_interrupt_ends_the_comparison(three, results):
    with pytest.raises(KeyboardInterrupt):
        compare({"odd": Stage(raising(KeyboardInterrupt()))}, three, measures=[RR])


def test_what_is_given_stays_as_it_is(three, results):
    frame = results(q1={"a": 1.0, "b": 2.0}, q2={"b": 1.0}).assign(further=1)
    before = frame.copy()
    compare({"frame": frame}, three, measures=[RR])
    pd.testing.assert_frame_equal(frame, before)
