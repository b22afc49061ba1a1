import dataclasses

import pytest

from pyterrier_merge import E5Encoder
from pyterrier_merge.collections import from_frames
from pyterrier_merge.collections.frames import FrameCollection
from pyterrier_merge.experiment import estimates, planning
from pyterrier_merge.experiment import run as room
from pyterrier_merge.experiment.plan import plan_experiment
from pyterrier_merge.experiment.run import run_experiment
from pyterrier_merge.experiment.spec import ExperimentSpec
from pyterrier_merge.models import hub, names


@pytest.fixture
def collections(small_collection, monkeypatch, tmp_path):
    """What ``hpo`` and ``scifact`` stand for; both are the small collection at first."""
    found = {"hpo": small_collection, "scifact": dataclasses.replace(small_collection, name="second")}
    monkeypatch.setattr(room, "get_collection", lambda name: found[name])
    monkeypatch.setenv("PYTERRIER_MERGE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(names, "hub_snapshot", lambda name, revision: hub._cached(name, revision))
    return found


@pytest.fixture
def spec(collections, bert_retriever, bert_language_model):
    """BM25, the source, a merge chosen among three (one of them the source) on a pool, and a fusion."""
    settings = {"dtype": "float32"}
    source = {"kind": "encoder", "model": str(bert_retriever), **settings}
    merged = {
        "kind": "merged",
        "source": str(bert_retriever),
        "domain": str(bert_language_model),
        "sweep": {"grid": [[0, 1], [0.5, 1], [1, 1]], "pool": {"of": ["BM25", "source"], "depth": 1}},
        **settings,
    }
    hybrid = {"kind": "fusion", "of": ["merged", "BM25"]}
    systems = {"hybrid": hybrid, "BM25": {"kind": "bm25"}, "source": source, "merged": merged}
    further = {"baselines": ["BM25"], "measures": ["nDCG@10", "R@20"], "num_results": 20}
    return {"name": "tiny", "collection": "hpo", "systems": systems, **further}


def changed(spec, name, leave=(), **change):
    section = {key: value for key, value in spec["systems"][name].items() if key not in leave}
    return {**spec, "systems": {**spec["systems"], name: {**section, **change}}}


def plan(spec, folder, **options):
    return plan_experiment(ExperimentSpec.model_validate(spec), folder, **options)


def steps(found, collection="hpo"):
    """``done`` and ``documents to encode`` of each row."""
    rows = found.tables[f"work on {collection}"].to_dict("records")
    return {(row["system"], row["step"]): (row["done"], row["documents to encode"]) for row in rows}


def test_a_plan_says_what_there_is_to_do(spec, tmp_path, bert_retriever):
    found = plan(spec, tmp_path / "run")
    assert found.tables["systems"].to_dict("records") == [
        {"system": "BM25", "kind": "bm25", "builds on": "-", "results on hpo kept": "no"},
        {"system": "source", "kind": "encoder", "builds on": "-", "results on hpo kept": "no"},
        {"system": "merged", "kind": "merged", "builds on": "BM25, source", "results on hpo kept": "no"},
        {"system": "hybrid", "kind": "fusion", "builds on": "merged, BM25", "results on hpo kept": "no"},
    ]
    [source, _] = found.tables["models"].to_dict("records")
    parameters = sum(weights.numel() for weights in weights_of(bert_retriever))
    size = f"{parameters * 4 / 1e6:.1f} MB"
    assert source == {
        "model": str(bert_retriever),
        "of": "source, merged",
        "where": "folder",
        "weights": f"{parameters / 1e6:.1f} M, float32, {size}",
    }
    [collection] = found.tables["collections"].to_dict("records")
    assert list(collection.values()) == ["hpo", "30", "15", "nothing"]
    # the pool: at most 10 judged documents, and one of each of two systems for ten queries; the grid has the source
    assert steps(found) == {
        ("BM25", "pisa index"): ("no", "-"),
        ("source", "index"): ("no", "30"),
        ("merged", "merges of the sweep"): ("not known", "at most 120 (4 x 30)"),
        ("merged", "index"): ("not known", "at most 30"),
    }
    row = found.tables["work on hpo"].iloc[1]
    assert (row["memory"], row["disk"]) == (size, f"{30 * 32 * 4 / 1e3:.1f} kB")
    assert found.notes[0].startswith("In all on hpo: at most 180 documents to encode, disk 7.7 kB, time ")
    assert "Not known: what is made of the results BM25.dev, which are not kept yet." in found.notes


def weights_of(folder):
    from safetensors.torch import load_file

    return load_file(folder / "model.safetensors").values()


def test_a_pool_is_smaller_than_a_large_collection(spec, tmp_path, collections, small_collection):
    more = [{"docno": f"x{number}", "text": "fever"} for number in range(70)]
    of = {split: small_collection.topics(split) for split in ("dev", "test")}
    qrels = {split: small_collection.qrels(split) for split in ("dev", "test")}
    collections["hpo"] = from_frames("large", [*small_collection.corpus_iter(), *more], of, qrels)
    assert steps(plan(spec, tmp_path / "run"))["merged", "merges of the sweep"][1] == "at most 120 (4 x 30)"
    deeper = {"grid": [0, 1], "pool": {"of": ["source"], "depth": 3}}
    found = steps(plan(changed(spec, "merged", sweep=deeper), tmp_path / "run"))
    assert found["merged", "merges of the sweep"][1] == "at most 160 (4 x 40)"  # 10 judged, 3 of each of 10 queries


def test_what_is_done_is_seen_and_nothing_is_made(spec, tmp_path, monkeypatch):
    run_experiment(ExperimentSpec.model_validate(spec), tmp_path / "run")
    before = snapshot(tmp_path)
    monkeypatch.setattr(E5Encoder, "encode", lambda *_, **__: pytest.fail("encoded"))
    found = plan(spec, tmp_path / "run")
    assert set(found.tables["systems"]["results on hpo kept"]) == {"yes"}
    assert {done for done, _ in steps(found).values()} == {"yes"}
    assert {documents for _, documents in steps(found).values()} == {"-"}
    assert found.notes[0].startswith("In all on hpo: 0 documents to encode, ")
    assert snapshot(tmp_path) == before


def snapshot(folder):
    return {file: file.stat().st_mtime_ns for file in folder.rglob("*") if file.is_file()}


def test_a_changed_system_is_seen_to_be_new_and_the_others_stay(spec, tmp_path):
    given = changed(spec, "merged", ["sweep"], alpha_lower=0.5, alpha_upper=1)
    run_experiment(ExperimentSpec.model_validate(given), tmp_path / "run")
    other = changed(given, "merged", alpha_lower=0.25)
    with pytest.raises(FileExistsError, match="another spec"):
        plan(other, tmp_path / "run")
    found = plan(other, tmp_path / "run", overwrite=True)
    kept = dict(zip(found.tables["systems"]["system"], found.tables["systems"]["results on hpo kept"], strict=True))
    assert kept == {"BM25": "yes", "source": "yes", "merged": "no", "hybrid": "no"}
    assert steps(found)["merged", "index"] == ("no", "30")
    assert steps(found)["source", "index"] == ("yes", "-")


def test_an_index_that_is_needed_twice_is_counted_once(spec, tmp_path, bert_retriever):
    again = {
        "again": {**spec["systems"]["source"]},
        "rerank": {"kind": "rerank", "first": "BM25", "by": "source", "depth": 9},
    }
    whole = changed(spec, "merged", sweep={"grid": [[0.5, 1], [1, 1]]})  # no pool
    found = steps(plan({**whole, "systems": {**whole["systems"], **again}}, tmp_path / "run"))
    assert found["merged", "merges of the sweep"] == (
        "no",
        "90 (3 x 30)",
    )  # (1, 1) is the source; the domain model is measured, too
    for name in ("again", "rerank"):
        assert found[name, "index"] == ("no", "0 (as for source)")
    assert found["merged", "index"] == ("not known", "at most 30")


def test_the_index_of_a_merge_that_is_not_chosen_yet_is_counted_once(spec, tmp_path):
    rerank = {"rerank": {"kind": "rerank", "first": "BM25", "by": "merged", "depth": 9}}
    found = steps(plan({**spec, "systems": {**spec["systems"], **rerank}}, tmp_path / "run"))
    assert found["merged", "index"][1] == "at most 30"
    assert found["rerank", "index"][1] == "0 (as for merged)"


def test_a_rerank_with_an_encoder_of_its_own_encodes_what_it_ranks(spec, tmp_path):
    own = {"kind": "rerank", "first": "BM25", "depth": 2, "by": spec["systems"]["source"]}
    found = steps(plan({**spec, "systems": {"BM25": {"kind": "bm25"}, "rerank": own}}, tmp_path / "run"))
    assert found["rerank", "vectors of the first results"] == ("not known", "at most 30")  # two of each of 15 queries
    shallow = {**own, "depth": 1}
    found = steps(plan({**spec, "systems": {"BM25": {"kind": "bm25"}, "rerank": shallow}}, tmp_path / "run"))
    assert found["rerank", "vectors of the first results"] == ("not known", "at most 15")


def test_a_half_done_sweep_is_counted_by_its_merges(spec, tmp_path):
    one = changed(spec, "merged", sweep={"grid": [[0.5, 1]]})
    run_experiment(ExperimentSpec.model_validate(one), tmp_path / "one")
    more = changed(spec, "merged", sweep={"grid": [[0.5, 1], [0, 1], [0.25, 1]]})
    found = plan(more, tmp_path / "more")
    assert steps(found)["merged", "merges of the sweep"] == (
        "3 of 5",
        "60 (2 x 30)",
    )  # the source, the domain model and (0.5, 1) are kept


def test_a_domain_model_that_is_trained_already_is_seen(spec, tmp_path):
    train = {"train": {"steps": 1, "warmup": 0, "head_steps": 1, "batch_size": 4}, "seeds": [1, 2]}
    trained = changed(spec, "merged", ["sweep"], domain=train, alpha_lower=0.5, alpha_upper=1)
    first = {**train, "seeds": [1]}
    run_experiment(ExperimentSpec.model_validate(changed(trained, "merged", domain=first)), tmp_path / "run")
    found = steps(plan(trained, tmp_path / "other"))
    assert found["merged", "training of the domain model"] == ("1 of 2", "-")
    assert found["merged", "index"][1] == "at most 60 (2 x 30)"
    assert steps(plan(changed(trained, "merged", domain=first), tmp_path / "run"))["merged", "index"] == ("yes", "-")


def test_data_that_are_not_here_are_not_fetched(spec, tmp_path, monkeypatch):
    monkeypatch.setattr(FrameCollection, "missing_bytes", 1_234_000)
    for method in ("topics", "qrels", "corpus_iter"):
        monkeypatch.setattr(FrameCollection, method, lambda *_: pytest.fail("read"))
    monkeypatch.setattr(FrameCollection, "num_docs", property(lambda _: pytest.fail("counted")))
    found = plan(spec, tmp_path / "run")
    [collection] = found.tables["collections"].to_dict("records")
    assert list(collection.values()) == ["hpo", "not known", "not known", "1.2 MB"]
    assert steps(found)["source", "index"] == ("not known", "not known")
    assert steps(found)["BM25", "pisa index"] == ("not known", "-")
    assert steps(found)["merged", "merges of the sweep"] == ("not known", "not known")
    assert "Not known: what is kept of work on small, whose data are not on this machine yet." in found.notes
    assert "Time: of encoding documents alone, and not estimated: no model was measured." in found.notes


def test_a_pool_without_judgements_is_bounded_by_the_catalogue(spec, tmp_path, collections, monkeypatch):
    """Two systems, one result each of 502 dev queries of "hpo", whose 19,034 documents are not here."""
    collections["hpo"] = dataclasses.replace(collections["hpo"], name="hpo")
    monkeypatch.setattr(FrameCollection, "missing_bytes", 7)
    pool = {"of": ["BM25", "source"], "depth": 1, "judged": False}
    found = steps(plan(changed(spec, "merged", sweep={"grid": [[0, 1]], "pool": pool}), tmp_path / "run"))
    assert found["merged", "merges of the sweep"] == ("not known", "at most 3,012 (3 x 1,004)")
    assert found["source", "index"] == ("not known", "at most 19,034")


def test_a_model_of_the_hub_is_not_fetched(spec, tmp_path):
    away = changed(changed(spec, "source", model="org/model"), "merged", source="org/model")
    found = plan(away, tmp_path / "run")
    assert found.tables["models"].iloc[0].tolist()[2:] == ["to be downloaded from the hub", "not known"]
    assert steps(found)["source", "index"] == ("not known", "at most 30")
    row = found.tables["work on hpo"].iloc[1]
    assert row[["memory", "disk", "time"]].tolist() == ["not known"] * 3
    assert any(note.startswith("Not known: what is kept of org/model, before it is downloaded") for note in found.notes)


def test_a_large_model_is_not_loaded(spec, tmp_path, monkeypatch):
    run_experiment(ExperimentSpec.model_validate(spec), tmp_path / "run")
    monkeypatch.setattr(planning, "SMALL_MODEL", 10)
    monkeypatch.setattr(E5Encoder, "_text_model", lambda _: pytest.fail("loaded"))
    found = plan(spec, tmp_path / "run")
    assert found.tables["systems"]["results on hpo kept"].tolist() == ["yes", "not known", "not known", "not known"]
    assert steps(found)["source", "index"] == ("not known", "at most 30")
    assert any("before it is loaded (" in note for note in found.notes)


def test_a_merge_that_cannot_be_is_foretold(spec, tmp_path, mistral_language_model):
    wrong = changed(spec, "merged", ["sweep"], domain=str(mistral_language_model), alpha_lower=0.5, alpha_upper=1)
    found = plan(wrong, tmp_path / "run")
    assert any(note.startswith("merged would fail on hpo: these models cannot be merged") for note in found.notes)


def test_a_misspelt_model_is_an_error(spec, tmp_path):
    with pytest.raises(ValueError, match=r"systems\.source: no model at"):
        plan(changed(spec, "source", model="./nowhere"), tmp_path / "run")


def test_the_files_of_systems_are_checked_too(spec, tmp_path):
    run = {"theirs": {"kind": "trec_run", "file": str(tmp_path / "no.res")}}
    with pytest.raises(ValueError, match=r"systems\.theirs: file: no run file"):
        plan({**spec, "systems": {**spec["systems"], **run}}, tmp_path / "run")


def test_a_pipeline_makes_the_total_unknown(spec, tmp_path):
    systems = {"BM25": {"kind": "bm25"}, "own": {"kind": "pipeline", "function": "pyterrier_merge:bm25"}}
    found = plan({**spec, "systems": systems}, tmp_path / "run")
    assert steps(found)["own", "what pyterrier_merge:bm25 does"] == ("not known", "not known")
    assert "In all on hpo: an unknown number of documents to encode, disk not known, time not known." in found.notes


def test_each_collection_has_its_own_work(spec, tmp_path):
    two = {**spec, "collection": ["hpo", "scifact"]}
    run_experiment(ExperimentSpec.model_validate(two), tmp_path / "run", only=("source",))
    found = plan(two, tmp_path / "run", only=("source",))
    assert found.tables["systems"].iloc[-1].tolist() == ["source", "encoder", "-", "yes", "yes"]
    assert {"work on hpo", "work on scifact"} < set(found.tables)


def test_the_time_is_that_of_the_measured_rate(spec, tmp_path, monkeypatch):
    clock = iter([0.0, 2.0])  # one chunk of all 30 documents takes two seconds
    monkeypatch.setattr(estimates.time, "monotonic", lambda: next(clock))
    found = plan(spec, tmp_path / "run")
    assert found.tables["work on hpo"]["time"].tolist() == ["-", "2 s", "8 s", "2 s"]
    assert any(note.startswith("Rate: 15 documents a second with ") for note in found.notes)


def test_the_time_on_a_cluster_is_that_of_a_given_rate(spec, tmp_path):
    found = plan({**spec, "cluster": {"workers": 4}}, tmp_path / "run", rate=0.5)  # nothing connects to a cluster
    assert found.tables["work on hpo"]["time"].tolist() == ["-", "60 s", "4 min", "60 s"]
    assert "Rate: 0.5 documents a second, as given." in found.notes
    assert found.notes[-1].startswith("On 4 workers, encoding for hpo takes 90 s at best; one worker encodes all")


@pytest.mark.parametrize(
    ("sweep", "merges", "index"),
    [
        ({"grid": [0, 1], "folds": 3, "split": "test"}, "120 (4 x 30)", "at most 90 (3 x 30)"),
        ({"search": {"trials": 5}}, "at most 210 (7 x 30)", "at most 30"),  # with source and domain model
        ({"grid": [0, 1], "refine": 1}, "at most 390 (13 x 30)", "at most 30"),  # 4, and 9 of the finer grid
        ({"space": {"knots": 2}, "grid": [0, 1]}, "120 (4 x 30)", "at most 30"),
        (
            {"grid": [0, 1], "pool": {"of": [], "depth": 1}, "confirm": 2},
            "at most 130 (7 x 18)",  # 4 on the pool, then 2 and the source
            "at most 30",
        ),
    ],
)
def test_other_sweeps_are_planned(spec, tmp_path, sweep, merges, index):
    found = steps(plan(changed(spec, "merged", sweep=sweep), tmp_path / "run"))
    assert found["merged", "merges of the sweep"][1] == merges
    assert found.get(("merged", "index"), (None, None))[1] == index
