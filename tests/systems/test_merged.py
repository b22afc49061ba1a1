"""The kind ``merged``: alphas, a sweep, a mergekit file, a domain model that is trained."""

import copy
import json
from dataclasses import asdict

import pandas as pd
import pytest
from pyterrier.measures import RR, nDCG

from pyterrier_merge import E5Encoder, MaskedTraining, MergedE5Encoder, Space, sweep, sweep_folds, train_domain_model
from pyterrier_merge.collections import from_frames
from pyterrier_merge.evaluation import measure_runs
from pyterrier_merge.recipe import MergeRecipe
from pyterrier_merge.storage import cache_folder
from pyterrier_merge.systems import read_system
from pyterrier_merge.systems.domain import TrainedDomain
from pyterrier_merge.training import domain as training
from pyterrier_merge.tuning import unlabelled
from pyterrier_merge.tuning.agreement import UnlabelledChoice
from pyterrier_merge.tuning.points import in_words
from pyterrier_merge.tuning.unlabelled import LabelFree

TRAIN = {"steps": 2, "head_steps": 1, "batch_size": 8}
SMALLEST = ["d0", "d5", "d16"]


@pytest.fixture
def section(bert_retriever, bert_language_model):
    """Make a section; a setting of None is left out."""
    given = {"kind": "merged", "source": str(bert_retriever), "domain": str(bert_language_model), "dtype": "float32"}

    def make(**settings):
        return {name: value for name, value in {**given, **settings}.items() if value is not None}

    return make


