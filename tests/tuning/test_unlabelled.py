import json
import shutil

import pandas as pd
import pyterrier as pt
import pytest
from pyterrier.measures import P, R, nDCG
from several_workers import SeveralWorkers

from pyterrier_merge import E5Encoder, MergedE5Encoder, Space, bm25, known_items
from pyterrier_merge.collections import from_frames
from pyterrier_merge.tuning import unlabelled
from pyterrier_merge.tuning.agreement import UnlabelledChoice
from pyterrier_merge.tuning.unlabelled import choose_unlabelled
from pyterrier_merge.tuning.walk import Walk

WORDS = ["kidney", "liver", "fever", "pain", "heart", "rate", "acute", "renal", "high", "low", "chronic", "failure"]


def collection_of(docs):
    """Documents and one labelled query that nothing may read."""
    topics = pd.DataFrame([("1", "kidney")], columns=["qid", "query"])
    qrels = pd.DataFrame([("1", docs[0]["docno"], 1)], columns=["qid", "docno", "label"])
    return from_frames("parent", docs, topics, qrels)


@pytest.fixture(scope="module")
def docs():
    texts = {n: " ".join(WORDS[(n + n // 12 * m + m) % 12] for m in range(12)) for n in range(60)}
    return [{"docno": f"d{n}", "text": text} for n, text in texts.items()]


@pytest.fixture
def merged(bert_retriever, bert_language_model):
    return MergedE5Encoder(
        bert_retriever, bert_language_model, alpha_lower=0.5, alpha_upper=0.5, dtype="float32", device="cpu"
    )


@pytest.fixture
def all_used(monkeypatch):
    """Sixty documents make fewer items than the rule hears."""
    monkeypatch.setattr(unlabelled, "why_unused", lambda *_: "")


def test_every_kind_is_swept_and_no_judgement_is_read(merged, docs, tmp_path, monkeypatch, all_used):
    collection = collection_of(docs)
    monkeypatch.setattr(type(collection), "_qrels", lambda *_: pytest.fail("judgements were read"))
    monkeypatch.setattr(type(collection), "_topics", lambda *_: pytest.fail("queries were read"))
    found = choose_unlabelled(merged, collection, grid=[(0.5, 1), (1, 1), (0, 0)], n=40, root=tmp_path)
    assert {way: len(sweep.per_query) for way, sweep in found.sweeps.items()} == {"head": 40, "crop": 40}
    assert set(found.choice.merges.index) == {"(1, 1)", "(0.5, 1)", "(0, 0)"}
    assert found.chose_source
    assert found.best.recipe.keeps_source
    assert "Without labels (0 judgements): the source is kept" in found.describe()
    assert "title: documents of parent have neither title nor name" in found.describe()
    assert (merged.alpha_lower, merged.alpha_upper) == (0.5, 0.5)


def test_what_the_rule_chooses_is_the_best_encoder(merged, docs, tmp_path, monkeypatch, all_used):
    used = {}

    def chooses(values, source, lexical, left_out, kept, **_):
        used.update(values=values, source=source, lexical=lexical, kept=kept)
        return UnlabelledChoice("(0.25, 0.75)", "", pd.DataFrame(), pd.DataFrame())

    monkeypatch.setattr(unlabelled, "choose", chooses)
    found = choose_unlabelled(merged, collection_of(docs), grid=[0.25, 0.75], n=40, root=tmp_path)
    assert (found.best.alpha_lower, found.best.alpha_upper) == (0.25, 0.75)
    assert not found.chose_source
    shares = {"(0.25, 0.25)": 0.25, "(0.25, 0.75)": 0.5, "(0.75, 0.25)": 0.5, "(0.75, 0.75)": 0.75}
    for frame in used["values"].values():
        assert dict(zip(frame, used["kept"], strict=True)) == shares
    assert used["values"]["crop"]["(0.25, 0.75)"].tolist() == found.sweeps["crop"].per_query[0.25, 0.75].tolist()
    items = known_items(collection_of(docs), 40, query="crop")
    topics, qrels = (pd.concat([of("dev"), of("train")]) for of in (items.topics, items.qrels))
    by_pyterrier = pt.Evaluate(bm25(items, num_results=100)(topics), qrels, [nDCG @ 10])
    assert used["lexical"]["crop"] == pytest.approx(by_pyterrier["nDCG@10"])


def test_where_too_few_kinds_are_used_no_merge_is_scored(merged, docs, tmp_path, monkeypatch):
    monkeypatch.setattr(unlabelled, "sweep", lambda *_, **__: pytest.fail("a merge was scored"))
    found = choose_unlabelled(merged, collection_of(docs), n=40, root=tmp_path)
    assert found.chose_source
    assert "head: 40 items are too few, 100 are needed" in found.describe()
    used = iter(["", "a reason"])
    monkeypatch.setattr(unlabelled, "why_unused", lambda *_: next(used))
    found = choose_unlabelled(merged, collection_of(docs), n=40, root=tmp_path)
    assert "crop: a reason. Not used: head: no other kind is left to agree with it" in found.describe()


@pytest.mark.parametrize(("query", "used"), [("drawn", "crop"), ("head", "crop"), ("crop", "head")])
def test_a_kind_that_a_model_was_trained_on_is_left_out(
    query, used, docs, bert_retriever, bert_language_model, tmp_path, monkeypatch, all_used
):
    monkeypatch.setattr(unlabelled, "KINDS", 1)
    domain = shutil.copytree(bert_language_model, tmp_path / "domain")
    (domain / "training.json").write_text(json.dumps({"objective": "known-items", "settings": {"query": query}}))
    trained = MergedE5Encoder(bert_retriever, domain, alpha_lower=0.5, alpha_upper=1, dtype="float32", device="cpu")
    found = choose_unlabelled(trained, collection_of(docs), grid=[(0.5, 1)], n=40, root=tmp_path / "indexes")
    [(way, sweep)] = found.sweeps.items()
    assert way == used
    items = known_items(collection_of(docs), 40, query=way)
    assert set(sweep.per_query.index) == set(items.topics("dev")["qid"])  # those of "train" were trained on
    assert "a domain model was trained on such items" in found.describe()
    assert str(tmp_path) not in found.describe()


def test_what_cannot_be_chosen_on_is_refused(merged, docs, bert_retriever):
    with pytest.raises(TypeError, match="alphas are chosen for a MergedE5Encoder; found E5Encoder"):
        choose_unlabelled(E5Encoder(bert_retriever, device="cpu"), collection_of(docs))
    with pytest.raises(ValueError, match="consists of known items"):
        choose_unlabelled(merged, known_items(collection_of(docs), 40))
    with pytest.raises(ValueError, match="R@1000 looks deeper than num_results, 100"):
        choose_unlabelled(merged, collection_of(docs), metric=R @ 1000)
    with pytest.raises(ValueError, match="needs judgements with a label of 2"):
        choose_unlabelled(merged, collection_of(docs), metric=P(rel=2) @ 10)
    with pytest.raises(ValueError, match=r"\[0, 1\]"):
        choose_unlabelled(merged, collection_of(docs), grid=[1.5])
    with pytest.raises(ValueError, match="the grid has 1,024 points"):
        choose_unlabelled(merged, collection_of(docs), grid=[step / 31 for step in range(32)])
    merged.recipe = Space.segments(3).recipe(merged.recipe, {"alpha_1": 0, "alpha_2": 0.5, "alpha_3": 1})
    with pytest.raises(ValueError, match="the recipe needs two segments"):
        choose_unlabelled(merged, collection_of(docs))


def test_points_that_look_alike_have_names_of_their_own(merged, docs, tmp_path, all_used):
    grid = [(0.5, 1), (0.50000001, 1)]
    found = choose_unlabelled(merged, collection_of(docs), grid=grid, n=40, root=tmp_path)
    assert list(found.choice.merges.index) == ["(0.5, 1.0)", "(0.50000001, 1.0)"]


def test_every_merge_encodes_the_documents_of_a_kind_once_by_the_executor(
    merged, docs, tmp_path, monkeypatch, all_used
):
    """Two kinds, with four merges and the domain model each; before them the source, for the choice of kinds."""
    real, finished = Walk._finish, []
    monkeypatch.setattr(Walk, "_finish", lambda walk, point: finished.append(point.recipe) or real(walk, point))
    workers = SeveralWorkers(2)
    choose_unlabelled(merged, collection_of(docs), grid=[0.25, 0.75], n=40, root=tmp_path, executor=workers)
    assert len(finished) == 2 * 6
    assert workers.taken[:2] == [(merged.recipe.unmerged,)] * 2


def test_texts_too_short_for_items_are_counted_and_keep_the_source(merged):
    short = [{"docno": f"d{n}", "text": "too short"} for n in range(20)]
    found = choose_unlabelled(merged, collection_of(short), n=20)
    assert found.chose_source
    assert found.best.recipe.keeps_source
    assert "head: parent: 0 known items; skipped: 20 documents that are too short" in found.describe()
