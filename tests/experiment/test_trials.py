"""Several seeds: figures are averaged per query over the trials and then tested; each trial has its files."""

import json
from types import SimpleNamespace

import ir_measures
import pandas as pd
import pytest
from pyterrier.measures import RR
from scipy import stats

from pyterrier_merge import compare
from pyterrier_merge.collections.reading.runs import read_run
from pyterrier_merge.experiment import run as room
from pyterrier_merge.experiment.run import run_experiment
from pyterrier_merge.experiment.spec import ExperimentSpec
from pyterrier_merge.systems import dense, read_system
from pyterrier_merge.training import domain as training

TRAIN = {"steps": 3, "head_steps": 1, "batch_size": 8, "learning_rate": 0.01}


def settings(retriever, seeds, **merged):
    models = {"source": str(retriever), "dtype": "float32", "domain": {"train": TRAIN, "seeds": list(seeds)}}
    alphas = {} if "sweep" in merged else {"alpha_lower": 0.25, "alpha_upper": 0.5}
    return {
        "name": "seeds",
        "collection": "hpo",
        "systems": {
            "BM25": {"kind": "bm25"},
            "source": {"kind": "encoder", "model": str(retriever), "dtype": "float32"},
            "merged": {"kind": "merged", **models, **alphas, **merged},
            "hybrid": {"kind": "fusion", "of": ["BM25", "merged"]},
            "again": {"kind": "rerank", "first": "BM25", "by": "merged", "depth": 10},
        },
        "baselines": ["BM25", "source"],
        "measures": ["RR@10", "nDCG@10"],
        "num_results": 20,
    }


@pytest.fixture(scope="module")
def run(bert_retriever, small_collection, tmp_path_factory):
    """A run with three seeds; the cache it leaves."""
    folder = tmp_path_factory.mktemp("seeds")
    with pytest.MonkeyPatch.context() as changed:
        changed.setattr(room, "get_collection", lambda _: small_collection)
        changed.setenv("PYTERRIER_MERGE_CACHE", str(folder / "cache"))
        spec = ExperimentSpec.model_validate(settings(bert_retriever, [0, 3, 7]))
        [found] = run_experiment(spec, folder / "run").values()
    return SimpleNamespace(spec=spec, found=found, folder=folder / "run", cache=folder / "cache")


def measured(collection, run):
    """RR@10 of each query, by ir_measures alone; results without ties."""
    qrels = collection.qrels("test").rename(columns={"qid": "query_id", "docno": "doc_id", "label": "relevance"})
    named = run.rename(columns={"qid": "query_id", "docno": "doc_id"})
    return {metric.query_id: metric.value for metric in ir_measures.iter_calc([RR @ 10], qrels, named)}


def test_figures_are_means_over_trials_query_by_query(run, small_collection):
    for name in ("merged", "again"):
        trials = [read_run(run.folder / "runs" / f"{name}@{number}.test.res.gz") for number in (1, 2, 3)]
        values = pd.DataFrame([measured(small_collection, trial) for trial in trials])
        shown = next(shown for shown in run.found.table["name"] if shown.startswith(name))
        own = run.found.per_query[run.found.per_query["name"].eq(shown) & run.found.per_query["measure"].eq("RR@10")]
        assert own.set_index("qid")["value"].to_dict() == pytest.approx(values.mean().to_dict())
        means = values.mean(axis=1)
        assert run.found.table.set_index("name")["RR@10"][shown] == pytest.approx(means.mean())
        by_trial = run.found.by_trial[run.found.by_trial["name"] == shown]
        assert by_trial["trial"].tolist() == [1, 2, 3]
        assert by_trial["RR@10"].tolist() == pytest.approx(means.tolist())
        assert run.found.spread.set_index("name")["RR@10"][shown] == pytest.approx(means.std(ddof=1))


def test_the_averages_are_what_is_tested(run):
    wide = run.found.per_query[run.found.per_query["measure"] == "RR@10"].pivot(
        index="qid", columns="name", values="value"
    )
    tests = run.found.tests[run.found.tests["measure"] == "RR@10"].set_index(["system", "baseline"])
    by_hand = stats.ttest_rel(wide["merged (0.25, 0.5)"], wide["source"]).pvalue
    assert tests["p_value"]["merged (0.25, 0.5)", "source"] == pytest.approx(by_hand)
    assert len(run.found.tests) == (4 + 3) * 2  # trials are no systems of their own


