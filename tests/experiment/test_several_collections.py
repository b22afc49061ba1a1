"""Several collections in one experiment: a table and a family for each; merges that are made for another one."""

import json
import random
from types import SimpleNamespace

import pandas as pd
import pytest
import yaml
from typer.testing import CliRunner

from pyterrier_merge import MaskedTraining, MergedE5Encoder, get_collection, train_domain_model
from pyterrier_merge.cli import app
from pyterrier_merge.encoding.encoders import E5Encoder
from pyterrier_merge.experiment.run import run_experiment
from pyterrier_merge.experiment.spec import ExperimentSpec
from pyterrier_merge.systems import dense

TRAIN = {"steps": 3, "head_steps": 1, "batch_size": 8}
GRID = [[0.25, 0.5], [0.5, 1]]


def write(folder, words, seed, dev):
    """A collection in BEIR's layout; ``dev``: the numbers of the documents that dev queries are made from."""
    generator = random.Random(seed)
    texts = [" ".join(generator.sample(words, 6)) for _ in range(20)]
    (folder / "qrels").mkdir(parents=True)
    docs = [json.dumps({"_id": f"d{n}", "title": "", "text": text}) for n, text in enumerate(texts)]
    (folder / "corpus.jsonl").write_text("\n".join(docs))
    asked = {"dev": dev, "test": range(8, 16)}
    queries = {f"{split}{n}": " ".join(texts[n].split()[:3]) for split, numbers in asked.items() for n in numbers}
    lines = [json.dumps({"_id": qid, "text": text}) for qid, text in queries.items()]
    (folder / "queries.jsonl").write_text("\n".join(lines))
    for split, numbers in asked.items():
        rows = [f"{split}{n}\td{n}\t1" for n in numbers]
        (folder / "qrels" / f"{split}.tsv").write_text("query-id\tcorpus-id\tscore\n" + "\n".join(rows))
    return folder


@pytest.fixture(scope="module")
def folders(words, tmp_path_factory):
    where = tmp_path_factory.mktemp("collections")
    return {"here": write(where / "one", words, 1, range(5)), "over there": write(where / "two", words, 2, range(7))}


def settings(folders, retriever, **merged):
    models = {"source": str(retriever), "dtype": "float32"}
    return {
        "name": "several",
        "collection": [{"name": "local", "path": str(path), "label": label} for label, path in folders.items()],
        "systems": {
            "BM25": {"kind": "bm25"},
            "source": {"kind": "encoder", "model": str(retriever), "dtype": "float32"},
            "own": {
                "kind": "merged", **models, "domain": {"train": TRAIN},
                "sweep": {"grid": GRID, "pool": {"of": ["BM25"], "depth": 3}},
            },
            "of here": {
                "kind": "merged", **models, "domain": {"train": TRAIN, "collection": "here"},
                "sweep": {"grid": GRID, "collection": "here", "pool": {"of": ["BM25"], "depth": 3}},
                **merged,
            },
        },
        "baselines": ["BM25", "source"],
        "measures": ["RR@10"],
        "num_results": 15,
    }  # fmt: skip


@pytest.fixture(scope="module")
def run(folders, bert_retriever, tmp_path_factory):
    where = tmp_path_factory.mktemp("several")
    with pytest.MonkeyPatch.context() as changed:
        changed.setenv("PYTERRIER_MERGE_CACHE", str(where / "cache"))
        spec = ExperimentSpec.model_validate(settings(folders, bert_retriever))
        shown = []
        found = run_experiment(spec, where / "run", show=lambda *line: shown.append(line))
    return SimpleNamespace(spec=spec, found=found, folder=where / "run", cache=where / "cache", shown=shown)


@pytest.fixture
def cache(monkeypatch, tmp_path):
    monkeypatch.setenv("PYTERRIER_MERGE_CACHE", str(tmp_path / "cache"))


def test_each_collection_has_a_table_and_a_family(run):
    assert list(run.found) == ["here", "over there"]
    measured = [name for name, what in run.shown if what.startswith("RR@10")]
    assert [name.split(" on ")[-1] for name in measured] == ["here"] * 4 + ["over there"] * 4
    for label, found in run.found.items():
        assert found.failed == {}
        assert [name.split(" (")[0] for name in found.table["name"]] == list(run.spec.systems)
        systems = len(found.table) - len(found.same)
        assert len(found.tests) == (systems - 1) + (systems - 2)
        report = (run.folder / label.replace(" ", "_") / "report.md").read_text()
        many = len(found.tests)
        assert ("one comparison, so" if many == 1 else f"Holm-corrected over the {many} comparisons") in report
        assert report.startswith(f"# {label} ({'one' if label == 'here' else 'two'}: ")