@pytest.fixture
def cache(monkeypatch, tmp_path):
    monkeypatch.setenv("PYTERRIER_MERGE_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def merge(bert_retriever, bert_language_model, lower, upper, **settings):
    return MergedE5Encoder(
        bert_retriever, bert_language_model, alpha_lower=lower, alpha_upper=upper, dtype="float32", **settings
    )


def test_alphas_as_given(make_bench, section, bert_retriever, bert_language_model, small_collection):
    prepared = make_bench({"m": section(alpha_lower=0.25, alpha_upper=0.75)}).prepared("m")
    by_hand = merge(bert_retriever, bert_language_model, 0.25, 0.75, task=small_collection.task)
    assert prepared.identity == by_hand.fingerprint
    assert prepared.label == "(0.25, 0.75)"
    assert prepared.labels == frozenset()
    assert prepared.notes[0].endswith("; linear, alphas as given.")
    expected = pd.DataFrame(map(asdict, by_hand.tensor_merges))
    pd.testing.assert_frame_equal(prepared.tables["tensors"], expected)


def test_several_domain_models(make_bench, section, bert_retriever, bert_language_model, tmp_path):
    other = merge(bert_retriever, bert_language_model, 0.5, 0.25).save(tmp_path / "other")
    both = [str(bert_language_model), str(other)]
    prepared = make_bench({"m": section(domain=both, alpha_lower=0.5, alpha_upper=0.5)}).prepared("m")
    assert prepared.identity == merge(bert_retriever, both, 0.5, 0.5, task=prepared.encoder.task).fingerprint


def test_another_method(make_bench, section, bert_retriever, bert_language_model):
    given = section(method="slerp", alpha_lower=0.5, alpha_upper=1)
    prepared = make_bench({"m": given}).prepared("m")
    by_hand = merge(bert_retriever, bert_language_model, 0.5, 1, method="slerp", task=prepared.encoder.task)
    assert prepared.identity == by_hand.fingerprint
    assert "slerp" in prepared.notes[0]


def test_a_merge_that_is_the_source(make_bench, section, bert_retriever):
    bench = make_bench({"m": section(alpha_lower=1, alpha_upper=1), "source": {
        "kind": "encoder", "model": str(bert_retriever), "dtype": "float32"}})  # fmt: skip
    assert bench.prepared("m").identity == bench.prepared("source").identity
    assert type(bench.prepared("m").encoder) is E5Encoder


def test_a_sweep_is_that_of_the_public_function(
    make_bench, section, bert_retriever, bert_language_model, small_collection, tmp_path
):
    grid = [[0, 1], [0.5, 1], [1, 1]]
    bench = make_bench({"m": section(sweep={"grid": grid})})
    bench.check()
    encoder = merge(bert_retriever, bert_language_model, 1, 1, task=small_collection.task)
    by_hand = sweep(encoder, small_collection, grid=grid, metric=RR @ 10, num_results=20, root=tmp_path)
    prepared = bench.prepared("m")
    assert prepared.label == f"({by_hand.alpha_lower:g}, {by_hand.alpha_upper:g})"
    pd.testing.assert_frame_equal(prepared.tables["sweep"], by_hand.table)
    per_query = prepared.tables["sweep_per_query"]
    assert list(per_query) == ["qid", "(0, 1)", "(0.5, 1)", "(1, 1)"]
    assert per_query["(0.5, 1)"].tolist() == by_hand.per_query[(0.5, 1)].tolist()
    said = by_hand.describe()
    assert said[:1].upper() + said[1:] in prepared.notes
    assert prepared.labels == {f"small/dev/{qid}" for qid in small_collection.topics("dev")["qid"]}
    prepared.figures["sweep"](tmp_path / "map.png")
    assert (tmp_path / "map.png").read_bytes().startswith(b"\x89PNG")


def test_a_sweep_by_another_metric_on_a_pool(make_bench, section, results, small_collection):
    run = results(**{f"q{qid}": {"d29": 2.0, "d28": 1.0} for qid in small_collection.topics("dev")["qid"]})
    pool = {"of": ["run"], "depth": 1}
    for judged, documents in ((True, 11), (False, 1)):
        given = section(sweep={"grid": [[0.5, 1]], "metric": "AP", "pool": {**pool, "judged": judged}})
        test = results(**{f"q{qid}": {"d1": 1.0} for qid in small_collection.topics("test")["qid"]})
        prepared = make_bench({"run": pd.concat([run, test]), "m": given}).prepared("m")
        assert "AP" in prepared.tables["sweep"]
        assert f"10 dev queries of small, {documents} documents" in prepared.notes[1]


def test_a_mergekit_file(make_bench, section, bert_retriever, bert_language_model, tmp_path):
    file = tmp_path / "merge.yml"
    file.write_text(
        f"""merge_method: linear
models:
  - model: {bert_retriever}
    parameters: {{weight: 0.6}}
  - model: {bert_language_model}
    parameters: {{weight: 0.4}}
tokenizer_source: {bert_retriever}
dtype: float32
"""
    )
    bench = make_bench({"m": {"kind": "merged", "mergekit": str(file), "dtype": "float32"}})
    bench.check()
    prepared = bench.prepared("m")
    assert isinstance(prepared.encoder, MergedE5Encoder)
    assert isinstance(prepared.encoder.recipe, MergeRecipe)
    assert prepared.label == "(0.6)"
    assert prepared.notes[0].endswith("; as merge.yml says.")


def test_a_mergekit_file_that_is_not_there_shows_before_any_work(make_bench, tmp_path):
    with pytest.raises(ValueError, match=r"systems\.m: .*nowhere\.yml"):
        make_bench({"m": {"kind": "merged", "mergekit": str(tmp_path / "nowhere.yml")}}).check()


def test_a_trained_domain_model(make_bench, section, cache, small_collection, bert_retriever, tmp_path):
    given = section(domain={"train": TRAIN}, alpha_lower=0.5, alpha_upper=0.5)
    prepared = make_bench({"m": given}).prepared("m")
    texts = [doc["text"] for doc in small_collection.corpus_iter()]
    folder = train_domain_model(texts, bert_retriever, tmp_path / "own", settings=MaskedTraining(**TRAIN))
    by_hand = merge(bert_retriever, folder, 0.5, 0.5, task=small_collection.task)
    expected = pd.DataFrame(map(asdict, by_hand.tensor_merges))
    pd.testing.assert_frame_equal(prepared.tables["tensors"], expected)
    [note] = prepared.notes
    assert "domain model trained on the documents of small, unlabelled (steps 2, batch_size 8, " in note
    assert str(cache) not in str(prepared.notes)
    assert str(cache) not in prepared.tables["tensors"].to_csv()


def test_a_kept_domain_model_needs_no_pass_over_the_documents(
    make_bench, section, cache, monkeypatch, small_collection
):
    given = section(domain={"train": TRAIN}, alpha_lower=0.5, alpha_upper=0.5)
    first = make_bench({"m": given}).prepared("m")
    monkeypatch.setattr(training, "train_domain_model", lambda *_, **__: pytest.fail("trained again"))
    monkeypatch.setattr(type(small_collection), "_documents", lambda _: pytest.fail("read again"))
    assert make_bench({"m": given}).prepared("m").identity == first.identity


@pytest.mark.parametrize(
    "change", [{"documents": 7}, {"train": {**TRAIN, "seed": 1}}, {"train": {**TRAIN, "steps": 3}}]
)
def test_another_training_is_another_model(make_bench, section, cache, change):
    alphas = {"alpha_lower": 0.5, "alpha_upper": 0.5}
    one, other = section(domain={"train": TRAIN}, **alphas), section(domain={"train": TRAIN, **change}, **alphas)
    bench = make_bench({"one": one, "other": other})
    assert bench.prepared("one").identity != bench.prepared("other").identity
    assert len(list(cache_folder("domain-models").iterdir())) == 2


def test_other_generated_queries_are_another_model(make_bench, section, cache, tmp_path):
    file = tmp_path / "queries.jsonl"
    given = section(domain={"train": {"objective": "known-items", "query": str(file)}}, alpha_lower=1, alpha_upper=0)
    folders = []
    for query in ("kidney failure", "high fever"):
        lines = [json.dumps({"docno": f"d{n}", "predicted_queries": [f"{query} {n}"]}) for n in range(30)]
        file.write_text("\n".join(lines))
        system = read_system(given)
        [(folder, _)] = system.domain.kept(make_bench({}), str(system.source), {}).values()
        folders.append(folder)
    assert folders[0] != folders[1]


def test_a_part_of_the_documents(make_bench, section, cache, monkeypatch, small_collection):
    """Those with the smallest SHA-256 of their names, which come from a separate program (sha256sum)."""
    seen = []
    monkeypatch.setattr(training, "train_domain_model", lambda texts, *_, **__: seen.extend(texts))
    system = read_system(section(domain={"train": TRAIN, "documents": 3}, alpha_lower=0.5, alpha_upper=0.5))
    system.domain.models(make_bench({}), str(system.source), {})
    texts = {doc["docno"]: doc["text"] for doc in small_collection.corpus_iter()}
    assert seen == [texts[docno] for docno in SMALLEST]


def leaking(collection):
    topics, qrels = (
        {"dev": pd.concat([of("dev"), of("test")[:2]]), "test": of("test")}
        for of in (collection.topics, collection.qrels)
    )
    return from_frames("leaking", collection.corpus_iter(), topics, qrels)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"sweep": {"split": "test"}},
            r"sweep\.split: nothing can be chosen on 'test', which the tables are computed on",
        ),
        (
            {"sweep": {"split": "valid"}},
            r"sweep\.split: small has no split 'valid' to choose on; it has dev, test: .*alpha",
        ),
        ({"sweep": {"metric": "R@50"}}, "R@50 looks deeper than num_results, 20"),
        (
            {"domain": {"train": {"objective": "known-items", "query": "titel"}}, "sweep": {}},
            "'titel' is neither a file",
        ),
        ({"sweep": {"collection": "smal"}}, "the experiment has no collection 'smal'; did you mean 'small'"),
        ({"domain": {"collection": "other"}, "sweep": {}}, "the experiment has no collection 'other'; it has small"),
        (
            {"domain": {"collection": "other"}, "alpha_lower": 0.5, "alpha_upper": 1},
            "the experiment has no collection 'other'; it has small",
        ),
    ],
)
def test_what_would_show_after_hours_shows_before_any_work(make_bench, section, settings, message):
    with pytest.raises(ValueError, match=rf"systems\.m: {message}"):
        make_bench({"m": section(**settings)}).check()