def test_the_trials_differ(run):
    runs = [read_run(run.folder / "runs" / f"merged@{number}.test.res.gz") for number in (1, 2, 3)]
    assert not runs[0].equals(runs[1])
    assert not runs[1].equals(runs[2])


def test_what_is_built_on_trials_has_as_many(run):
    """Trial 2 of the fusion is of trial 2 of the merge."""
    lexical = read_run(run.folder / "runs" / "BM25.test.res.gz")
    merged = read_run(run.folder / "runs" / "merged@2.test.res.gz")
    hybrid = read_run(run.folder / "runs" / "hybrid@2.test.res.gz")
    parts = pd.concat([part.assign(rank=part.groupby("qid").cumcount()) for part in (lexical, merged)])
    by_hand = parts.assign(score=1 / (61 + parts["rank"])).groupby(["qid", "docno"])["score"].sum()
    own = hybrid.set_index(["qid", "docno"])["score"]
    assert own.to_dict() == pytest.approx(by_hand[own.index].to_dict())
    again = read_run(run.folder / "runs" / "again@3.test.res.gz")
    assert again.groupby("qid").size().max() == 10


def test_every_trial_has_its_files(run):
    runs = {file.name for file in (run.folder / "runs").glob("*.res.gz")}
    several = {f"{name}@{number}.test.res.gz" for name in ("merged", "hybrid", "again") for number in (1, 2, 3)}
    assert runs == several | {"BM25.test.res.gz", "source.test.res.gz"}
    names = {file.name for file in run.folder.iterdir()}
    assert {f"merged@{number}-tensors.csv" for number in (1, 2, 3)} <= names
    assert "merged-tensors.csv" not in names
    trials = pd.read_csv(run.folder / "trials.csv")
    assert list(trials) == ["name", "trial", "label", "RR@10", "nDCG@10"]
    assert len(trials) == 9
    manifest = json.loads((run.folder / "manifest.json").read_text())["files"]
    assert {"trials.csv", "merged@2-tensors.csv", "runs/again@3.test.res.gz"} <= set(manifest)


def test_the_report_tells_of_every_trial(run):
    report = (run.folder / "report.md").read_text()
    assert "Figures are means over trials: merged (0.25, 0.5) (3), hybrid (3), again (3)." in report
    assert report.count("| standard deviation") == 3
    for number, seed in ((1, 0), (2, 3), (3, 7)):
        [note] = [line for line in report.splitlines() if line.startswith(f"- merged, trial {number}: ")]
        assert f", seed {seed}, " in note
    assert str(run.cache) not in report
    assert "[merged@1-tensors.csv](merged@1-tensors.csv)" in report


def test_saved_comparisons_have_every_trial_too(bert_retriever, small_collection, tmp_path):
    merged = read_system(settings(bert_retriever, [0, 3])["systems"]["merged"])
    found = compare({"merged": merged}, small_collection, measures=[RR @ 10])
    folder = found.save(tmp_path / "saved")
    names = sorted(file.name for file in (folder / "runs").iterdir())
    assert names == ["merged_0.25_0.5@1.res.gz", "merged_0.25_0.5@2.res.gz"]
    assert len(pd.read_csv(folder / "trials.csv")) == 2
    assert [len(runs) for runs in found.runs.values()] == [2]


@pytest.fixture
def tiny(small_collection, monkeypatch, tmp_path):
    monkeypatch.setattr(room, "get_collection", lambda _: small_collection)
    monkeypatch.setenv("PYTERRIER_MERGE_CACHE", str(tmp_path / "cache"))
    return tmp_path


def counted(monkeypatch, owner, name, *, killed_at=None):
    """Count calls; the given one is a kill."""
    calls, real = [], getattr(owner, name)

    def call(*arguments, **options):
        calls.append(arguments)
        if len(calls) == killed_at:
            raise KeyboardInterrupt
        return real(*arguments, **options)

    monkeypatch.setattr(owner, name, call)
    return calls


def test_a_run_that_is_killed_between_two_seeds_goes_on(run, tiny, monkeypatch):
    with monkeypatch.context() as broken:
        counted(broken, training, "train_domain_model", killed_at=2)
        with pytest.raises(KeyboardInterrupt):
            run_experiment(run.spec, tiny / "run")
    trained = counted(monkeypatch, training, "train_domain_model")
    [found] = run_experiment(run.spec, tiny / "run").values()
    assert len(trained) == 2  # of three seeds
    pd.testing.assert_frame_equal(found.table, run.found.table)
    pd.testing.assert_frame_equal(found.by_trial, run.found.by_trial)


