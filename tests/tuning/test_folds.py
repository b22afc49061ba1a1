"""Choosing by folds: each query's merge was chosen without it."""

import pandas as pd
import pyterrier as pt
import pytest
from pyterrier.measures import RR

from pyterrier_merge import MergedE5Encoder, Space, dense_retriever, sweep_folds
from pyterrier_merge.collections import from_frames
from pyterrier_merge.evaluation import measure_runs
from pyterrier_merge.tuning.folds import ByFold


@pytest.fixture
def encoder(bert_retriever, bert_language_model):
    return MergedE5Encoder(
        bert_retriever, bert_language_model, alpha_lower=1, alpha_upper=1, dtype="float32", device="cpu"
    )


@pytest.fixture
def found(encoder, small_collection, tmp_path):
    return sweep_folds(encoder, small_collection, folds=3, grid=[0, 1], metric=RR, root=tmp_path)


def test_every_fold_is_scored_by_what_the_others_chose(found):
    assert sorted(found.choices["queries"]) == [5, 5, 5]
    for row in found.choices.to_dict("records"):
        inside = found.per_query["fold"] == row["fold"]
        rest = found.points[~inside.to_numpy()]
        best = max(rest, key=lambda pair: (round(rest[pair].mean(), 12), sum(pair)))
        assert (row["alpha_lower"], row["alpha_upper"]) == best
        assert row["others"] == pytest.approx(rest[best].mean())
        own = found.points.loc[inside.to_numpy(), [best]]
        assert found.per_query.loc[inside, "chosen"].tolist() == own[best].tolist()
        assert row["chosen"] == pytest.approx(own[best].mean())
    assert f"{found.per_query['chosen'].mean():.4f} (source {found.per_query['source'].mean():.4f}" in found.describe()


def test_the_retriever_has_the_figures_of_the_folds(found, small_collection, tmp_path):
    retriever = found.retriever(small_collection, num_results=100, root=tmp_path)
    topics, qrels = small_collection.topics("test"), small_collection.qrels("test")
    table = pt.Experiment([retriever], topics, qrels, [RR])
    assert table["RR"].iloc[0] == pytest.approx(found.per_query["chosen"].mean())
    run = retriever(topics.sample(frac=1, random_state=0))
    values = measure_runs({"run": run}, qrels, [RR]).set_index("qid")["value"]
    assert values[found.per_query.index].tolist() == pytest.approx(found.per_query["chosen"].tolist())
    first = found.per_query.index[0]
    alone = dense_retriever(
        found.encoders[found.per_query["fold"].iloc[0] - 1], small_collection, num_results=100, root=tmp_path
    )
    assert run[run["qid"] == first]["docno"].tolist() == alone(topics[topics["qid"] == first])["docno"].tolist()
    with pytest.raises(ValueError, match="10 of 10 queries are in no fold, such as 'dev-d0'"):
        retriever(small_collection.topics("dev"))


def test_the_same_seed_gives_the_same_folds(found, encoder, small_collection, tmp_path, monkeypatch):
    monkeypatch.setattr(MergedE5Encoder, "encode", lambda *_, **__: pytest.fail("encoded again"))
    settings = {"folds": 3, "grid": [0, 1], "metric": RR, "root": tmp_path}
    again = sweep_folds(encoder, small_collection, **settings)
    pd.testing.assert_frame_equal(again.choices, found.choices)
    other = sweep_folds(encoder, small_collection, seed=1, **settings)
    assert other.per_query["fold"].tolist() != found.per_query["fold"].tolist()


def test_queries_without_judgements_are_answered_and_choose_nothing(encoder, small_collection, tmp_path):
    topics, qrels = small_collection.topics("test"), small_collection.qrels("test")
    some = from_frames("some", small_collection.corpus_iter(), {"test": topics}, {"test": qrels[2:]})
    found = sweep_folds(encoder, some, folds=3, grid=[0, 1], metric=RR, root=tmp_path)
    assert found.unjudged == tuple(topics["qid"][:2])
    assert len(found.per_query) == 13
    retriever = found.retriever(some, num_results=5, root=tmp_path)
    assert set(retriever(topics)["qid"]) == set(topics["qid"])


def test_the_source_may_be_chosen_by_one_standard_error(encoder, small_collection, tmp_path):
    found = sweep_folds(
        encoder, small_collection, folds=3, grid=[0, 0.5], rule="one-standard-error", metric=RR, root=tmp_path
    )
    assert (1.0, 1.0) in found.points


def test_the_indexes_of_all_folds_are_built_before_a_search():
    class Retriever(pt.Transformer):
        built = 0

        def ready(self):
            self.built += 1

        def transform(self, inp):
            return inp

    first, second = Retriever(), Retriever()
    ByFold([first, second, first], {}).ready()
    assert (first.built, second.built) == (1, 1)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"folds": 16}, "small, test: 15 distinct queries cannot be divided into 16 folds"),
        ({"folds": 1}, r"give fewer folds \(at least 2\)"),
        ({"split": "tset"}, "'tset'"),
        ({"grid": [0.5], "space": Space.parts()}, "either a grid, or a space"),
        ({"rule": "bst"}, "found 'bst'"),
    ],
)
def test_bad_input_is_refused_before_any_work(encoder, small_collection, tmp_path, monkeypatch, settings, message):
    monkeypatch.setattr(MergedE5Encoder, "encode", lambda *_, **__: pytest.fail("encoded"))
    with pytest.raises(ValueError, match=message):
        sweep_folds(encoder, small_collection, root=tmp_path, **settings)


def test_one_query_cannot_be_divided(encoder, tmp_path):
    topics = {"test": pd.DataFrame({"qid": ["q"], "query": ["heart"]})}
    qrels = {"test": pd.DataFrame({"qid": ["q"], "docno": ["a"], "label": [1]})}
    one = from_frames("one", [{"docno": "a", "text": "heart"}], topics, qrels)
    with pytest.raises(ValueError, match="1 distinct queries cannot be divided into 2 folds"):
        sweep_folds(encoder, one, folds=2, root=tmp_path)
