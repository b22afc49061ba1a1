import io
import sys

import pytest
from pyterrier.measures import R

from pyterrier_merge import compare, progress, read_system
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


def test_what_a_call_says_holds_for_all_that_it_calls(monkeypatch):
    monkeypatch.setattr(sys, "stderr", stream := Terminal())
    monkeypatch.setattr(progress, "DELAY", 0.0)

    @progress.verbosity
    def outer(*, verbose=None):
        return list(progress.progress([1], verbose=None, desc="inner"))

    assert outer(verbose=False) == [1]
    assert stream.getvalue() == ""
    assert outer() == [1]
    assert "inner" in stream.getvalue()


def test_a_quiet_comparison_shows_no_bar(small_collection, bert_retriever, bert_language_model, tmp_path, monkeypatch):
    monkeypatch.setenv("PYTERRIER_MERGE_CACHE", str(tmp_path))
    monkeypatch.setattr(sys, "stderr", stream := Terminal())
    monkeypatch.setattr(progress, "DELAY", 0.0)
    sweep = {"grid": [[0.5, 1]], "pool": {"of": ["BM25"], "depth": 3}}
    merged = {"kind": "merged", "source": str(bert_retriever), "domain": str(bert_language_model), "sweep": sweep}
    systems = {"BM25": read_system({"kind": "bm25"}), "merged": read_system(merged)}
    compare(systems, small_collection, num_results=20, measures=[R @ 20], verbose=False)
    assert stream.getvalue() == ""