def test_dev_queries_that_are_test_queries_are_refused(make_bench, section, small_collection):
    with pytest.raises(
        ValueError, match=r"sweep\.split: 2 of 12 dev queries are test queries too \(such as qid 'test-d10'\)"
    ):
        make_bench({"m": section(sweep={})}, leaking(small_collection)).check()
    make_bench({"m": section(alpha_lower=0.5, alpha_upper=1)}, leaking(small_collection)).check()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"alpha_lower": 0.5}, "linear needs 'alpha_lower' and 'alpha_upper', or 'sweep'"),
        ({"alpha_lower": 1.5, "alpha_upper": 1}, "less than or equal to 1"),
        ({"domain": None, "sweep": {}}, "a merge needs 'source' and 'domain', or 'mergekit'"),
        ({"domain": [], "sweep": {}}, "at least one domain model"),
        ({"domain": {"train": {"step": 1}}, "sweep": {}}, r"train\.step: unknown field; did you mean 'steps'"),
        ({"domain": {"documents": 0}, "sweep": {}}, "greater than or equal to 1"),
        ({"domain": {"seeds": [1, 1]}, "sweep": {}}, r"each once; found \[1, 1\]"),
        ({"domain": {"seeds": [0.5]}, "sweep": {}}, "valid integer"),
        ({"domain": {"seeds": [-1]}, "sweep": {}}, "greater than or equal to 0"),
        ({"domain": {"train": {"objective": "known-items", "negatives": 3}}, "sweep": {}}, "have no hard negatives"),
        ({"sweep": {"pool": {"of": [], "judged": False}}}, "the pool is empty"),
        ({"sweep": {"pool": {"of": ["x"], "depth": 0}}}, "greater than or equal to 1"),
    ],
)
def test_wrong_sections_are_refused(section, settings, message):
    with pytest.raises(ValueError, match=message):
        read_system(section(**settings))


