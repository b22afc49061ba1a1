"""Many merges in one pass over the documents: the results of each are those of its index, also after a kill."""

import pickle
import signal
import subprocess
import sys
from itertools import product

import pandas as pd
import pytest
from pyterrier.measures import RR, nDCG
from several_workers import SeveralWorkers

from pyterrier_merge import MergedE5Encoder, sweep
from pyterrier_merge.collections import from_frames
from pyterrier_merge.encoding.forward_pass import ForwardPass
from pyterrier_merge.retrieval.dense.pipeline import dense_retriever
from pyterrier_merge.tuning.score import ScoringTask, scored, scores, work_items
from pyterrier_merge.tuning.walk import _layout

ALPHAS = (0, 0.5, 1)


@pytest.fixture
def encoder(bert_retriever, bert_language_model):
    settings = {"dtype": "float32", "device": "cpu", "batch_size": 1}
    return MergedE5Encoder(bert_retriever, bert_language_model, alpha_lower=1, alpha_upper=1, **settings)


@pytest.fixture
def recipes(encoder):
    return [encoder.recipe.with_alphas(*pair) for pair in product(ALPHAS, ALPHAS)]


@pytest.fixture
def tied(small_collection):
    """Every text three times, under docnos whose order is not that of the documents; some queries are documents."""
    texts = [doc["text"] for doc in small_collection.corpus_iter()][:12]
    docs = [{"docno": f"{'bca'[copy]}{number}", "text": text} for copy in range(3) for number, text in enumerate(texts)]
    topics = pd.DataFrame({"qid": [f"c{n}" for n in range(6)], "query": texts[:6]})
    qrels = pd.DataFrame({"qid": topics["qid"], "docno": [f"a{n}" for n in range(6)], "label": 1})
    return from_frames("tied", docs, {"dev": topics}, {"dev": qrels}, ignore_identical_ids=True)


def task_of(encoder, collection, root, **settings):
    return ScoringTask(collection, "dev", nDCG @ 3, root=root, settings=encoder.settings(), **settings)


@pytest.fixture
def kept_results(monkeypatch):
    """Results by file, as they are measured."""
    results, real = {}, ScoringTask.keep
    monkeypatch.setattr(
        ScoringTask, "keep", lambda self, file, found: (results.update({file: found}), real(self, file, found))[1]
    )
    return results


@pytest.fixture
def forward_passes(monkeypatch):
    """Batches that ran."""
    ran, real = [], ForwardPass.__call__

    def noted(self, ids, **settings):
        vectors = real(self, ids, **settings)
        ran.append(ids)
        return vectors

    monkeypatch.setattr(ForwardPass, "__call__", noted)
    return ran


@pytest.mark.parametrize("kind", ["plain", "tied", "reranking"])
@pytest.mark.parametrize(("memory", "num_results"), [(None, 3), (0, 3), (30_000, 100)])
def test_results_are_those_of_the_index(
    kind, memory, num_results, encoder, small_collection, tied, reranking_collection, tmp_path, kept_results
):
    collection = {"plain": small_collection, "tied": tied, "reranking": reranking_collection}[kind]
    task = task_of(encoder, collection, tmp_path, memory=memory, num_results=num_results)
    tried = [encoder.recipe.with_alphas(*pair) for pair in ((0.5, 0), (0.5, 1), (1, 1))]
    found = scores(tried, task)
    assert len(kept_results) == 3
    for recipe in tried:
        encoder.recipe = recipe
        retriever = dense_retriever(encoder, collection, num_results=num_results, root=tmp_path / "index")
        expected = retriever.transform(task.topics)
        columns = ["qid", "docno", "score", "rank"]
        pd.testing.assert_frame_equal(
            kept_results[task.file(encoder)][columns].reset_index(drop=True), expected[columns].reset_index(drop=True)
        )
        assert found[recipe].tolist() == task.kept(task.file(encoder)).tolist()
    assert not list(tmp_path.glob("*.flex"))  # a sweep writes no index
    assert len(list((tmp_path / "scores").iterdir())) == 3  # and leaves nothing but values


def test_the_best_merge_is_indexed_when_it_is_used(encoder, small_collection, tmp_path):
    best = sweep(encoder, small_collection, grid=[0.5, 1], metric=RR, root=tmp_path).best
    assert not list(tmp_path.glob("*.flex"))
    found = dense_retriever(best, small_collection, root=tmp_path)(small_collection.topics("test"))
    assert found["qid"].nunique() == 15
    assert len(list(tmp_path.glob("*.flex"))) == 1


def test_an_index_that_is_there_is_searched(encoder, recipes, small_collection, tmp_path, forward_passes):
    encoder.recipe = recipes[3]
    dense_retriever(encoder, small_collection, root=tmp_path)
    forward_passes.clear()
    found = scores([recipes[3]], task_of(encoder, small_collection, tmp_path))
    assert sum(map(len, forward_passes)) < 30  # queries, and what a model is tried with when it loads
    assert (
        found[recipes[3]].tolist()
        == scores([recipes[3]], task_of(encoder, small_collection, tmp_path / "b"))[recipes[3]].tolist()
    )


