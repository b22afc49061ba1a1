import copy
import itertools
import json
import shutil
from dataclasses import replace

import numpy as np
import pandas as pd
import pyterrier as pt
import pytest
from pyterrier.measures import AP_IA, RR, R, nDCG
from safetensors.torch import load_file, save_file

from pyterrier_merge import E5Encoder, MergedE5Encoder, Space, sweep
from pyterrier_merge.collections import from_frames
from pyterrier_merge.recipe import MergeRecipe, Segment


@pytest.fixture
def encoder(bert_retriever, bert_language_model):
    return MergedE5Encoder(
        bert_retriever, bert_language_model, alpha_lower=1, alpha_upper=1, dtype="float32", device="cpu"
    )


def with_alphas(encoder, lower, upper):
    other = copy.copy(encoder)
    other.alpha_lower, other.alpha_upper = lower, upper
    return other


def test_a_sweep_scores_each_pair_as_a_search_by_hand_does(encoder, small_collection, tmp_path):
    found = sweep(encoder, small_collection, grid=[0, 0.5, 1], metric=nDCG @ 10, root=tmp_path)
    docs = list(small_collection.corpus_iter())
    topics, qrels = small_collection.topics("dev"), small_collection.qrels("dev")
    for row in found.table.to_dict("records"):
        by_hand = with_alphas(encoder, row["alpha_lower"], row["alpha_upper"])
        scores = by_hand.encode_queries(list(topics["query"])) @ by_hand.encode_docs([doc["text"] for doc in docs]).T
        gains = []
        for qid, line in zip(topics["qid"], scores, strict=True):
            ranked = [docs[position]["docno"] for position in np.argsort(-line)]
            rank = ranked.index(qrels.set_index("qid")["docno"][qid])
            gains.append(1 / np.log2(rank + 2) if rank < 10 else 0)
        assert row["nDCG@10"] == pytest.approx(np.mean(gains), abs=1e-6)
    best = found.table.loc[found.table["nDCG@10"].idxmax()]
    assert found.table["nDCG@10"].max() == best["nDCG@10"]
    assert (found.best.alpha_lower, found.best.alpha_upper) == (found.alpha_lower, found.alpha_upper)
    assert found.per_query[found.alpha_lower, found.alpha_upper].mean() == pytest.approx(best["nDCG@10"])
    assert "10 dev queries of small, 30 documents" in found.on


def test_of_equal_pairs_the_one_with_more_source_wins(encoder, small_collection, tmp_path):
    unanswerable = small_collection.qrels("dev").assign(docno="elsewhere")
    docs, topics = small_collection.corpus_iter(), {"dev": small_collection.topics("dev")}
    collection = from_frames("unanswerable", docs, topics, {"dev": unanswerable})
    found = sweep(encoder, collection, grid=[0.25, 0.75], root=tmp_path)
    assert (found.alpha_lower, found.alpha_upper) == (0.75, 0.75)


def test_a_second_sweep_encodes_nothing(encoder, small_collection, tmp_path, monkeypatch):
    first = sweep(encoder, small_collection, grid=[0, 1], metric=RR, root=tmp_path)
    monkeypatch.setattr(MergedE5Encoder, "encode", lambda *_, **__: pytest.fail("encoded again"))
    second = sweep(with_alphas(encoder, 1, 1), small_collection, grid=[0, 1], metric=RR, root=tmp_path)
    assert first.table.equals(second.table)


@pytest.mark.parametrize("content", ["", "{", "{}", "[]", '{"RR": null}'])
def test_a_damaged_score_is_named(encoder, small_collection, tmp_path, content):
    first = sweep(encoder, small_collection, grid=[1], metric=RR, root=tmp_path)
    file = next((tmp_path / "scores").iterdir())  # that of the source or of the domain model
    file.write_text(content)
    with pytest.raises(RuntimeError, match=f"{file} is damaged: delete it"):
        sweep(encoder, small_collection, grid=[1], metric=RR, root=tmp_path)
    file.unlink()
    assert sweep(encoder, small_collection, grid=[1], metric=RR, root=tmp_path).table.equals(first.table)