def test_models_that_cannot_be_merged_are_the_reason(make_bench, section, mistral_language_model):
    bench = make_bench({"m": section(domain=str(mistral_language_model), alpha_lower=0.5, alpha_upper=0.5)})
    with pytest.raises(ValueError, match="these models cannot be merged"):
        bench.runs("m")


@pytest.mark.parametrize("chosen", ["(0.25, 1)", None])
def test_alphas_without_labels(make_bench, section, small_collection, bert_retriever, monkeypatch, chosen):
    given = {}

    def choose_unlabelled(encoder, collection, **settings):
        given.update(settings, collection=collection)
        best = copy.copy(encoder)
        best.recipe = encoder.recipe.with_alphas(0.25, 1) if chosen else encoder.recipe.unmerged
        merges = pd.DataFrame({"gain": [0.1]}, index=pd.Index(["(0.25, 1)"], name="merge"))
        kinds = pd.DataFrame({"queries": [9]}, index=pd.Index(["head"], name="kind"))
        return LabelFree(best, UnlabelledChoice(chosen, "so it is.", merges, kinds), {})

    monkeypatch.setattr(unlabelled, "choose_unlabelled", choose_unlabelled)
    sections = {"m": section(sweep={"on": "known-items", "grid": [0, 1], "items": 40, "seed": 3, "metric": "nDCG@5"})}
    bench = make_bench(sections)
    bench.check()
    prepared = bench.prepared("m")
    asked = {name: given[name] for name in ("grid", "n", "seed", "metric", "collection")}
    assert asked == {"grid": (0, 1), "n": 40, "seed": 3, "metric": nDCG @ 5, "collection": small_collection}
    assert prepared.labels == frozenset()
    assert prepared.notes[-1] == "Without labels (0 judgements): so it is."
    assert (prepared.label, type(prepared.encoder)) == ((chosen, MergedE5Encoder) if chosen else ("(1, 1)", E5Encoder))
    assert prepared.tables["sweep_kinds"].to_dict("list") == {"kind": ["head"], "queries": [9]}


def test_labels_have_no_place_in_a_choice_without_them(section):
    with pytest.raises(ValueError, match="split"):
        read_system(section(sweep={"on": "known-items", "split": "dev"}))


def test_alphas_by_folds_of_the_tables_own_queries(
    make_bench, section, cache, bert_retriever, bert_language_model, small_collection, tmp_path
):
    bench = make_bench({"m": section(sweep={"grid": [0, 1], "folds": 3, "split": "test"})})
    bench.check()
    encoder = merge(bert_retriever, bert_language_model, 1, 1, task=small_collection.task)
    by_hand = sweep_folds(encoder, small_collection, folds=3, grid=[0, 1], metric=RR @ 10, num_results=20)
    prepared = bench.prepared("m")
    pd.testing.assert_frame_equal(prepared.tables["sweep"], by_hand.choices)
    assert prepared.labels == {f"small/test/{qid}" for qid in small_collection.topics("test")["qid"]}
    assert prepared.label == "(3 folds)"
    assert prepared.encoder is None
    run = bench.results("m", "test")
    values = measure_runs({"m": run}, small_collection.qrels("test"), [RR @ 10]).set_index("qid")["value"]
    assert values[by_hand.per_query.index].tolist() == pytest.approx(by_hand.per_query["chosen"].tolist())
    other = make_bench({"m": section(sweep={"grid": [0, 1], "folds": 3, "split": "test", "seed": 1})})
    assert other.prepared("m").identity != prepared.identity


