import dataclasses
import errno
import gzip
import json
import math
import os
import re
import time

import lxml.html
import pandas as pd
import pyterrier as pt
import pytest
import yaml
from several_workers import SeveralWorkers

from pyterrier_merge import E5Encoder, MergedE5Encoder, compare
from pyterrier_merge.collections import from_frames
from pyterrier_merge.evaluation import in_one_order
from pyterrier_merge.experiment import cluster, run_folder
from pyterrier_merge.experiment import run as room
from pyterrier_merge.experiment.run import run_experiment
from pyterrier_merge.experiment.spec import ExperimentSpec
from pyterrier_merge.models import names
from pyterrier_merge.retrieval.lexical.bm25 import BM25

ROW = {"qid": "1", "docno": "d", "rank": 0, "score": 1.0}
SPEC = {"name": "n", "collection": "hpo"}


@pytest.fixture
def settings(bert_retriever, bert_language_model, small_collection, monkeypatch, tmp_path):
    """A whole experiment on tiny models; ``hpo`` stands for the small collection."""
    monkeypatch.setattr(room, "get_collection", lambda _: small_collection)
    monkeypatch.setenv("PYTERRIER_MERGE_CACHE", str(tmp_path / "cache"))
    source = {"dtype": "float32"}
    return {
        "name": "tiny",
        "collection": "hpo",
        "systems": {
            "BM25": {"kind": "bm25"},
            "source": {"kind": "encoder", "model": str(bert_retriever), **source},
            "merged": {
                "kind": "merged",
                "source": str(bert_retriever),
                "domain": str(bert_language_model),
                "sweep": {"grid": [[0, 1], [0.5, 1]], "pool": {"of": ["BM25", "source"], "depth": 5}},
                **source,
            },
        },
        "baselines": ["BM25", "source"],
        "measures": ["nDCG@10", "RR@10", "R@20"],
        "num_results": 20,
    }


@pytest.fixture
def spec(settings):
    return ExperimentSpec.model_validate(settings)


def changed(settings, system=None, *, leave=(), **change):
    """The spec with other fields, of the whole or of one system."""
    if system is None:
        return ExperimentSpec.model_validate({**settings, **change})
    section = {name: value for name, value in settings["systems"][system].items() if name not in leave}
    systems = {**settings["systems"], system: {**section, **change}}
    return ExperimentSpec.model_validate({**settings, "systems": systems})


def one_pair(settings, lower=1.0, upper=1.0):
    """The spec with nothing to choose, which takes a fraction of the time."""
    return changed(settings, "merged", leave=["sweep"], alpha_lower=lower, alpha_upper=upper)


def table(spec, folder, **options):
    """The figures of the only collection."""
    return run_experiment(spec, folder, **options)["hpo"].table


def test_a_run_leaves_what_a_paper_needs(spec, tmp_path):
    shown = []
    results = table(spec, tmp_path / "run", show=lambda name, figures: shown.append((name, figures)))
    folder = tmp_path / "run"
    assert {path.name for path in folder.iterdir()} == {
        "cost.png", "differences-a.png", "differences-b.png", "environment.json", "manifest.json", "means.png",
        "merged-sweep.csv",
        "merged-sweep.png", "merged-sweep_per_query.csv", "merged-tensors.csv", "per_query.csv", "qrels.txt",
        "report.html", "report.md", "results.csv", "runs", "spec.json", "table.tex", "tests.csv",
    }  # fmt: skip
    page = lxml.html.fromstring((folder / "report.html").read_text())
    assert ExperimentSpec.model_validate(yaml.safe_load(page.get_element_by_id("spec").text)) == spec
    assert page.xpath("//figcaption/a/@href") == [
        "means.png", "differences-a.png", "differences-b.png", "cost.png", "merged-sweep.png",
    ]  # fmt: skip
    listed = json.loads((folder / "manifest.json").read_text())["files"]
    assert {"report.html", "differences-b.png"} <= set(listed)
    said = [(name, what.split(" 0.")[0]) for name, what in shown]
    steps = ("searching 15 test queries", "nDCG@10")
    assert said[:4] == [(name, step) for name in ("BM25", "source") for step in steps]
    assert [name for name, what in said if what == "nDCG@10"] == list(results["name"])
    assert list(results["name"][:2]) == ["BM25", "source"]
    assert results["name"][2].startswith("merged (0")
    per_query = pd.read_csv(folder / "per_query.csv")
    assert per_query.groupby(["name", "measure"]).size().eq(15).all()
    assert len(pd.read_csv(folder / "tests.csv")) == 3 * 3  # source-BM25, merged-BM25, merged-source; three measures
    assert len(pd.read_csv(folder / "merged-sweep.csv")) == 2
    tensors = pd.read_csv(folder / "merged-tensors.csv")
    assert set(tensors["layer"]) == {0, 1, 2, 3}
    assert (folder / "merged-sweep.png").read_bytes().startswith(b"\x89PNG")
    assert json.loads((folder / "environment.json").read_text())["packages"]["mergekit"]
    report = (folder / "report.md").read_text()
    assert "| BM25 (a)" in report
    assert "30 documents, 15 test queries" in report