def test_other_judgements_are_measured_anew(encoder, small_collection, tmp_path):
    sweep(encoder, small_collection, grid=[1], metric=RR, root=tmp_path)
    shifted = small_collection.qrels("dev").assign(docno=["d29"] * 10)
    other = from_frames(
        "small", small_collection.corpus_iter(), {"dev": small_collection.topics("dev")}, {"dev": shifted}
    )
    assert other.fingerprint == small_collection.fingerprint
    found = sweep(encoder, other, grid=[1], metric=RR, root=tmp_path)
    retrieved = pt.Evaluate(
        (encoder >> _index(tmp_path, encoder, other).retriever(num_results=100))(other.topics("dev")), shifted, [RR]
    )
    assert found.table["RR"].iloc[0] == pytest.approx(retrieved["RR"])


def test_equal_scores_are_ordered_as_trec_eval_orders_them(encoder, tmp_path):
    """Documents of one text: a, the relevant one, is the last of three by hand. RR@10 alone would have it first."""

    docs = [{"docno": docno, "text": "heart"} for docno in "abc"]
    topics = {"dev": pd.DataFrame({"qid": ["q"], "query": ["heart"]})}
    qrels = {"dev": pd.DataFrame({"qid": ["q"], "docno": ["a"], "label": [1]})}
    found = sweep(encoder, from_frames("tied", docs, topics, qrels), grid=[1], metric=RR @ 10, root=tmp_path)
    assert found.table["RR@10"].tolist() == pytest.approx([1 / 3])


def test_the_mean_is_over_topics_with_judgements(encoder, small_collection, tmp_path):
    """Two topics without judgements and three judgements without a topic change no figure."""

    topics, qrels = small_collection.topics("dev"), small_collection.qrels("dev")
    strangers = qrels[:3].assign(qid=["x", "y", "z"])
    other = from_frames(
        "small", small_collection.corpus_iter(), {"dev": topics}, {"dev": pd.concat([qrels[:8], strangers])}
    )
    few = from_frames("small", small_collection.corpus_iter(), {"dev": topics[:8]}, {"dev": qrels[:8]})
    found = sweep(encoder, other, grid=[1], metric=RR, root=tmp_path / "other")
    assert found.table.equals(sweep(encoder, few, grid=[1], metric=RR, root=tmp_path / "few").table)
    assert "8 dev queries of small" in found.on


def _index(root, encoder, collection):
    from pyterrier_merge.retrieval.dense.pipeline import dense_index

    return dense_index(encoder, collection, root=root)


def test_the_test_split_is_refused(encoder, small_collection):
    with pytest.raises(ValueError, match="not chosen on test queries"):
        sweep(encoder, small_collection, split="test")


@pytest.mark.parametrize(
    ("metric", "message"),
    [
        (R @ 6, "R@6 looks deeper than num_results, 5"),
        (AP_IA, "AP_IA cannot be computed"),
        ("nDCG@5", "expected a measure, such as ir_measures.nDCG @ 10, found 'nDCG@5'"),
    ],
)
def test_a_metric_that_cannot_be_computed_is_refused(encoder, small_collection, tmp_path, metric, message):
    with pytest.raises(ValueError, match=message):
        sweep(encoder, small_collection, metric=metric, num_results=5, root=tmp_path)
    assert not list(tmp_path.iterdir())


def test_an_encoder_that_merges_nothing_is_refused(small_collection, bert_retriever):
    with pytest.raises(TypeError, match=r"sweep sets the alphas of a MergedE5Encoder; found E5Encoder\(model="):
        sweep(E5Encoder(bert_retriever, device="cpu"), small_collection)


def test_the_encoder_that_was_given_stays_as_it_is(encoder, small_collection, tmp_path):
    """A pipeline that was built before works on, and a second sweep does not change the first one's best."""
    pipeline = encoder >> _index(tmp_path, encoder, small_collection).retriever(num_results=5)
    before = pipeline(small_collection.topics("test"))
    first = sweep(encoder, small_collection, grid=[(0.25, 0.5)], metric=RR, root=tmp_path)
    second = sweep(encoder, small_collection, grid=[(0.75, 0.0)], metric=RR, root=tmp_path)
    assert (encoder.alpha_lower, encoder.alpha_upper) == (1, 1)
    pd.testing.assert_frame_equal(pipeline(small_collection.topics("test")), before)
    assert (first.best.alpha_lower, first.best.alpha_upper) == (0.25, 0.5)
    assert (second.best.alpha_lower, second.best.alpha_upper) == (0.75, 0)