def test_the_best_of_a_pool_are_confirmed_on_the_whole(make_bench, section, cache, results, small_collection):
    run = results(**{f"q{qid}": {"d29": 1.0} for qid in small_collection.topics("dev")["qid"]})
    test = results(**{f"q{qid}": {"d1": 1.0} for qid in small_collection.topics("test")["qid"]})
    given = section(sweep={"grid": [0, 1], "pool": {"of": ["run"], "depth": 1}, "confirm": 1})
    prepared = make_bench({"run": pd.concat([run, test]), "m": given}).prepared("m")
    assert len(prepared.tables["sweep_pool"]) == 4
    assert prepared.tables["sweep_pool"]["whole"].notna().sum() in (1, 2)  # the best, and the source
    assert "a pool (10 dev queries of small, 11 documents)" in prepared.notes[1]
    assert "10 dev queries of small, 30 documents" in prepared.notes[1]


def test_another_space_is_that_of_the_public_function(
    make_bench, section, cache, bert_retriever, bert_language_model, small_collection, tmp_path
):
    space = {"knots": 2, "methods": ["linear", "slerp"]}
    given = {"space": space, "grid": [0.5, 1], "rule": "one-standard-error"}
    prepared = make_bench({"m": section(sweep=given)}).prepared("m")
    by_hand = sweep(
        merge(bert_retriever, bert_language_model, 1, 1, task=small_collection.task),
        small_collection,
        space=Space.profile(2, [0.5, 1]).with_methods("linear", "slerp"),
        rule="one-standard-error",
        metric=RR @ 10,
        num_results=20,
    )
    pd.testing.assert_frame_equal(prepared.tables["sweep"], by_hand.table)
    assert "(knot_1 0.5, knot_2 1, method slerp)" in prepared.tables["sweep_per_query"]
    assert prepared.label == in_words(by_hand.point)


def test_more_alphas_than_layers_are_an_error_before_the_training(make_bench, section, monkeypatch):
    monkeypatch.setattr(TrainedDomain, "models", lambda *_: pytest.fail("trained"))
    for space in ({"layers": 40}, {"knots": 8}):
        given = section(domain={"train": TRAIN}, sweep={"space": space, "search": {"trials": 2}})
        with pytest.raises(ValueError, match=r"the space has (40|8) alphas over the layers, and .* has 4"):
            make_bench({"m": given}).prepared("m")
        with pytest.raises(ValueError, match=r"systems\.m: the space has (40|8) alphas"):
            make_bench({"m": given}).check()


BY_FOLDS = {"grid": [[0.5, 1], [1, 1]], "folds": 3, "split": "test"}


@pytest.mark.parametrize(
    ("other", "message"),
    [
        (
            {"kind": "fusion", "of": ["BM25", "m"], "method": "linear"},
            "of: 'm' is, or builds on",
        ),
        (
            {"kind": "fusion", "of": ["BM25", "rrf"], "method": "linear"},
            "of: 'rrf' is, or builds on",
        ),
        ({"kind": "rerank", "first": "BM25", "by": "m"}, "by: 'm' is, or builds on"),
        ({"kind": "rerank", "first": "BM25", "by": {"sweep": BY_FOLDS}}, "by: alphas that are"),
        ({"kind": "lora", "of": "m", "train": {}}, "of: 'm' is, or builds on"),
        (
            {
                "kind": "lora",
                "source": "x",
                "split": "dev",
                "train": {"negatives": 1},
                "negatives": {"of": "m", "ranks": [1, 2]},
            },
            "negatives.of: 'm' is, or builds on",
        ),
        ({"sweep": {"pool": {"of": ["m"]}}}, "pool.of: 'm' is, or builds on"),
    ],
)
def test_what_is_chosen_by_folds_answers_the_tables_queries_alone(make_bench, section, other, message):
    if isinstance(other.get("by"), dict):
        other = {**other, "by": section(**other["by"])}
    systems = {"BM25": {"kind": "bm25"}, "m": section(sweep=BY_FOLDS), "rrf": {"kind": "fusion", "of": ["BM25", "m"]}}
    make_bench({**systems, "reranked": {"kind": "rerank", "first": "rrf", "by": section(alpha_lower=1, alpha_upper=1)}})
    make_bench(systems).check()
    with pytest.raises(ValueError, match=rf"systems\.other: {message}.* chosen by folds"):
        make_bench({**systems, "other": other if "kind" in other else section(**other)}).check()