def test_kept_results_are_told_from_those_of_a_search(settings, tmp_path):
    given = one_pair(settings)
    run_experiment(given, tmp_path / "run")
    (tmp_path / "run" / "runs" / "source.test.json").unlink()
    said = []
    run_experiment(given, tmp_path / "run", show=lambda name, what: said.append(f"{name}: {what}"))
    assert [line.partition(": ")[0] for line in said] == ["BM25", "source", "source", "merged (1, 1)"]
    assert said[1] == "source: searching 15 test queries"
    assert [line.endswith(" (kept)") for line in said] == [True, False, False, True]


def test_a_failure_is_told_when_it_happens(settings, mistral_language_model, tmp_path, caplog):
    said = {}
    run_experiment(
        changed(settings, "merged", domain=str(mistral_language_model)), tmp_path / "run", show=said.__setitem__
    )
    assert said["merged"].startswith("failed: these models cannot be merged")
    assert not [record for record in caplog.records if "failed" in record.message]


def test_a_folder_that_cannot_be_written_ends_the_run_before_any_search(spec, tmp_path):
    (tmp_path / "file").write_text("")
    said = []
    with pytest.raises(OSError, match=r"cannot write into the run folder .*file/run: Not a directory; .*--out"):
        run_experiment(spec, tmp_path / "file" / "run", show=lambda *line: said.append(line))
    assert said == []


def test_a_full_disk_ends_the_run_and_what_is_kept_is_used_again(spec, tmp_path, monkeypatch):
    """Every further system would be searched for nothing."""
    real, said = run_folder.write_run, []

    def full(results, path, name):
        if name.startswith("source"):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
        real(results, path, name)

    with monkeypatch.context() as broken:
        broken.setattr(run_folder, "write_run", full)
        with pytest.raises(OSError, match=r"into the run folder .*run: No space left on device; make room"):
            run_experiment(spec, tmp_path / "run", show=lambda name, what: said.append((name, what)))
    assert [name for name, _ in said] == ["BM25", "BM25", "source"]
    run_experiment(spec, tmp_path / "run", show=lambda name, what: said.append((name, what)))
    assert said[3][0] == "BM25"
    assert said[3][1].endswith("(kept)")


def test_an_error_of_the_collection_names_it(settings, tmp_path, monkeypatch):
    def lost(_):
        raise FileNotFoundError("there is no folder /nowhere")

    monkeypatch.setattr(room, "get_collection", lost)
    with pytest.raises(ValueError, match=r"^collection hpo: there is no folder /nowhere$"):
        run_experiment(one_pair(settings), tmp_path / "run")


def test_the_figures_are_those_of_the_public_pieces(spec, small_collection, tmp_path):
    """The table says what a user gets who writes the pipelines by hand and searches by a full sort."""
    results = table(spec, tmp_path / "run").set_index("name")[list(spec.measures)]
    topics, qrels = small_collection.topics("test"), small_collection.qrels("test")
    chosen = results.index[2].removeprefix("merged (").removesuffix(")").split(", ")
    encoders = {
        "source": E5Encoder(spec.systems["source"].model, dtype="float32"),
        results.index[2]: MergedE5Encoder(
            spec.systems["merged"].source,
            spec.systems["merged"].domain,
            alpha_lower=float(chosen[0]),
            alpha_upper=float(chosen[1]),
            dtype="float32",
        ),
    }
    everything = topics.merge(pd.DataFrame(small_collection.corpus_iter()), how="cross")
    for name, encoder in encoders.items():
        by_hand = pt.Evaluate(in_one_order((encoder % spec.num_results)(everything)), qrels, spec.parsed_measures)
        assert results.loc[name].to_dict() == pytest.approx(by_hand)


