"""Every Python block of the README is run, in order, as a reader would; with a small part of the collection."""

import functools
import re
from pathlib import Path

import pytest

import pyterrier_merge
from pyterrier_merge.collections.pool import pooled

README = Path(__file__).resolve().parents[1] / "README.md"
BLOCKS = re.findall(r"^```python\n(.*?)^```", README.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)


@pytest.fixture
def small_part(monkeypatch, tmp_path):
    """The judged documents of the dev queries stand for the whole, and a training of three steps for one of minutes."""
    whole = pyterrier_merge.get_collection("hpo")

    def part(_name):
        collection = pooled(whole, "dev", [], depth=1)
        object.__setattr__(collection, "splits", ("dev", "test"))
        object.__setattr__(collection, "_topics", lambda _split: whole.topics("dev"))
        object.__setattr__(collection, "_qrels", lambda _split: whole.qrels("dev"))
        return collection

    training = pyterrier_merge.DomainTraining(steps=2, head_steps=1)
    short = functools.partial(pyterrier_merge.train_domain_model, settings=training)
    monkeypatch.setattr(pyterrier_merge, "get_collection", part)
    monkeypatch.setattr(pyterrier_merge, "train_domain_model", short)
    monkeypatch.setenv("PYTERRIER_MERGE_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)


def test_the_blocks_run_in_order(small_part, capsys):
    assert len(BLOCKS) == 2
    names = {}
    for block in BLOCKS:
        exec(compile(block, str(README), "exec"), names)  # noqa: S102 (our own README)
    assert "nDCG@10" in capsys.readouterr().out
    assert list(names["results"]["docno"])
    assert len(names["found"].table) == 9