def test_each_collection_has_a_folder(run):
    assert sorted(path.name for path in run.folder.iterdir()) == ["here", "over_there"]
    for folder in run.folder.iterdir():
        made = {str(file.relative_to(folder)) for file in folder.rglob("*") if file.is_file()}
        manifest = set(json.loads((folder / "manifest.json").read_text())["files"])
        assert made - manifest == {"manifest.json", "spec.json"}
        assert manifest <= made
        assert {"own-sweep.csv", "of_here-sweep.png", "runs/of_here.test.res.gz"} <= made


def test_a_merge_that_is_made_for_one_collection_is_scored_on_the_other(run, folders, bert_retriever, tmp_path):
    """By hand: trained on the documents of "here", chosen on its dev queries, and searched over there."""
    here, there = (get_collection("local", path=str(path)) for path in folders.values())
    texts = [doc["text"] for doc in here.corpus_iter()]
    domain = train_domain_model(texts, bert_retriever, tmp_path / "domain", settings=MaskedTraining(**TRAIN))
    tables = [
        pd.read_csv(run.folder / label / "of_here-sweep.csv").set_index(["alpha_lower", "alpha_upper"])["RR@10"]
        for label in ("here", "over_there")
    ]
    assert tables[0].equals(tables[1])
    pair = tables[0].idxmax()
    encoder = MergedE5Encoder(
        bert_retriever, domain, alpha_lower=pair[0], alpha_upper=pair[1], dtype="float32", task=there.task
    )
    for label, collection in (("here", here), ("over there", there)):
        table = run.found[label].table.set_index("name")
        [shown] = [name for name in table.index if name.startswith("of here")]
        docs = list(collection.corpus_iter())
        topics, qrels = collection.topics("test"), collection.qrels("test").set_index("qid")["docno"]
        scores = encoder.encode_queries(list(topics["query"])) @ encoder.encode_docs([d["text"] for d in docs]).T
        values = []
        for qid, row in zip(topics["qid"], scores, strict=True):
            ranked = sorted(zip(row, (d["docno"] for d in docs), strict=True), reverse=True)
            rank = [docno for _, docno in ranked].index(qrels[qid]) + 1
            values.append(1 / rank if rank <= 10 else 0)
        assert table["RR@10"][shown] == pytest.approx(sum(values) / len(values), abs=1e-6)
        assert table["labels"][shown] == 5  # dev queries of "here"


def test_the_report_says_for_which_collection_a_merge_was_made(run):
    report = (run.folder / "over_there" / "report.md").read_text()
    [note] = [line for line in report.splitlines() if line.startswith("- of here: source")]
    assert "trained on the documents of one, unlabelled" in note
    assert "on 5 dev queries of one" in report
    [note] = [line for line in report.splitlines() if line.startswith("- own: source")]
    assert "trained on the documents of two, unlabelled" in note
    assert "on 7 dev queries of two" in report
    assert str(run.cache) not in report


def test_a_second_run_encodes_and_searches_nothing(run, monkeypatch):
    monkeypatch.setenv("PYTERRIER_MERGE_CACHE", str(run.cache))
    monkeypatch.setattr(E5Encoder, "encode", lambda *_, **__: pytest.fail("encoded again"))
    monkeypatch.setattr(dense.Dense, "transform", lambda *_: pytest.fail("searched again"))
    found = run_experiment(run.spec, run.folder)
    for label in run.found:
        pd.testing.assert_frame_equal(found[label].table, run.found[label].table)


def test_a_run_that_is_killed_after_the_first_collection_goes_on(run, monkeypatch, tmp_path):
    monkeypatch.setenv("PYTERRIER_MERGE_CACHE", str(tmp_path / "cache"))
    real = dense.Dense.transform
    searched = []

    def killed(self, inp):
        if self.bench.collection.name == "two" and len(searched) < 100:
            raise KeyboardInterrupt
        searched.append(self.bench.collection.name)
        return real(self, inp)

    with monkeypatch.context() as broken:
        broken.setattr(dense.Dense, "transform", killed)
        with pytest.raises(KeyboardInterrupt):
            run_experiment(run.spec, tmp_path / "run")
    assert (tmp_path / "run" / "here" / "report.md").is_file()
    searched[:] = [""] * 100
    monkeypatch.setattr(dense.Dense, "transform", killed)
    found = run_experiment(run.spec, tmp_path / "run")
    assert searched[100:] == ["two"] * 3
    for label in run.found:
        pd.testing.assert_frame_equal(found[label].table, run.found[label].table)