def test_equal_scores_have_one_order_for_all_measures(small_collection):
    """The relevant document, of equal score with two more, comes last: its docno is the smallest."""
    topics, qrels = small_collection.topics("test"), small_collection.qrels("test")
    tied = [(qid, f"d{number}", 1.0) for qid, own in zip(qrels["qid"], qrels["docno"], strict=True)
            for number in (own[1:], 8, 9)]  # fmt: skip
    run = pd.DataFrame(tied, columns=["qid", "docno", "score"]).merge(topics, on="qid")
    [found] = compare({"tied": run}, small_collection).table.to_dict("records")
    ranks = [3] * len(qrels)  # d9 and d8 come before d10, d11 ... d24
    assert found["AP"] == pytest.approx(sum(1 / rank for rank in ranks) / len(ranks))
    assert found["nDCG@10"] == pytest.approx(sum(1 / math.log2(rank + 1) for rank in ranks) / len(ranks))


def test_a_second_run_encodes_nothing_and_says_the_same(spec, tmp_path, monkeypatch):
    first = table(spec, tmp_path / "run")
    report = (tmp_path / "run" / "report.md").read_text()
    monkeypatch.setattr(E5Encoder, "encode", lambda *_, **__: pytest.fail("encoded again"))
    second = table(spec, tmp_path / "run")
    pd.testing.assert_frame_equal(first, second)
    assert (tmp_path / "run" / "report.md").read_text() == report


def test_the_seconds_of_a_search_are_kept_and_a_fusion_counts_its_parts(settings, tmp_path, monkeypatch):
    parts = {name: settings["systems"][name] for name in ("BM25", "source")}
    fused = {"rrf": {"kind": "fusion", "of": ["BM25", "source"]}}
    theirs = {"theirs": {"kind": "trec_run", "file": str(tmp_path / "run" / "runs" / "BM25.test.res.gz")}}

    ready, built = BM25.ready, []

    def slow(self):
        built.append(time.sleep(1))
        ready(self)

    monkeypatch.setattr(BM25, "ready", slow)

    def seconds(systems):
        spec = changed(settings, systems=systems)
        return run_experiment(spec, tmp_path / "run", overwrite=True)["hpo"].seconds

    first = seconds(parts)
    assert set(first) == {"BM25", "source"}
    assert built
    assert 15 * first["BM25"] < 1  # of 15 queries: an index that is built is no search
    second = seconds({**parts, **fused, **theirs})
    assert {name: second[name] for name in first} == first
    assert set(second) == {"BM25", "source", "rrf"}  # nobody has timed theirs
    assert second["rrf"] > sum(first.values())
    together = seconds({**fused, **parts})
    assert together == second
    before = len(built)
    afresh = run_experiment(changed(settings, systems={**fused, **parts}), tmp_path / "afresh")["hpo"].seconds
    assert len(built) > before
    assert 15 * afresh["rrf"] < 1  # its parts are built during its search


def test_a_changed_setting_is_run_anew(spec, settings, tmp_path):
    first = table(spec, tmp_path / "run")
    files = {name: tmp_path / "run" / "runs" / f"{name}.test.res.gz" for name in ("BM25", "source")}
    before = {name: file.read_bytes() for name, file in files.items()}
    other = changed(settings, "BM25", k1=0.0, b=0.0)
    with pytest.raises(FileExistsError, match=r"the run of another spec \(it differs in systems\)"):
        run_experiment(other, tmp_path / "run")
    second = table(other, tmp_path / "run", overwrite=True)
    assert first.loc[1:].equals(second.loc[1:])
    assert files["source"].read_bytes() == before["source"]
    assert files["BM25"].read_bytes() != before["BM25"]


