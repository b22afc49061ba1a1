"""The kind ``pipeline``: the user's own function, and everything that it may do wrong."""

import sys

import pytest

MODULE = '''
"""Pipelines of a test."""
import pandas as pd
import pyterrier as pt
from pyterrier_merge import bm25

class Stage(pt.Transformer):
    def __init__(self, answer):
        self.answer = answer
    def transform(self, inp):
        return self.answer(inp)

def lexical(collection, k1=1.2):
    return bm25(collection, k1=k1, num_results=20)

def first(collection, docno="a", score=1.0):
    return Stage(lambda inp: inp.assign(docno=docno, score=score))

def nothing(collection):
    return Stage(lambda inp: None)

def empty(collection):
    return Stage(lambda inp: pd.DataFrame(columns=["qid", "docno", "score"]))

def topics(collection):
    return Stage(lambda inp: inp)

def strangers(collection):
    return Stage(lambda inp: pd.DataFrame({"qid": ["99"], "docno": ["a"], "score": [1.0]}))

def breaks(collection):
    return Stage(lambda inp: inp["no such column"])

def fails(collection):
    raise KeyError("not today")

def name(collection):
    return collection.name

class Callable:
    def __call__(self, collection):
        return first(collection)

instance = Callable()
number = 7
'''


@pytest.fixture
def module(tmp_path, monkeypatch):
    """``own_pipelines`` in the current folder."""
    (tmp_path / "own_pipelines.py").write_text(MODULE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    yield tmp_path / "own_pipelines.py"
    sys.modules.pop("own_pipelines", None)


def section(function, **arguments):
    return {
        "kind": "pipeline",
        "function": f"own_pipelines:{function}",
        **({"arguments": arguments} if arguments else {}),
    }


def test_a_function_of_the_current_folder_is_called_with_the_collection(make_bench, module):
    bench = make_bench({"own": section("lexical"), "BM25": {"kind": "bm25"}})
    bench.check()
    assert bench.results("own", "test").equals(bench.results("BM25", "test"))
    assert bench.prepared("own").notes == ("Pipeline own_pipelines:lexical.",)


def test_arguments_are_passed_and_are_part_of_the_identity(make_bench, three, module):
    bench = make_bench({"plain": section("first"), "other": section("first", docno="b", score=2.0)}, three)
    assert bench.results("other", "test")[["docno", "score"]].to_numpy().tolist() == [["b", 2.0]] * 2
    assert bench.prepared("plain").identity != bench.prepared("other").identity
    assert bench.prepared("other").notes == ("Pipeline own_pipelines:first with docno='b', score=2.0.",)


def test_another_source_file_is_another_system(make_bench, three, module):
    before = make_bench({"own": section("first")}, three).prepared("own").identity
    module.write_text(MODULE.replace('docno="a"', 'docno="b"'))
    bench = make_bench({"own": section("first")}, three)
    bench.check()
    assert bench.prepared("own").identity != before
    assert bench.results("own", "test")["docno"].tolist() == ["b", "b"]


def test_a_source_file_that_changes_during_a_run_is_not_the_one_that_ran(make_bench, three, module):
    before = make_bench({"own": section("first")}, three).prepared("own").identity
    bench = make_bench({"own": section("first")}, three)
    bench.check()
    module.write_text(MODULE.replace('docno="a"', 'docno="b"'))
    assert bench.prepared("own").identity == before
    assert bench.results("own", "test")["docno"].tolist() == ["a", "a"]


def test_any_callable_will_do(make_bench, three, module):
    bench = make_bench({"own": section("instance")}, three)
    assert bench.results("own", "test")["docno"].tolist() == ["a", "a"]


def test_no_result_at_all_is_a_system_that_finds_nothing(make_bench, three, module):
    assert make_bench({"own": section("empty")}, three).results("own", "test").empty


@pytest.mark.parametrize(
    ("function", "message"),
    [
        ("nothing", "own returned NoneType, expected a frame of results"),
        ("topics", "own returned qid, query, expected qid, docno and score: docno, score is missing"),
        ("strangers", "own returned results for queries that were not asked, such as qid '99'"),
        ("breaks", r"searching failed: KeyError: 'no such column' \(own_pipelines\.py, line \d+\)"),
        ("fails", "calling own_pipelines:fails failed: KeyError: 'not today'"),
        ("name", "own_pipelines:name returned str, expected a PyTerrier transformer"),
    ],
)
def test_what_it_does_wrong_is_the_reason(make_bench, three, module, function, message):
    with pytest.raises((ValueError, RuntimeError), match=message):
        make_bench({"own": section(function)}, three).runs("own")


def test_unknown_arguments_are_the_reason(make_bench, three, module):
    with pytest.raises(
        RuntimeError, match=r"calling own_pipelines:first failed: TypeError: .*unexpected keyword.*'doc'"
    ):
        make_bench({"own": section("first", doc="x")}, three).runs("own")


@pytest.mark.parametrize(
    ("function", "message"),
    [
        ("nowhere:f", r"cannot import 'nowhere:f' \(ModuleNotFoundError: No module named 'nowhere'\)"),
        ("own_pipelines:frist", r"cannot import 'own_pipelines:frist' \(AttributeError: "),
        ("own_pipelines:number", "'own_pipelines:number' is int, expected a function"),
    ],
)
def test_what_cannot_be_imported_shows_before_any_work(make_bench, three, module, function, message):
    with pytest.raises(ValueError, match=rf"systems\.own: function: {message}"):
        make_bench({"own": {"kind": "pipeline", "function": function}}, three).check()


@pytest.mark.parametrize("code", ["raise KeyError('x')", "import = 1", "1 / 0"])
def test_a_module_that_breaks_shows_before_any_work(make_bench, three, module, code):
    module.write_text(code)
    with pytest.raises(ValueError, match=r"systems\.own: function: cannot import 'own_pipelines:first'"):
        make_bench({"own": section("first")}, three).check()
