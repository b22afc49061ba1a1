"""Every Python block of README and docs is run, in order, as a reader would; the README with a small collection."""

import contextlib
import functools
import io
import re
from pathlib import Path

import pytest
from several_workers import SeveralWorkers

import pyterrier_merge
from pyterrier_merge import executor
from pyterrier_merge.collections.pool import pooled

ROOT = Path(__file__).resolve().parents[1]
README = ROOT / "README.md"
DOCS = sorted((ROOT / "docs").glob("*.md"))


def run_blocks(page):
    """Run the blocks of a page one after the other; return the names that they leave, and what each printed."""
    blocks = re.findall(r"^```python\n(.*?)^```", page.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)
    names, printed = {}, []
    for block in blocks:
        with contextlib.redirect_stdout(io.StringIO()) as out:
            exec(compile(block, str(page), "exec"), names)  # noqa: S102 (our own pages)
        printed.append(out.getvalue().strip())
    return names, printed


@pytest.fixture
def small_part(monkeypatch, tmp_path):
    """The judged documents of the dev queries stand for the whole, and a training of two steps for one of minutes."""
    whole = pyterrier_merge.get_collection("hpo")

    def part(_name):
        collection = pooled(whole, "dev", [], depth=1)
        object.__setattr__(collection, "splits", ("dev", "test"))
        object.__setattr__(collection, "_topics", lambda _split: whole.topics("dev"))
        object.__setattr__(collection, "_qrels", lambda _split: whole.qrels("dev"))
        return collection

    training = pyterrier_merge.KnownItemTraining(steps=2, batch_size=4, items=40)
    short = functools.partial(pyterrier_merge.train_domain_model, settings=training)
    monkeypatch.setattr(pyterrier_merge, "get_collection", part)
    monkeypatch.setattr(pyterrier_merge, "train_domain_model", short)
    monkeypatch.setenv("PYTERRIER_MERGE_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)


def test_the_blocks_run_in_order(small_part):
    names, printed = run_blocks(README)
    assert len(printed) == 2
    assert "nDCG@10" in printed[0]  # the verdict
    assert list(names["results"]["docno"])
    assert len(names["found"].table) == 9


@pytest.mark.parametrize("page", DOCS, ids=lambda page: page.name)
def test_what_the_blocks_of_docs_print_is_on_the_page(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(executor, "OnRay", lambda *_, **__: SeveralWorkers(2))  # no cluster runs here
    text = page.read_text(encoding="utf-8")
    assert all(printed in text for printed in run_blocks(page)[1])


def test_the_measures_on_the_page_are_those_of_the_collections():
    page = (ROOT / "docs" / "evaluation.md").read_text(encoding="utf-8")
    rows = dict(re.findall(r"^\| `([\w-]+)`[^|]* \| ([\w@, ]+) \|", page, re.MULTILINE))
    assert {"nfcorpus", "miracl-ja", "jqara", "trec-cds-2014", "ntcir15-datasearch-ja"} <= set(rows)
    for name, measures in rows.items():
        measured = [str(measure) for measure in pyterrier_merge.get_collection(name).measures]
        assert measured[: len(measures.split(", "))] == measures.split(", ")
