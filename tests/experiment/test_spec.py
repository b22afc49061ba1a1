from pathlib import Path

import pytest
import yaml

from pyterrier_merge.experiment.spec import ExperimentSpec, read_spec

EXPERIMENTS = Path(__file__).resolve().parents[2] / "experiments"
SMALLEST = {"name": "n", "collection": "hpo", "source": {"model": "m"}, "domain": {"model": "d"}}


def write(tmp_path, content):
    path = tmp_path / "spec.yaml"
    path.write_text(content if isinstance(content, str) else yaml.safe_dump(content))
    return path


@pytest.mark.parametrize("file", sorted(EXPERIMENTS.glob("*.yaml")), ids=lambda file: file.stem)
def test_the_experiments_that_we_ship_are_valid(file):
    assert read_spec(file).collection


def test_a_collection_takes_its_options(tmp_path):
    plain = read_spec(write(tmp_path, SMALLEST))
    assert (plain.collection.name, plain.collection.options) == ("hpo", {})
    assert plain.model_dump(mode="json")["collection"] == "hpo"
    for given in (
        {"name": "miracl-ja", "pool": "judged-dev"},
        {"name": "trec-cds-2016", "topic": "description"},
        {"name": "local", "path": "somewhere", "language": "ja"},
        {"name": "irds:beir/fiqa", "dev": "beir/fiqa/dev"},
    ):
        spec = read_spec(write(tmp_path, {**SMALLEST, "collection": given}))
        assert {"name": spec.collection.name, **spec.collection.options} == given
        assert ExperimentSpec.model_validate(spec.model_dump(mode="json")) == spec


def test_defaults_are_filled_in(tmp_path):
    spec = read_spec(write(tmp_path, SMALLEST))
    assert spec.measures == ("nDCG@10", "RR@10", "R@100")
    assert spec.merged.grid == (0, 0.25, 0.5, 0.75, 1)
    assert spec.bm25.engine == "pisa"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"collection": "hpp"}, "collection: .*no collection is named 'hpp'; did you mean 'hpo'"),
        ({"collection": {"pool": "judged"}}, r"collection\.name: "),
        ({"collection": 7}, "collection: expected the name of a collection, or {name: NAME, ...}; found 7"),
        (
            {"collection": {"name": "miracl-ja", "pol": "judged"}},
            "collection: .*no option 'pol'; it has pool, download",
        ),
        ({"collection": "local"}, "collection: .*local needs the option 'path'"),
        (
            {"collection": {"name": "local", "path": None}},
            "collection: .*local: path is the name of a folder, found None",
        ),
        ({"collection": {"name": "jqara", "path": 5}}, "collection: .*jqara: path is the name of a folder, found 5"),
        ({"collection": "irds:beir/fiqa", "split": "x", "merged": {"split": "x"}}, "alphas cannot be chosen on 'x'"),
        ({"measures": ["nDCG@@10"]}, "measures.0: .*is no measure"),
        ({"measures": ["AP(foo=2)"]}, r"measures.0: .*'AP\(foo=2\)' has no parameter 'foo'; it has cutoff, rel"),
        ({"sorce": 1}, r"spec\.yaml: sorce: unknown field; did you mean 'source'\? there are name, collection, split"),
        ({"source": {}}, r"source\.model: this field is missing$"),
        (
            {"source": {"model": "m", "modle": "m"}},
            r"source\.modle: unknown field; did you mean 'model'\? there are model",
        ),
        ({"source": "m"}, r"source: expected fields \(model, .*, batch_size\), found 'm'$"),
        ({"source": {"model": "m", "dtype": "fp16"}}, r"source\.dtype: expected 'auto', .*; found 'fp16'$"),
        ({"measures": "AP"}, "measures: expected a list, found 'AP'$"),
        ({"num_results": "ten"}, "num_results: expected a valid integer, .*; found 'ten'$"),
        ({"source": {}, "sorce": 1}, r"spec\.yaml: \n- source\.model: this .*\n- sorce: unknown field"),
        ({"collection": {"path": "p"}}, r"collection\.name: this field is missing$"),
        ({"source": {"model": "m", "pooling": "last"}}, r"source\.pooling: .*unknown pooling 'last': choose one of"),
        ({"domain": {}}, "either 'model' .* or 'train'"),
        ({"domain": {"model": "d", "train": {}}}, "either 'model' .* or 'train'"),
        (
            {"domain": {"train": {"step": 5}}},
            r"train has no setting 'step'; did you mean 'steps'\? there are steps, batch_size",
        ),
        ({"domain": {"train": {"steps": 0}}}, "steps must be"),
        ({"merged": {"grid": [0.5, 2]}}, r"within \[0, 1\]; found 2"),
        ({"merged": {"grid": 3}}, r"merged\.grid: expected a list of alphas, or of pairs of them; found 3$"),
        ({"merged": {"grid": ["a"]}}, r"merged\.grid: alpha_lower is the weight .*; found 'a'$"),
        ({"merged": {"grid": []}}, "the grid of alphas is empty"),
        ({"merged": {"split": "test"}}, "alphas cannot be chosen on 'test'"),
        ({"split": "dev"}, "alphas cannot be chosen on 'dev'"),
        ({"merged": {"method": "mean"}}, r"merged\.method: .*unknown merge method 'mean'"),
        ({"merged": {"method": "karcher"}}, r"merged\.method: .*karcher takes no weights"),
        ({"merged": {"method": "slerp", "parameters": {"densty": 1}}}, "slerp has no parameter 'densty'"),
        ({"num_results": 0}, "num_results: expected a number greater than or equal to 1; found 0$"),
        ({"num_results": 50}, "R@100 looks deeper than num_results, 50"),
        ({"measures": ["RR@10", "MRR@10"]}, "each once"),
        ({"measures": ["nDCG@0"]}, "the cutoff of nDCG@0 must be a whole number, at least 1, not 0"),
        ({"measures": ["RR@10", "RBP@10"]}, "RBP@10 cannot be computed: ValueError: Unsupported"),
        ({"measures": ["P"]}, "P cannot be computed: AssertionError: invalid param cutoff=nothing"),
        ({"name": "../up"}, "name"),
        ({"name": ".."}, "name: expected a name of letters, digits, '_', '-' and '.'; found '..'"),
        ({"bm25": {"engine": "lucene"}}, "bm25.engine"),
        ({"bm25": {"k1": -1}}, r"bm25\.k1: .*greater than or equal to 0"),
        ({"bm25": {"k1": float("nan")}}, r"bm25\.k1: .*finite"),
        ({"bm25": {"b": 3}}, r"bm25\.b: .*less than or equal to 1"),
        ({"bm25": {"b": float("nan")}}, r"bm25\.b: "),
    ],
)
def test_each_wrong_field_is_named(tmp_path, change, message):
    with pytest.raises(ValueError, match=message):
        read_spec(write(tmp_path, {**SMALLEST, **change}))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("a: [", "not readable YAML"),
        ("just text", "holds no experiment"),
        ("merged: {split: train}\nname: n\nmerged: {pool_depth: 5}", "not readable YAML: 'merged' is given twice"),
        ("bm25: {k1: 1, b: 1, k1: 2}", "not readable YAML: 'k1' is given twice"),
    ],
)
def test_what_is_no_experiment_is_refused(tmp_path, content, message):
    with pytest.raises(ValueError, match=message):
        read_spec(write(tmp_path, content))


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no experiment file .*nowhere\.yaml"):
        read_spec(tmp_path / "nowhere.yaml")