def test_only_some_systems(run, folders, tmp_path, cache):
    found = run_experiment(run.spec, tmp_path / "run", only=("source",))
    assert [list(own.table["name"]) for own in found.values()] == [["BM25", "source"]] * 2


@pytest.mark.parametrize(
    ("merged", "message"),
    [
        ({"sweep": {"collection": "her"}}, "no collection 'her'; did you mean 'here'"),
        ({"sweep": {}, "domain": {"collection": "two"}}, "no collection 'two'; it has here, over there"),
        ({"sweep": {"collection": "here", "split": "test"}}, "nothing can be chosen on 'test'"),
        ({"sweep": {"collection": "here", "split": "train"}}, "one has no split 'train' to choose on"),
    ],
)
def test_what_names_no_collection_shows_before_any_work(folders, bert_retriever, tmp_path, cache, merged, message):
    spec = ExperimentSpec.model_validate(settings(folders, bert_retriever, **merged))
    with pytest.raises(ValueError, match=rf"systems\.of here: .*{message}"):
        run_experiment(spec, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_dev_queries_of_one_that_are_test_queries_of_the_other_are_refused(folders, bert_retriever, tmp_path, cache):
    """As those of TREC CDS are: the dev topics of 2014 are the test topics of 2015."""
    leaking = tmp_path / "leaking"
    leaking.mkdir()
    for file in ("corpus.jsonl", "queries.jsonl"):
        (leaking / file).write_text((folders["over there"] / file).read_text())
    (leaking / "qrels").mkdir()
    rows = (folders["over there"] / "qrels" / "test.tsv").read_text()
    (leaking / "qrels" / "dev.tsv").write_text(rows)
    (leaking / "qrels" / "test.tsv").write_text((folders["over there"] / "qrels" / "dev.tsv").read_text())
    three = {**folders, "leaking": leaking}
    spec = ExperimentSpec.model_validate(settings(three, bert_retriever, sweep={"grid": GRID, "collection": "leaking"}))
    with pytest.raises(ValueError, match=r"8 of 8 dev queries of leaking are test queries of two too"):
        run_experiment(spec, tmp_path / "run")


def lexical(folders):
    """Two systems that take no time."""
    given = settings(folders, "nothing") | {"baselines": ["BM25"]}
    return {**given, "systems": {"BM25": {"kind": "bm25"}, "flat": {"kind": "bm25", "k1": 0}}}


def test_a_folder_of_one_collection_is_not_that_of_several(folders, tmp_path, cache):
    """The old report would stay on top of the new ones, or the old ones below the new one."""
    several = ExperimentSpec.model_validate(lexical(folders))
    one = ExperimentSpec.model_validate(lexical({"here": folders["here"]}))
    for first, second in ((one, several), (several, one)):
        folder = tmp_path / f"run{len(first.collection)}"
        run_experiment(first, folder)
        (folder / "notes.txt").write_text("mine")
        before = {file for file in folder.rglob("*") if file.is_file()}
        with pytest.raises(FileExistsError, match=r"holds the run of other collections.*--overwrite"):
            run_experiment(second, folder)
        assert {file for file in folder.rglob("*") if file.is_file()} == before
        run_experiment(second, folder, overwrite=True)
        reports = {str(file.parent.relative_to(folder)) for file in folder.rglob("report.md")}
        assert reports == ({"."} if second is one else {"here", "over_there"})
        assert (folder / "notes.txt").read_text() == "mine"
        assert (folder / "runs").exists() == (second is one)


@pytest.mark.parametrize("labels", [("a", "A"), ("a b", "a_b"), ("a", "a")])
def test_labels_are_names_of_folders(folders, bert_retriever, labels):
    both = dict(zip(("x", "y"), folders.values(), strict=True))
    given = settings(both, bert_retriever)
    for section, label in zip(given["collection"], labels, strict=True):
        section["label"] = label
    with pytest.raises(ValueError, match="expected each once, by its label"):
        ExperimentSpec.model_validate(given)


def test_the_command_says_where_the_reports_are(folders, tmp_path, cache):
    (tmp_path / "spec.yaml").write_text(yaml.safe_dump(lexical(folders)))
    result = CliRunner().invoke(app, ["run", str(tmp_path / "spec.yaml"), "--out", str(tmp_path / "out"), "--quiet"])
    assert result.exit_code == 0, result.output
    for label in ("here", "over_there"):
        assert (tmp_path / "out" / label / "report.md").is_file()
        assert f"out/{label}/report.html" in result.output.replace("\n", "")
