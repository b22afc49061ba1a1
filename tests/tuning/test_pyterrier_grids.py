"""PyTerrier's own tools for grids, over a pipeline that scores texts, find what a sweep finds."""

import pandas as pd
import pyterrier as pt
import pytest
from pyterrier.measures import RR

from pyterrier_merge import MergedE5Encoder, sweep, sweep_folds
from pyterrier_merge.evaluation import measure_runs

PAIRS = [(1, 1), (1, 0), (0, 1), (0, 0)]  # in this order PyTerrier, too, takes more of the source from equal pairs


@pytest.fixture
def encoder(bert_retriever, bert_language_model):
    return MergedE5Encoder(
        bert_retriever, bert_language_model, alpha_lower=0.5, alpha_upper=0.5, dtype="float32", device="cpu"
    )


@pytest.fixture
def grid(encoder):
    return {encoder: {"alpha_lower": [1.0, 0.0], "alpha_upper": [1.0, 0.0]}}


def every_text(collection, topics):
    return topics.merge(pd.DataFrame(collection.corpus_iter()), how="cross")


def test_grid_scan_and_grid_search(encoder, grid, small_collection, tmp_path):
    found = sweep(encoder, small_collection, grid=PAIRS, metric=RR, root=tmp_path)
    topics, qrels = every_text(small_collection, small_collection.topics("dev")), small_collection.qrels("dev")
    pipeline = encoder >> pt.apply.generic(lambda results: results)
    scanned = pt.GridScan(pipeline, grid, topics, qrels, ["recip_rank"], verbose=False)  # GridSearch takes no others
    pairs = scanned[["tran_0_alpha_lower", "tran_1_alpha_upper"]]  # the names of each point; tran_0 is the encoder
    assert pairs.to_numpy().tolist() == [list(pair) for pair in PAIRS]
    assert scanned["recip_rank"].tolist() == pytest.approx(found.table["RR"].tolist())
    score, setting = pt.GridSearch(pipeline, grid, topics, qrels, "recip_rank", return_type="best_setting")
    assert score == pytest.approx(found.table["RR"].max())
    assert {name: value for _, name, value in setting} == found.point
    pt.GridSearch(pipeline, grid, topics, qrels, "recip_rank")
    assert encoder == found.best
    assert f"alpha={found.point['alpha_lower']}" in repr(encoder)


def test_k_fold_grid_search(encoder, grid, small_collection, tmp_path):
    found = sweep_folds(encoder, small_collection, folds=2, grid=PAIRS, metric=RR, root=tmp_path)
    topics, qrels = small_collection.topics("test").set_index("qid"), small_collection.qrels("test")
    folds = [topics.loc[own.index].reset_index() for _, own in found.per_query.groupby("fold")]
    texts = [every_text(small_collection, fold) for fold in folds]
    own = [qrels[qrels["qid"].isin(fold["qid"])] for fold in folds]
    results, settings = pt.KFoldGridSearch(encoder, grid, texts, own, "recip_rank")
    chosen = [[value for _, _, value in setting] for setting in settings]
    assert chosen == found.choices[["alpha_lower", "alpha_upper"]].to_numpy().tolist()
    values = measure_runs({"k": results}, qrels, [RR]).set_index("qid")["value"]
    assert values[found.per_query.index].tolist() == pytest.approx(found.per_query["chosen"].tolist())
    assert (encoder.alpha_lower, encoder.alpha_upper) == (0.5, 0.5)  # KFoldGridSearch sets them back