def test_the_notes_name_the_method_that_was_chosen(make_bench, section, cache):
    bench = make_bench({"m": section(sweep={"grid": [0.5], "space": {"methods": ["slerp"]}})})
    assert bench.prepared("m").notes[0].endswith("; slerp.")


def test_folds_of_a_split_in_which_some_queries_have_no_judgements(make_bench, section, cache, small_collection):
    topics = {split: small_collection.topics(split) for split in ("dev", "test")}
    qrels = {"dev": small_collection.qrels("dev"), "test": small_collection.qrels("test")[2:]}
    some = from_frames("some", small_collection.corpus_iter(), topics, qrels)
    bench = make_bench({"m": section(sweep={"grid": [0, 1], "folds": 3, "split": "test"})}, some)
    assert set(bench.results("m", "test")["qid"]) == set(topics["test"]["qid"])


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"metric": "R@1000"}, "R@1000 looks deeper than num_results, 100"),
        ({"metric": "P(rel=2)@10"}, "would be 0 for every query"),
    ],
)
def test_a_choice_without_labels_is_checked_before_any_work(make_bench, section, given, message):
    with pytest.raises(ValueError, match=message.replace("(", r"\(").replace(")", r"\)")):
        make_bench({"m": section(sweep={"on": "known-items", **given})}).check()


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"folds": 3}, "folds are made of the table's own queries: say split: test"),
        ({"folds": 16, "split": "test"}, "15 distinct queries cannot be divided into 16 folds"),
        ({"metric": "P(rel=2)@5"}, "would be 0 for every query"),
    ],
)
def test_folds_and_metrics_are_checked_before_any_work(make_bench, section, given, message):
    with pytest.raises(ValueError, match=rf"systems\.m: .*{message}"):
        make_bench({"m": section(sweep=given)}).check()


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"confirm": 2}, "'confirm' is of the best of a pool"),
        ({"folds": 3, "search": {"trials": 9}}, "points must not depend on the queries: leave search out"),
        ({"folds": 3, "collection": "x"}, "of the table's own split"),
        ({"search": {"seed": 1}}, "a search needs a budget"),
        ({"search": {"trials": 9}, "grid": [[0.5, 1]]}, "has fixed points"),
        ({"search": {"trials": 9}, "refine": 1}, "leave 'refine' out"),
        ({"space": {"layers": 6}}, "15,625 points"),
        ({"space": {"layers": 6, "knots": 2}}, "one shape; found layers and knots"),
        ({"space": {"methods": ["tise"]}}, "unknown merge method 'tise': did you mean 'ties'"),
        ({"space": {"shares": [0.5]}}, "expected at least 2 domain models that share, a whole number; found 1"),
        ({"rule": "bst"}, "expected one of best, one-standard-error"),
        ({"grid": [[0.5, 1, 1]]}, "a point has 2 numbers"),
        ({"space": {"methods": ["ties"]}}, "alpha would change nothing; .*'normalize': False"),
        ({"space": {"methods": ["ties"]}, "search": {"trials": 2}}, "alpha would change nothing"),
        ({"space": {"settings": {"densty": [0.5]}}}, "linear has no parameter 'densty'"),
        ({"space": {"methods": ["ties"], "settings": {"density": ["much"]}}}, "'density' is 'much', expected float"),
        ({"space": {"methods": ["ties"], "settings": {"density": [[0.2, 0.5]]}}}, "are numbers, booleans"),
        ({"seed": 3}, "'seed' is for samples and folds"),
    ],
)
def test_wrong_sweeps_are_refused(section, given, message):
    with pytest.raises(ValueError, match=message):
        read_system(section(sweep=given))