def test_recipes_of_the_same_weights_are_scored_once(encoder, small_collection, tmp_path, kept_results):
    task = task_of(encoder, small_collection, tmp_path)
    twins = [encoder.recipe.unmerged, encoder.recipe.with_alphas(1, 1)]
    found = scores([*twins, twins[0]], task)
    assert len(kept_results) == 1
    assert scored(twins, task) == [True, True]
    assert found[twins[0]].tolist() == found[twins[1]].tolist()
    assert scores([], task) == {}


def test_documents_are_tokenised_once(encoder, recipes, small_collection, tmp_path, monkeypatch):
    from pyterrier_merge.encoding.text_model import TextModel

    texts, real = [], TextModel._tokenise
    monkeypatch.setattr(
        TextModel, "_tokenise", lambda self, some, prompt: (texts.extend(some), real(self, some, prompt))[1]
    )
    scores(recipes, task_of(encoder, small_collection, tmp_path, memory=0))
    documents = {doc["text"] for doc in small_collection.corpus_iter()}
    assert len([text for text in texts if text in documents]) == len(documents) == 30


def test_memory_decides_how_many_documents_come_at_once(encoder, recipes, small_collection, tmp_path, monkeypatch):
    """A token of the tiny model: 32 numbers of 4 bytes after the lower half, 48 of ids; a document: 3 x 32 numbers."""
    from pyterrier_merge.tuning import walk

    blocks, real = [], walk.SharedLayers.run

    def noted(self, recipes, batches, progress):
        blocks.append(sum(batch.tokens * (32 * 4 + 48) + len(batch.rows) * 3 * 32 * 4 for batch in batches))
        return real(self, recipes, batches, progress)

    monkeypatch.setattr(walk.SharedLayers, "run", noted)
    scores(recipes, task_of(encoder, small_collection, tmp_path / "a", memory=20_000))
    assert len(blocks) > 2
    assert max(blocks) <= 20_000 < blocks[0] + blocks[1]
    before = len(blocks)
    scores(recipes, task_of(encoder, small_collection, tmp_path / "b"))
    assert len(blocks) == before + 1


def test_what_is_free_decides_where_nobody_says(monkeypatch):
    import psutil

    from pyterrier_merge.memory import spare_memory

    for free, expected in ((8 << 30, 2 << 30), (64 << 30, 4 << 30)):
        monkeypatch.setattr(psutil, "virtual_memory", lambda free=free: type("Memory", (), {"available": free}))
        assert spare_memory("cpu") == expected