def test_the_merge_that_is_the_source_scores_as_the_source(encoder, small_collection, tmp_path):
    from pyterrier_merge.tuning.score import ScoringTask

    found = sweep(encoder, small_collection, grid=[0.5, 1], metric=RR, root=tmp_path)
    task = ScoringTask(small_collection, "dev", RR, root=tmp_path, settings={"dtype": "float32", "device": "cpu"})
    source = task.score(E5Encoder(encoder.source, dtype="float32", device="cpu"))
    assert found.source.tolist() == source.tolist() == found.per_query[1.0, 1.0].tolist()
    merged = task.score(with_alphas(encoder, 1, 1))  # the merge itself, computed for once
    assert merged.tolist() == source.tolist()


def test_a_sweep_shows_itself(encoder, small_collection, tmp_path):
    found = sweep(encoder, small_collection, grid=[0, 1], metric=RR, root=tmp_path)
    html = found._repr_html_()
    assert "<svg" in html
    assert found.describe() in html
    assert found.plot(tmp_path / "sweep.png").axes
    assert (tmp_path / "sweep.png").read_bytes().startswith(b"\x89PNG")
    assert found.table["chosen"].sum() == pytest.approx(1)


def test_another_text_field_is_another_index_and_another_score(encoder, bert_retriever, bert_language_model, tmp_path):
    docs = [{"docno": "a", "text": "heart", "title": "kidney"}, {"docno": "b", "text": "kidney", "title": "heart"}]
    topics = {"dev": pd.DataFrame({"qid": ["q", "r"], "query": ["heart", "kidney"]})}
    qrels = {"dev": pd.DataFrame({"qid": ["q", "r"], "docno": ["a", "b"], "label": [1, 1]})}
    collection = from_frames("fields", docs, topics, qrels)
    found = {}
    for field in ("text", "title"):
        own = copy.copy(encoder)
        own.text_field = field
        found[field] = sweep(own, collection, grid=[1], metric=RR, root=tmp_path).source.tolist()
    assert found["text"] == [1, 1]
    assert found["title"] == [0.5, 0.5]