def test_a_run_that_is_killed_between_two_searches_goes_on(run, tiny, monkeypatch):
    with monkeypatch.context() as broken:
        counted(broken, dense.Dense, "transform", killed_at=3)  # source, merged 1, merged 2
        with pytest.raises(KeyboardInterrupt):
            run_experiment(run.spec, tiny / "run")
    assert (tiny / "run" / "runs" / "merged@1.test.res.gz").is_file()
    searched = counted(monkeypatch, dense.Dense, "transform")
    [found] = run_experiment(run.spec, tiny / "run").values()
    assert len(searched) == 2
    pd.testing.assert_frame_equal(found.table, run.found.table)
    searched.clear()
    run_experiment(run.spec, tiny / "run")
    assert not searched


def test_one_seed_is_an_ordinary_system(bert_retriever, tiny):
    spec = ExperimentSpec.model_validate(settings(bert_retriever, [3]))
    [found] = run_experiment(spec, tiny / "run").values()
    assert (tiny / "run" / "runs" / "merged.test.res.gz").is_file()
    assert not (tiny / "run" / "trials.csv").exists()
    assert found.by_trial.empty
    assert found.spread.empty


def test_fewer_seeds_leave_no_files_of_the_others(run, bert_retriever, tiny):
    run_experiment(run.spec, tiny / "run")
    fewer = ExperimentSpec.model_validate(settings(bert_retriever, [0, 3]))
    run_experiment(fewer, tiny / "run", overwrite=True)
    left = [str(file.relative_to(tiny / "run")) for file in (tiny / "run").rglob("*@3*")]
    assert left == []


def test_different_numbers_of_seeds_cannot_be_fused(bert_retriever, tiny):
    given = settings(bert_retriever, [0, 3])
    other = {**given["systems"]["merged"], "domain": {"train": TRAIN, "seeds": [0, 1, 2]}}
    given["systems"] |= {"other": other, "hybrid": {"kind": "fusion", "of": ["BM25", "merged", "other"]}}
    message = r"systems\.hybrid: numbers of trials differ \(BM25 1, merged 2, other 3\)"
    with pytest.raises(ValueError, match=message):  # before any training
        run_experiment(ExperimentSpec.model_validate(given), tiny / "run")
    reranked = {**given["systems"], "hybrid": {"kind": "rerank", "first": "merged", "by": other}}
    with pytest.raises(ValueError, match=r"systems\.hybrid: numbers of trials differ \(merged 2, by 3\)"):
        run_experiment(ExperimentSpec.model_validate({**given, "systems": reranked}), tiny / "run")


def test_every_seed_chooses_its_own_alphas(bert_retriever, small_collection, tiny):
    given = settings(bert_retriever, [0, 3], sweep={"grid": [[0.25, 0.5], [0, 1], [1, 1]]})
    [found] = run_experiment(ExperimentSpec.model_validate(given), tiny / "run").values()
    assert found.table.set_index("name")["labels"].to_dict()["hybrid"] == 10  # the same ten dev queries for both
    labels = []
    for number in (1, 2):
        sweep = pd.read_csv(tiny / "run" / f"merged@{number}-sweep.csv")
        best = sweep[sweep["RR@10"] == sweep["RR@10"].max()]  # several where merges rank alike
        labels.append([f"({row.alpha_lower:g}, {row.alpha_upper:g})" for row in best.itertuples()])
        assert (tiny / "run" / f"merged@{number}-sweep.png").is_file()
    merged = found.by_trial[found.by_trial["name"].str.startswith("merged")]
    assert all(one in best for one, best in zip(merged["label"], labels, strict=True))
    chosen = merged["label"].tolist()
    shown = f"merged {chosen[0]}" if chosen[0] == chosen[1] else "merged"
    assert shown in set(found.table["name"])


def test_seeds_that_all_chose_the_source_are_no_other_system(bert_retriever, tiny):
    given = settings(bert_retriever, [0, 3], sweep={"grid": [[1, 1]]})
    [found] = run_experiment(ExperimentSpec.model_validate(given), tiny / "run").values()
    assert found.same["merged (1, 1)"] == "source"
    assert not {"merged (1, 1)"} & (set(found.tests["system"]) | set(found.tests["baseline"]))