@pytest.mark.parametrize("memory", [None, 30_000])
def test_what_was_interrupted_goes_on(memory, encoder, recipes, small_collection, tmp_path, forward_passes):
    def run(root, stop=None, memory=memory):
        task = task_of(encoder, small_collection, root, memory=memory)
        forward_passes.clear()
        if stop is None:
            return scores(recipes, task)
        with pytest.MonkeyPatch.context() as patch, pytest.raises(KeyboardInterrupt):
            real = ForwardPass.__call__

            def interrupted(self, ids, **settings):
                if len(forward_passes) >= stop:  # threads run batches side by side
                    raise KeyboardInterrupt
                return real(self, ids, **settings)

            patch.setattr(ForwardPass, "__call__", interrupted)
            scores(recipes, task)
        return None

    expected = run(tmp_path / "whole")
    whole = len(forward_passes)
    for stop in (whole // 3, 2 * whole // 3):
        root = tmp_path / str(stop)
        run(root, stop)
        other = memory if memory is None else 25_000  # blocks may end elsewhere
        found = run(root, memory=other)
        assert {recipe: own.tolist() for recipe, own in found.items()} == {
            recipe: own.tolist() for recipe, own in expected.items()
        }
        again = 40 + (whole // len(recipes) if memory is None else 20)  # loading, queries, the merge that was cut off
        assert len(forward_passes) <= whole - stop + again
        assert not list((root / "scores").glob("*.part.json"))


KILLED = """
import os, signal, sys, pickle
from pyterrier_merge.encoding.forward_pass import ForwardPass
from pyterrier_merge.tuning.score import scores
recipes, task, stop = pickle.load(open(sys.argv[1], "rb"))
real, ran = ForwardPass.__call__, 0
def deadly(self, ids, **settings):
    global ran
    ran += 1
    if ran == stop:
        os.kill(os.getpid(), signal.SIGKILL)
    return real(self, ids, **settings)
ForwardPass.__call__ = deadly
scores(recipes, task)
"""


def test_a_killed_process_costs_the_merge_in_flight(encoder, recipes, small_collection, tmp_path, forward_passes):
    expected = scores(recipes, task_of(encoder, small_collection, tmp_path / "whole"))
    whole, task = len(forward_passes), task_of(encoder, small_collection, tmp_path, memory=30_000)
    (tmp_path / "job").write_bytes(pickle.dumps((recipes, task, 2 * whole // 3)))
    killed = subprocess.run([sys.executable, "-c", KILLED, tmp_path / "job"], check=False)
    assert killed.returncode == -signal.SIGKILL
    assert list((tmp_path / "scores").glob("*.part.json"))
    forward_passes.clear()
    found = scores(recipes, task)
    assert all(found[recipe].equals(expected[recipe]) for recipe in recipes)
    assert len(forward_passes) < whole / 3 + 60


def test_a_damaged_or_foreign_progress_starts_anew(encoder, recipes, small_collection, tmp_path, caplog):
    expected = scores(recipes[:2], task_of(encoder, small_collection, tmp_path / "whole"))
    task = task_of(encoder, small_collection, tmp_path)
    (tmp_path / "scores").mkdir()
    contents = ("{", '{"layout": ["another"], "done": 7, "best": {}}')
    for recipe, content in zip(recipes[:2], contents, strict=True):
        encoder.recipe = recipe
        task.file(encoder).with_suffix(".part.json").write_text(content)
    found = scores(recipes[:2], task)
    assert all(found[recipe].equals(expected[recipe]) for recipe in recipes[:2])
    assert caplog.text.count("this merge starts again from the beginning") == 1


def test_several_workers_get_groups_that_share_their_lowest_segment(encoder, recipes, small_collection, tmp_path):
    executor, task = SeveralWorkers(2), task_of(encoder, small_collection, tmp_path / "groups")
    found = scores(recipes, task, executor, verbose=True)
    assert [len(group) for group in executor.taken] == [3, 3, 3]
    assert {len({recipe.segments[0] for recipe in group}) for group in executor.taken} == {1}
    together = scores(recipes, task_of(encoder, small_collection, tmp_path / "together"))
    assert all(found[recipe].equals(together[recipe]) for recipe in recipes)


@pytest.mark.parametrize(
    ("workers", "sizes"),
    [(1, [3, 3, 3]), (3, [3, 3, 3]), (6, [1, 2, 1, 2, 1, 2]), (9, [1] * 9), (64, [1] * 9)],
)
def test_more_workers_than_groups_divide_them(recipes, workers, sizes):
    groups = work_items(recipes, workers)
    assert sorted(map(len, groups)) == sorted(sizes)
    assert {recipe for group in groups for recipe in group} == set(recipes)


def test_groups_differ_where_the_lowest_layers_do(encoder, recipes):
    import dataclasses

    other = [dataclasses.replace(recipe, embeddings=0.5) for recipe in recipes[:2]]
    assert {recipe for group in work_items(recipes) for recipe in group} == set(recipes)
    assert sorted(map(len, work_items([*recipes[::-1], *other]))) == [2, 3, 3, 3]


def test_a_bar_goes_over_documents_and_merges(encoder, recipes, small_collection, tmp_path, capsys):
    found = scores(recipes, task_of(encoder, small_collection, tmp_path), verbose=True)
    best = max(own.mean() for own in found.values())
    error = capsys.readouterr().err
    assert "270/270" in error
    assert f"best nDCG@3 {best:.4f}" in error


@pytest.mark.parametrize(
    ("docs", "message"),
    [
        ([], "there is nothing to search"),
        ([{"docno": "a", "text": None}], "document 'a' has None as its text, expected a string"),
        ([{"docno": "a", "text": "x"}, {"docno": "a", "text": "y"}], "has the docno 'a', which occurs twice"),
    ],
)
def test_unusable_documents_are_refused(docs, message, encoder, small_collection, tmp_path, monkeypatch):
    task = task_of(encoder, small_collection, tmp_path)
    monkeypatch.setattr(type(small_collection), "corpus_iter", lambda self: iter(docs))
    with pytest.raises(ValueError, match=message):
        scores([encoder.recipe], task)


def test_a_candidate_that_is_no_document_is_named(encoder, reranking_collection, tmp_path, monkeypatch):
    task = task_of(encoder, reranking_collection, tmp_path)
    candidates = reranking_collection.candidates("dev")["docno"]
    real = type(reranking_collection).corpus_iter
    monkeypatch.setattr(
        type(reranking_collection), "corpus_iter", lambda self: (d for d in real(self) if d["docno"] != candidates[0])
    )
    with pytest.raises(ValueError, match=f"are no documents of it: '{candidates[0]}'"):
        scores([encoder.recipe], task)


def test_progress_on_another_device_is_not_resumed(encoder):
    """The device decides the tokens of a batch, and so the order in which documents are encoded."""
    assert _layout(encoder, "cpu") == _layout(encoder, "cpu") != _layout(encoder, "cuda:0")