def test_known_items_that_trained_a_model_do_not_choose_its_alphas(encoder, bert_language_model, tmp_path, monkeypatch):
    from pyterrier_merge import known_items
    from pyterrier_merge.training.pairs import pairs_from_collection
    from pyterrier_merge.training.provenance import describe

    words = ["kidney", "liver", "fever", "pain", "heart", "rate", "acute", "renal", "high", "low", "chronic", "failure"]
    docs = [
        {"docno": f"d{n}", "text": " ".join(words[(n + n // 12 * m + m) % 12] for m in range(12))} for n in range(60)
    ]
    topics = pd.DataFrame([("1", "kidney")], columns=["qid", "query"])
    qrels = pd.DataFrame([("1", "d1", 1)], columns=["qid", "docno", "label"])
    items = known_items(from_frames("parent", docs, topics, qrels), 20)
    domain = shutil.copytree(bert_language_model, tmp_path / "domain")
    merged = MergedE5Encoder(
        encoder.recipe.source, str(domain), alpha_lower=1, alpha_upper=1, dtype="float32", device="cpu"
    )
    for split in ("train", "dev"):
        (domain / "training.json").write_text(json.dumps(describe(pairs_from_collection(items, split))))
        if split == "train":
            assert len(sweep(merged, items, grid=[0.5], root=tmp_path / "indexes").per_query) == len(
                items.topics("dev")
            )
            continue
        with pytest.raises(
            ValueError, match=r"dev items of parent-known-items are documents that .*domain was trained on"
        ):
            sweep(merged, items, grid=[0.5], root=tmp_path / "indexes")


def test_another_space_has_source_and_domain_model_among_its_points(encoder, small_collection, tmp_path):
    found = sweep(encoder, small_collection, space=Space.parts([0.5]), metric=RR, root=tmp_path)
    assert found.table[["attention", "feed_forward"]].to_numpy().tolist() == [[0.5, 0.5], [1, 1], [0, 0]]
    plain = sweep(encoder, small_collection, grid=[(0, 0), (0.5, 0.5), (1, 1)], metric=RR, root=tmp_path)
    assert found.table["RR"].tolist() == [plain.table["RR"].iloc[row] for row in (1, 2, 0)]
    assert found.domain.tolist() == plain.per_query[0.0, 0.0].tolist()
    assert found.best.recipe == Space.parts().recipe(encoder.recipe, found.point)
    assert found.plot(tmp_path / "scores.svg").axes


def test_the_rule_of_one_standard_error_keeps_more_of_the_source(encoder, small_collection, tmp_path):
    settings = {"grid": [0, 0.5], "metric": RR, "root": tmp_path}
    best = sweep(encoder, small_collection, **settings)
    found = sweep(encoder, small_collection, rule="one-standard-error", **settings)
    assert found.table.shape[0] == best.table.shape[0] + 1  # the source may be chosen
    values = found.per_query
    top = values[max(values, key=lambda pair: (round(values[pair].mean(), 12), sum(pair)))]
    near = [
        pair for pair in values if (top - values[pair]).mean() <= (top - values[pair]).std() / np.sqrt(len(top)) + 1e-12
    ]
    assert (found.alpha_lower, found.alpha_upper) == max(near, key=lambda pair: (sum(pair), values[pair].mean()))
    value = found.table.set_index(["alpha_lower", "alpha_upper"])["RR"]
    said = (
        f"({found.alpha_lower:g}, {found.alpha_upper:g}), with RR {value[found.alpha_lower, found.alpha_upper]:.4f} ("
    )
    assert found.describe().startswith(said)
    assert f"(of the paired difference) of the best, {value.max():.4f}, on 10 dev" in found.describe()


def test_a_finer_grid_around_the_best(encoder, small_collection, tmp_path):
    settings = {"metric": RR, "root": tmp_path}
    coarse = sweep(encoder, small_collection, grid=[0, 1], **settings)
    found = sweep(encoder, small_collection, grid=[0, 1], refine=1, **settings)
    near = [sorted({alpha, 0.5}) for alpha in coarse.point.values()]
    assert set(found.per_query) == {*coarse.per_query, *itertools.product(*near)}
    assert found.table["RR"].max() >= coarse.table["RR"].max()


def test_a_single_point_is_said_to_be_one(encoder, small_collection, tmp_path):
    said = sweep(encoder, small_collection, grid=[(0.5, 1)], metric=RR, root=tmp_path).describe()
    assert "(0.5, 1), the only merge to choose, has RR 0." in said


def test_what_does_not_tell_merges_apart_is_said(encoder, small_collection, tmp_path):
    def chosen_on(docs, queries):
        topics, qrels = ({"dev": of("dev")[:queries]} for of in (small_collection.topics, small_collection.qrels))
        collection = from_frames("few", docs, topics, qrels)
        return sweep(encoder, collection, grid=[0, 1], metric=RR, root=tmp_path).describe()

    docs = list(small_collection.corpus_iter())
    assert chosen_on(docs, 1).endswith("A single query does not say how sure this is.")
    alike = chosen_on([{**doc, "text": "fever"} for doc in docs], 5)
    assert alike.startswith("all merges have the source's RR for every query (0.")
    assert "In at least 95 % of resamples, the choice scored as the source" in alike


def test_the_source_is_the_source_where_embeddings_are_merged(encoder, small_collection, tmp_path):
    encoder.recipe = replace(encoder.recipe, embeddings=Segment(0.5))
    found = sweep(encoder, small_collection, grid=[(0.5, 0.5), (1, 1)], metric=RR, root=tmp_path)
    assert found.per_query[1.0, 1.0].tolist() == found.source.tolist()
    only = sweep(encoder, small_collection, grid=[(1, 1)], metric=RR, root=tmp_path)
    assert only.best.recipe.embeddings == Segment(1)


def test_the_domain_model_is_not_changed_by_the_method(encoder, small_collection, tmp_path):
    settings = {"metric": RR, "root": tmp_path}
    plain = sweep(encoder, small_collection, grid=[(0, 0)], **settings)
    ties = Space.halves([0, 1]).with_methods("ties", density=[0.2], normalize=[False])
    found = sweep(encoder, small_collection, space=ties, **settings)
    assert found.domain.tolist() == plain.per_query[0.0, 0.0].tolist() == plain.domain.tolist()


def test_a_base_of_its_own(bert_retriever, bert_language_model, small_collection, tmp_path):
    """The domain model alone has no base, so it is loaded apart from the merges, which must not run on its weights."""
    domain = tmp_path / "domain"
    MergedE5Encoder(
        bert_retriever, bert_language_model, alpha_lower=0.25, alpha_upper=0.5, dtype="float32", device="cpu"
    ).save(domain)
    recipe = MergeRecipe.halves(
        bert_retriever, domain, 0.5, 0.5, method="task_arithmetic", base=str(bert_language_model)
    )
    encoder = MergedE5Encoder.from_recipe(recipe, dtype="float32", device="cpu")
    settings = {"metric": RR, "root": tmp_path / "indexes"}
    found = sweep(encoder, small_collection, grid=[(0.5, 0.5), (0, 0.5)], **settings)
    for lower, upper in found.per_query:
        alone = sweep(encoder, small_collection, grid=[(lower, upper)], metric=RR, root=tmp_path / f"{lower}")
        assert found.per_query[lower, upper].tolist() == alone.per_query[lower, upper].tolist()
    plain = MergedE5Encoder(bert_retriever, domain, alpha_lower=0, alpha_upper=0, dtype="float32", device="cpu")
    own = sweep(plain, small_collection, grid=[(0, 0)], **settings)
    assert found.domain.tolist() == own.per_query[0.0, 0.0].tolist()


def test_a_domain_model_whose_upper_half_was_frozen(bert_retriever, bert_language_model, small_collection, tmp_path):
    domain = shutil.copytree(bert_language_model, tmp_path / "half")
    own, tensors = (load_file(folder / "model.safetensors") for folder in (bert_retriever, domain))
    kept = {name: own[name.removeprefix("bert.")] for name in tensors if ".layer.2." in name or ".layer.3." in name}
    save_file({**tensors, **kept}, domain / "model.safetensors", metadata={"format": "pt"})
    half = MergedE5Encoder(bert_retriever, domain, alpha_lower=1, alpha_upper=1, dtype="float32", device="cpu")
    settings = {"metric": RR, "root": tmp_path / "indexes"}
    found = sweep(half, small_collection, grid=[(0.5, 1), (0, 1)], **settings)
    assert found.domain.tolist() == found.per_query[0.0, 1.0].tolist()
    with pytest.raises(ValueError, match="give the segment alpha 1"):
        sweep(half, small_collection, grid=[(0.5, 0.5)], **settings)


def test_alphas_of_halves_are_none_in_other_spaces(encoder, small_collection, tmp_path):
    found = sweep(encoder, small_collection, space=Space.parts([0.5]), metric=RR, root=tmp_path)
    assert (found.alpha_lower, found.alpha_upper) == (None, None)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"search": 40}, r"such as Search\(trials=40\); found 40"),
        ({"space": "halves"}, r"space is a Space, such as Space\.profile\(2\); found 'halves'"),
        ({"grid": 0.5}, "a grid is a list of numbers, or of points; found 0.5"),
        ({"refine": 1.5}, "refine is a number of finer grids, 0 or more; found 1.5"),
        ({"confirm": 5}, "'confirm' is of the best merges on a pool: give 'screen'"),
        ({"space": Space.layers(2)}, "the space has 2 alphas over the layers, and .* has 4 layers"),
    ],
)
def test_wrong_arguments_are_named(encoder, small_collection, tmp_path, settings, message):
    with pytest.raises(ValueError, match=message):
        sweep(encoder, small_collection, root=tmp_path, **settings)