def test_a_cluster_changes_no_result(settings, tmp_path, monkeypatch):
    spec = changed(settings, cluster={"ray": "auto", "workers": 3})
    workers = SeveralWorkers(3)
    asked = []
    monkeypatch.setattr(cluster, "OnRay", lambda *args, **options: asked.append((args, options)) or workers)
    together = run_experiment(spec, tmp_path / "together")["hpo"]
    assert asked == [(("auto",), {"workers": 3, "gpus_per_worker": 0, "logs": tmp_path / "together" / "workers"})]
    kinds = {type(item).__name__ for item in workers.taken}
    assert kinds == {"Shard", "tuple", "range"}  # of indexing, of the sweep, and of searching
    monkeypatch.setenv("PYTERRIER_MERGE_CACHE", str(tmp_path / "another cache"))
    alone = run_experiment(changed(settings), tmp_path / "alone")["hpo"]
    pd.testing.assert_frame_equal(together.per_query, alone.per_query, check_exact=True)
    monkeypatch.setattr(cluster, "OnRay", lambda *_, **__: workers)
    run_experiment(changed(settings, cluster={"ray": "local"}), tmp_path / "alone")  # no other spec


def test_documents_of_another_language_are_searched_anew(settings, tmp_path, small_collection, monkeypatch):
    """``language`` is an option of "local": BM25 makes other terms of the same documents."""
    given = one_pair(settings)
    first = table(given, tmp_path / "run")
    german = dataclasses.replace(small_collection, language="de")
    monkeypatch.setattr(room, "get_collection", lambda _: german)
    kept = tmp_path / "run" / "runs" / "BM25.test.res.gz"
    before = kept.read_bytes()
    pd.testing.assert_frame_equal(table(given, tmp_path / "run").loc[1:], first.loc[1:])
    assert kept.read_bytes() != before


def test_a_killed_run_leaves_no_results_of_another_spec(spec, settings, tmp_path, monkeypatch):
    """Killed between writing results and noting what made them: the results are nobody's, and made anew."""
    first = table(spec, tmp_path / "run")
    shallow = changed(settings, num_results=1, measures=["RR@1"])
    real = run_folder.write_file

    def killed(path, text):
        if path.name == "BM25.test.json":
            raise KeyboardInterrupt
        real(path, text)

    with monkeypatch.context() as broken:
        broken.setattr(run_folder, "write_file", killed)
        with pytest.raises(KeyboardInterrupt):
            run_experiment(shallow, tmp_path / "run", overwrite=True)
    pd.testing.assert_frame_equal(table(spec, tmp_path / "run", overwrite=True), first)


def test_a_merge_that_cannot_be_is_a_row_with_its_reason(settings, mistral_language_model, tmp_path):
    settings["systems"]["hybrid"] = {"kind": "fusion", "of": ["BM25", "merged"]}
    wrong = changed(settings, "merged", domain=str(mistral_language_model))
    found = run_experiment(wrong, tmp_path / "run")["hpo"]
    assert list(found.failed) == ["merged", "hybrid"]
    assert "these models cannot be merged" in found.failed["merged"]
    assert found.failed["hybrid"].startswith("it builds on 'merged', which failed: these models cannot be merged")
    report = (tmp_path / "run" / "report.md").read_text()
    assert "| merged" in report
    assert "| failed" in report
    assert "model_type: 'bert'" in report
    for name in ("report.md", "report.html"):  # the reason is said once, though hybrid builds on merged
        assert (tmp_path / "run" / name).read_text().count("these models cannot be merged") == 1
    assert len(pd.read_csv(tmp_path / "run" / "results.csv")) == 2


def test_alphas_that_are_given_are_taken_as_they_are(settings, tmp_path):
    """No dev split is needed then: "miracl-ja" with ``pool: judged`` has none."""
    results = table(one_pair(settings, 0.25, 0.75), tmp_path / "run")
    assert results["name"][2] == "merged (0.25, 0.75)"
    assert results["labels"].tolist() == [0, 0, 0]
    assert not (tmp_path / "run" / "merged-sweep.csv").exists()
    assert "linear, alphas as given." in (tmp_path / "run" / "report.md").read_text()


