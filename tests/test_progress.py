import io
import sys

import pytest

from pyterrier_merge import progress
from pyterrier_merge.progress import shown


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.mark.parametrize(("stream", "seen"), [(Terminal(), True), (io.StringIO(), False), (None, False)])
def test_bars_are_for_terminals(stream, seen, monkeypatch):
    monkeypatch.setattr(sys, "stderr", stream)
    assert shown(None) is seen
    assert (shown(True), shown(False)) == (True, False)


def test_bars_are_for_notebooks(monkeypatch):
    shell = type("ZMQInteractiveShell", (), {})
    monkeypatch.setitem(sys.modules, "IPython", type("IPython", (), {"get_ipython": staticmethod(shell)}))
    assert shown(None)


@pytest.mark.parametrize(("delay", "drawn"), [(0.0, True), (60.0, False)])
def test_short_work_has_no_bar_unless_asked_for(delay, drawn, monkeypatch):
    monkeypatch.setattr(sys, "stderr", stream := Terminal())
    monkeypatch.setattr(progress, "DELAY", delay)
    assert list(progress.progress([1, 2], verbose=None, desc="work")) == [1, 2]
    assert ("work" in stream.getvalue()) is drawn
    assert list(progress.progress([1, 2], verbose=True, desc="asked")) == [1, 2]
    assert "asked" in stream.getvalue()
