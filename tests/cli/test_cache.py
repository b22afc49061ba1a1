import os
import time

import pytest
from typer.testing import CliRunner

from pyterrier_merge.cli import app


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """Two indexes, one of them 40 days old and one that is being built, and a model."""
    monkeypatch.setenv("PYTERRIER_MERGE_CACHE", str(tmp_path))
    for place in ("indexes/old.flex", "indexes/new.flex", "indexes/.built.flex.part", "adapters/hpo"):
        folder = tmp_path / place
        folder.mkdir(parents=True)
        (folder / "vectors").write_bytes(os.urandom(8192))
    before = time.time() - 40 * 24 * 60 * 60
    for path in (tmp_path / "indexes/old.flex/vectors", tmp_path / "indexes/old.flex"):
        os.utime(path, (before, before))
    return tmp_path


def call(*arguments, answer=""):
    return CliRunner().invoke(app, ["cache", *arguments], input=answer)


def names(cache):
    return sorted(path.name for path in cache.glob("*/*"))


def test_without_a_kind_each_kind_is_a_row():
    found = call()
    assert found.exit_code == 0
    rows = [line.split() for line in found.stdout.splitlines() if "adapters" in line or "indexes" in line]
    assert [(row[1], row[3]) for row in rows] == [("adapters", "1"), ("indexes", "2")]
    assert "3 entries" in found.stdout


def test_a_kind_lists_its_entries():
    found = call("indexes")
    assert "old.flex" in found.stdout
    assert "new.flex" in found.stdout
    assert ".part" not in found.stdout  # it is being built
    assert "hpo" not in found.stdout


def test_clean_deletes_what_is_old_enough(cache):
    assert call("indexes", "--clean", "--older-than", "30", "--yes").exit_code == 0
    assert names(cache) == [".built.flex.part", "hpo", "new.flex"]


@pytest.mark.parametrize(("answer", "left"), [("n\n", 4), ("y\n", 2)])
def test_clean_asks(cache, answer, left):
    assert call("indexes", "--clean", answer=answer).exit_code == 0
    assert len(names(cache)) == left


def test_an_unfinished_entry_goes_after_a_day(cache):
    before = time.time() - 2 * 24 * 60 * 60
    for path in (cache / "indexes/.built.flex.part/vectors", cache / "indexes/.built.flex.part"):
        os.utime(path, (before, before))
    call("indexes", "--clean", "--yes")
    assert names(cache) == ["hpo"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--clean"], "--clean needs the kinds to delete"),
        (["index"], "the cache has no 'index'; did you mean 'indexes'? it has adapters, indexes"),
    ],
)
def test_wrong_arguments_delete_nothing(cache, arguments, message):
    found = call(*arguments, "--yes")
    assert found.exit_code == 1
    assert message in found.stderr
    assert len(names(cache)) == 4
