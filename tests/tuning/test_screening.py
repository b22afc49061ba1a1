"""All points on a pool, the best few on the whole collection."""

import pytest
from pyterrier.measures import RR, P
from scipy import stats

from pyterrier_merge import MergedE5Encoder, Search, Space, sweep
from pyterrier_merge.collections import from_frames
from pyterrier_merge.collections.pool import pooled


@pytest.fixture
def encoder(bert_retriever, bert_language_model):
    return MergedE5Encoder(
        bert_retriever, bert_language_model, alpha_lower=1, alpha_upper=1, dtype="float32", device="cpu"
    )


def test_the_best_of_the_pool_are_confirmed_with_the_source(encoder, small_collection, tmp_path):
    pool = pooled(small_collection, "dev", [], depth=1)
    settings = {"grid": [0, 0.5, 1], "metric": RR, "root": tmp_path}
    found = sweep(encoder, small_collection, screen=pool, confirm=2, **settings)
    on_pool, whole = sweep(encoder, pool, **settings), sweep(encoder, small_collection, **settings)
    assert found.domain is None
    assert found.screening.table["pool"].tolist() == on_pool.table["RR"].tolist()
    ranked = sorted(on_pool.per_query, key=lambda pair: (-round(on_pool.per_query[pair].mean(), 12), -sum(pair)))
    assert list(found.per_query) == list(dict.fromkeys([*ranked[:2], (1, 1)]))
    for pair in found.per_query:
        assert found.per_query[pair].tolist() == whole.per_query[pair].tolist()
    both = found.screening.table.dropna()
    assert both["whole"].tolist() == [whole.per_query[tuple(pair)].mean() for pair in both.iloc[:, :2].to_numpy()]
    tau = stats.kendalltau(both["pool"], both["whole"]).statistic
    assert found.screening.tau == (None if tau != tau else pytest.approx(tau))
    assert "9 merges were measured on a pool (10 dev queries of small, 10 documents)" in found.describe()
    assert "10 dev queries of small, 30 documents" in found.on
    assert "so both figures are too favourable" in found.describe()
    assert found.adaptive
    assert not whole.adaptive


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"confirm": 0}, "confirm is the number of merges"),
        ({"split": "test"}, "not chosen on test queries: .* by folds, with sweep_folds"),
        ({"refine": 1, "search": Search(trials=2)}, "leave 'refine' out"),
        ({"metric": P(rel=2) @ 5}, "would be 0 for every query: .* a label of 2 at least, and the highest label is 1"),
        ({"grid": [0.5], "space": Space.parts()}, "either a grid, or a space"),
    ],
)
def test_bad_input_is_refused_before_any_work(encoder, small_collection, tmp_path, monkeypatch, settings, message):
    monkeypatch.setattr(MergedE5Encoder, "encode", lambda *_, **__: pytest.fail("encoded"))
    pool = pooled(small_collection, "dev", [], depth=1)
    with pytest.raises(ValueError, match=message):
        sweep(encoder, small_collection, root=tmp_path, **{"screen": pool, **settings})


def test_a_pool_of_other_queries_is_refused(encoder, small_collection, tmp_path):
    with pytest.raises(ValueError, match="the pool has no split 'dev'"):
        sweep(encoder, small_collection, screen=pooled(small_collection, "test", [], depth=1), root=tmp_path)
    topics, qrels = ({"dev": of("dev")[:7]} for of in (small_collection.topics, small_collection.qrels))
    fewer = from_frames("fewer", small_collection.corpus_iter(), topics, qrels)
    with pytest.raises(ValueError, match="have different judged dev queries, such as 'dev-d7'"):
        sweep(encoder, small_collection, screen=fewer, root=tmp_path)
    with pytest.raises(ValueError, match="have different judged dev queries"):  # these would choose by more labels
        sweep(encoder, fewer, screen=pooled(small_collection, "dev", [], depth=1), root=tmp_path)