def test_a_merge_that_is_the_source_counts_once(spec, settings, tmp_path, monkeypatch):
    """Nothing is encoded for it, and no test compares a system with itself."""
    run_experiment(spec, tmp_path / "run")
    encoded = []
    real = E5Encoder.encode
    monkeypatch.setattr(
        E5Encoder, "encode", lambda self, *texts, **kind: encoded.append(self) or real(self, *texts, **kind)
    )
    found = run_experiment(one_pair(settings), tmp_path / "other")["hpo"]
    assert not [encoder for encoder in encoded if isinstance(encoder, MergedE5Encoder)]
    assert found.same == {"merged (1, 1)": "source"}
    assert len(found.tests) == 3  # source against BM25 in three measures
    figures = found.table.set_index("name")[list(found.measures)]
    assert figures.loc["merged (1, 1)"].tolist() == figures.loc["source"].tolist()
    assert "merged (1, 1) has the same results as source" in found.verdict()


def test_an_unknown_split_shows_before_any_work(settings, tmp_path):
    sweep = {**settings["systems"]["merged"]["sweep"], "split": "deb"}
    wrong = changed(settings, "merged", sweep=sweep)
    with pytest.raises(ValueError, match=r"systems\.merged: sweep\.split: small has no split 'deb' .*give alpha_lower"):
        run_experiment(wrong, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def unjudged_but(collection, count):
    """The collection without the judgements of all but the first test topics."""
    splits = collection.splits
    qrels = {split: collection.qrels(split) for split in splits}
    qrels["test"] = qrels["test"][:count]
    topics = {split: collection.topics(split) for split in splits}
    return from_frames("small", collection.corpus_iter(), topics, qrels)


def test_topics_without_judgements_are_not_measured(settings, small_collection, tmp_path, monkeypatch):
    monkeypatch.setattr(room, "get_collection", lambda _: unjudged_but(small_collection, 13))
    results = table(one_pair(settings), tmp_path / "run")
    per_query = pd.read_csv(tmp_path / "run" / "per_query.csv")
    assert per_query.groupby(["name", "measure"]).size().eq(13).all()
    means = per_query[per_query["measure"] == "nDCG@10"].groupby("name")["value"].mean()
    assert results.set_index("name")["nDCG@10"].to_dict() == pytest.approx(means.to_dict())
    report = (tmp_path / "run" / "report.md").read_text()
    assert "13 test queries (2 more have no judgements and are not measured)" in report


def test_a_system_that_finds_nothing_at_all_scores_0(settings, small_collection, tmp_path, monkeypatch):
    topics, qrels = small_collection.topics("test").assign(query="nowhere"), small_collection.qrels("test")
    strange = from_frames("strange", small_collection.corpus_iter(), topics, qrels)
    monkeypatch.setattr(room, "get_collection", lambda _: strange)
    results = table(one_pair(settings), tmp_path / "run").set_index("name")
    assert results.loc["BM25", ["nDCG@10", "RR@10", "R@20"]].tolist() == [0, 0, 0]
    assert results.loc["source", "R@20"] > 0
    per_query = pd.read_csv(tmp_path / "run" / "per_query.csv")
    assert per_query.groupby(["name", "measure"]).size().eq(15).all()


@pytest.mark.parametrize(("count", "message"), [(0, "none of the 15 topics has judgements"), (1, "1 test query with")])
def test_too_few_judged_topics_show_before_any_work(spec, small_collection, tmp_path, monkeypatch, count, message):
    monkeypatch.setattr(room, "get_collection", lambda _: unjudged_but(small_collection, count))
    with pytest.raises(ValueError, match=message):
        run_experiment(spec, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_alphas_are_not_chosen_on_test_queries_under_another_name(
    spec, settings, small_collection, tmp_path, monkeypatch
):
    def leaking(count):
        topics, qrels = (
            {"dev": pd.concat([of("dev"), of("test")[:count]]), "test": of("test")}
            for of in (small_collection.topics, small_collection.qrels)
        )
        return from_frames("leaking", small_collection.corpus_iter(), topics, qrels)

    monkeypatch.setattr(room, "get_collection", lambda _: leaking(2))
    with pytest.raises(ValueError, match=r"2 of \d+ dev queries are test queries too \(such as qid 'test-d"):
        run_experiment(spec, tmp_path / "run")
    assert not (tmp_path / "run").exists()
    run_experiment(one_pair(settings), tmp_path / "run")  # nothing is chosen


@pytest.mark.parametrize(("system", "field"), [("source", "model"), ("merged", "source"), ("merged", "domain")])
def test_a_misspelt_model_shows_before_any_work(settings, tmp_path, system, field):
    wrong = changed(settings, system, **{field: str(tmp_path / "nowhere")})
    with pytest.raises(ValueError, match=rf"systems\.{system}: no model at .*nowhere"):
        run_experiment(wrong, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_domain_model_that_the_hub_cannot_give_is_a_row_with_its_reason(settings, tmp_path, monkeypatch):
    wrong = changed(settings, "merged", domain="nobody/has-this")

    def unreachable(name, revision):
        raise RuntimeError(f"model {name!r} is not in the cache, and the hub could not be reached")

    monkeypatch.setattr(names, "hub_snapshot", unreachable)
    found = run_experiment(wrong, tmp_path / "run")["hpo"]
    assert "could not be reached" in found.failed["merged"]
    assert "merged failed: model 'nobody/has-this' is not in" in (tmp_path / "run" / "report.md").read_text()


def test_a_run_that_fails_before_its_first_results_takes_no_folder(spec, settings, tmp_path, monkeypatch):
    folder = tmp_path / "run"
    with monkeypatch.context() as broken:
        broken.setattr(BM25, "transform", lambda *_: pytest.fail("no index"))
        with pytest.raises(pytest.fail.Exception, match="no index"):
            run_experiment(spec, folder)
    other = changed(settings, measures=["RR@1"])
    run_folder.RunFolder(folder, other.model_dump(mode="json")).results("bm25.test", "key", lambda: pd.DataFrame([ROW]))
    with pytest.raises(FileExistsError, match="another spec"):
        run_folder.RunFolder(folder, spec.model_dump(mode="json"))


def test_docnos_that_look_like_nothing_survive(tmp_path):
    docnos = ["NA", "null", "001", "nan", '"x', 'q"q']
    frame = pd.DataFrame({"qid": "007", "docno": docnos, "rank": range(6), "score": [6.5, 5, 4, 3, 2, 1 / 3]})
    folder = run_folder.RunFolder(tmp_path / "run", SPEC)
    folder.results("odd", "key", lambda: frame)
    kept = folder.results("odd", "key", lambda: pytest.fail("made again"))
    assert list(kept["docno"]) == docnos
    assert set(kept["qid"]) == {"007"}
    assert list(kept["score"]) == [6.5, 5, 4, 3, 2, 1 / 3]
    with gzip.open(tmp_path / "run" / "runs" / "odd.res.gz", "rt") as lines:
        assert [line.split()[2] for line in lines] == docnos  # as trec_eval reads them


@pytest.mark.parametrize("change", [{"docno": "d 1"}, {"docno": "d\u30001"}, {"qid": "q\t1"}, {"qid": ""}])
def test_names_that_cannot_stand_in_a_trec_run_are_refused(tmp_path, change):
    [(kind, name)] = change.items()
    with pytest.raises(ValueError, match=re.escape(f"{kind} {name!r} cannot be in a TREC run")):
        run_folder.RunFolder(tmp_path / "run", SPEC).results("odd", "key", lambda: pd.DataFrame([{**ROW, **change}]))
    assert not list((tmp_path / "run").glob("runs/*"))


def test_a_docno_with_white_space_shows_before_anything_is_encoded(spec, small_collection, tmp_path, monkeypatch):
    docs = [*small_collection.corpus_iter(), {"docno": "d 99", "text": "never found"}]
    splits = {split: small_collection.topics(split) for split in small_collection.splits}
    odd = from_frames("odd", docs, splits, {split: small_collection.qrels(split) for split in splits})
    monkeypatch.setattr(room, "get_collection", lambda _: odd)
    monkeypatch.setattr(BM25, "transform", lambda *_: pytest.fail("searched"))
    with pytest.raises(ValueError, match="docno 'd 99' cannot be in a TREC run"):
        run_experiment(spec, tmp_path / "run")


@pytest.mark.parametrize("content", ["", "{", "7"])
def test_a_damaged_note_is_named(tmp_path, content):
    folder = run_folder.RunFolder(tmp_path / "run", SPEC)
    folder.results("odd", "key", lambda: pd.DataFrame([ROW]))
    note = tmp_path / "run" / "runs" / "odd.json"
    note.write_text(content)
    with pytest.raises(RuntimeError, match=f"{note} is damaged: delete it"):
        folder.results("odd", "key", lambda: pytest.fail("made again"))


@pytest.mark.parametrize(
    "content",
    [
        b"",
        gzip.compress(b"1 Q0 d 0 1.0 odd\n", mtime=0)[:-9],
        b"1 Q0 d 0 1.0 odd\n",
        gzip.compress(b"1 Q0 d\n", mtime=0),
    ],
)
def test_a_damaged_run_is_named(tmp_path, content):
    folder = run_folder.RunFolder(tmp_path / "run", SPEC)
    folder.results("odd", "key", lambda: pd.DataFrame([ROW]))
    file = tmp_path / "run" / "runs" / "odd.res.gz"
    file.write_bytes(content)
    with pytest.raises(RuntimeError, match=re.escape(f"{file} is damaged (")):
        folder.results("odd", "key", lambda: pytest.fail("made again"))
    file.unlink()
    assert len(folder.results("odd", "key", lambda: pd.DataFrame([ROW]))) == 1


def test_an_overwritten_folder_holds_nothing_of_the_spec_before(spec, settings, tmp_path):
    folder = tmp_path / "run"
    run_experiment(spec, folder)
    (folder / "notes.txt").write_text("mine")
    run_experiment(one_pair(settings), folder, overwrite=True)
    left = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
    run_experiment(one_pair(settings), tmp_path / "fresh")
    fresh = {str(path.relative_to(tmp_path / "fresh")) for path in (tmp_path / "fresh").rglob("*") if path.is_file()}
    assert left == fresh | {"notes.txt"}


def test_results_of_a_system_that_fails_now_are_kept(spec, tmp_path, monkeypatch):
    """What failed, say for want of memory, may be there again tomorrow: its results are as right as they were."""
    first = table(spec, tmp_path / "run")

    def fails(*_args, **_settings):
        raise RuntimeError("out of memory")

    with monkeypatch.context() as broken:
        broken.setattr("pyterrier_merge.tuning.sweep.sweep", fails)
        assert run_experiment(spec, tmp_path / "run")["hpo"].failed == {"merged": "out of memory"}
    monkeypatch.setattr(E5Encoder, "encode", lambda *_, **__: pytest.fail("encoded again"))
    pd.testing.assert_frame_equal(table(spec, tmp_path / "run"), first)


def test_tables_of_the_spec_before_go_when_its_folder_is_taken(tmp_path):
    folder = tmp_path / "run"
    before = run_folder.RunFolder(folder, SPEC)
    before.results("bm25.test", "key", lambda: pd.DataFrame([ROW]))
    before.file("report.md").write_text("of the spec before")
    before.finish()
    taken = run_folder.RunFolder(folder, {**SPEC, "num_results": 5}, overwrite=True)
    assert (folder / "report.md").exists()
    taken.results("bm25.test", "key", lambda: pytest.fail("it is right for this spec too"))
    assert not (folder / "report.md").exists()


def test_a_run_that_was_killed_goes_on(spec, tmp_path, monkeypatch):
    def killed(*_args, **_settings):
        raise KeyboardInterrupt

    with monkeypatch.context() as broken:
        broken.setattr("pyterrier_merge.tuning.sweep.sweep", killed)
        with pytest.raises(KeyboardInterrupt):
            run_experiment(spec, tmp_path / "run")
    written = (tmp_path / "run" / "runs" / "source.test.res.gz").stat().st_mtime_ns
    resumed = table(spec, tmp_path / "run")
    assert (tmp_path / "run" / "runs" / "source.test.res.gz").stat().st_mtime_ns == written
    pd.testing.assert_frame_equal(resumed, table(spec, tmp_path / "fresh"))


def test_the_topics_of_a_reranking_collection_are_answered_from_their_candidates(
    spec, tmp_path, reranking_collection, monkeypatch
):
    monkeypatch.setattr(room, "get_collection", lambda _: reranking_collection)
    results = table(spec, tmp_path / "run").set_index("name")
    assert len(results) == 3
    given = set(reranking_collection.candidates("test")[["qid", "docno"]].itertuples(index=False, name=None))
    for run in sorted((tmp_path / "run" / "runs").glob("*.test.res.gz")):
        found = pt.io.read_results(run)
        assert set(found[["qid", "docno"]].itertuples(index=False, name=None)) == given
    candidates = reranking_collection.candidates("test")
    scored = E5Encoder(spec.systems["source"].model, dtype="float32")(candidates)
    topics, qrels = reranking_collection.topics("test"), reranking_collection.qrels("test")
    by_hand = pt.Experiment([scored], topics, qrels, ["ndcg_cut_10"])
    assert results.loc["source", "nDCG@10"] == pytest.approx(by_hand["ndcg_cut_10"].item())
    assert "own candidates" in (tmp_path / "run" / "report.md").read_text()


def test_a_failure_that_passes_costs_no_kept_run(spec, tmp_path, monkeypatch):
    from pyterrier_merge.systems.encoder import EncoderSystem

    run_experiment(spec, tmp_path / "run")
    written = (tmp_path / "run" / "runs" / "source.test.res.gz").stat().st_mtime_ns

    def unreachable(*_):
        raise OSError("hub unreachable")

    with monkeypatch.context() as broken:
        broken.setattr(EncoderSystem, "prepare", unreachable)
        assert run_experiment(spec, tmp_path / "run")["hpo"].failed["source"] == "hub unreachable"
    assert run_experiment(spec, tmp_path / "run")["hpo"].failed == {}
    assert (tmp_path / "run" / "runs" / "source.test.res.gz").stat().st_mtime_ns == written


def test_one_system_can_be_run_before_the_others(spec, tmp_path):
    """And again in the finished folder, which keeps the other systems' runs."""
    first = run_experiment(spec, tmp_path / "run", only=("BM25",))["hpo"]
    assert first.table["name"].tolist() == ["BM25", "source"]  # and the baselines
    assert first.notes[0] == "Not all systems of the file were run; left out are merged."
    whole = table(spec, tmp_path / "run")
    files = {file: file.stat().st_mtime_ns for file in (tmp_path / "run" / "runs").iterdir()}
    run_experiment(spec, tmp_path / "run", only=("BM25",))
    assert {file: file.stat().st_mtime_ns for file in (tmp_path / "run" / "runs").iterdir()} == files
    pd.testing.assert_frame_equal(table(spec, tmp_path / "run"), whole)


def test_a_folder_is_that_of_its_spec_also_where_every_system_failed(spec, settings, tmp_path, monkeypatch):
    from pyterrier_merge.systems.bm25 import BM25System

    run_experiment(one_pair(settings), tmp_path / "run")

    def broken(*_):
        raise RuntimeError("no")

    monkeypatch.setattr(BM25System, "prepare", broken)
    other = ExperimentSpec.model_validate({**settings, "systems": {"BM25": {"kind": "bm25"}}, "baselines": None})
    assert run_experiment(other, tmp_path / "run", overwrite=True)["hpo"].failed == {"BM25": "no"}
    assert json.loads((tmp_path / "run" / "spec.json").read_text()) == other.identity()


def test_the_same_question_under_another_number_is_the_same_question(spec, small_collection, tmp_path, monkeypatch):
    asked = small_collection.topics("test")
    topics = {"dev": asked.assign(qid="x" + asked["qid"], query=" " + asked["query"].str.upper()), "test": asked}
    judged = small_collection.qrels("test")
    qrels = {"dev": judged.assign(qid="x" + judged["qid"]), "test": judged}
    renamed = from_frames("renamed", small_collection.corpus_iter(), topics, qrels)
    monkeypatch.setattr(room, "get_collection", lambda _: renamed)
    with pytest.raises(ValueError, match="15 of 15 dev queries are test queries too"):
        run_experiment(spec, tmp_path / "run")


def test_docnos_with_quotes_stand_in_the_judgements_as_they_are(spec, small_collection, tmp_path, monkeypatch):
    docs = [*small_collection.corpus_iter(), {"docno": 'd"05', "text": "heart"}]
    topics = {split: small_collection.topics(split) for split in small_collection.splits}
    qrels = {split: small_collection.qrels(split) for split in small_collection.splits}
    qrels["test"] = pd.concat([qrels["test"], qrels["test"][:1].assign(docno='d"05')])
    monkeypatch.setattr(room, "get_collection", lambda _: from_frames("quoted", docs, topics, qrels))
    run_experiment(spec, tmp_path / "run", only=("BM25",))
    written = (tmp_path / "run" / "qrels.txt").read_text().splitlines()
    assert written[-1].split() == [qrels["test"]["qid"].iloc[0], "0", 'd"05', "1"]
