import pytest
import yaml

from pyterrier_merge.experiment.spec import ExperimentSpec, read_spec

BM25 = {"kind": "bm25"}
SOURCE = {"kind": "encoder", "model": "m"}
MERGED = {"kind": "merged", "source": "m", "domain": "d", "sweep": {}}
SMALLEST = {"name": "n", "collection": "hpo", "systems": {"BM25": BM25, "source": SOURCE, "merged": MERGED}}


def write(tmp_path, content):
    path = tmp_path / "spec.yaml"
    path.write_text(content if isinstance(content, str) else yaml.safe_dump(content))
    return path


def with_system(**section):
    """The smallest file with one more system, or another ``merged``."""
    return {"systems": {**SMALLEST["systems"], "other": section}}


def test_a_collection_takes_its_options(tmp_path):
    plain = read_spec(write(tmp_path, SMALLEST))
    assert [(section.name, section.options) for section in plain.collection] == [("hpo", {})]
    assert plain.model_dump(mode="json")["collection"] == ["hpo"]
    for given in (
        {"name": "miracl-ja", "pool": "judged-dev"},
        {"name": "trec-cds-2016", "topic": "description"},
        {"name": "local", "path": "somewhere", "language": "ja"},
        {"name": "irds:beir/fiqa", "dev": "beir/fiqa/dev"},
        {"name": "trec-cds-2016", "label": "notes", "topic": "note"},
        {"name": "hpo", "label": "terms"},
    ):
        spec = read_spec(write(tmp_path, {**SMALLEST, "collection": given}))
        [section] = spec.collection
        assert {"name": section.name, **section.options} == {key: given[key] for key in given if key != "label"}
        assert section.label == given.get("label", given["name"])
        assert spec.model_dump(mode="json")["collection"] == [given]
        assert ExperimentSpec.model_validate(spec.model_dump(mode="json")) == spec


def test_several_collections_are_a_list(tmp_path):
    spec = read_spec(write(tmp_path, {**SMALLEST, "collection": ["hpo", {"name": "local", "path": "x"}]}))
    assert [section.name for section in spec.collection] == ["hpo", "local"]


def test_defaults_are_filled_in(tmp_path):
    spec = read_spec(write(tmp_path, SMALLEST))
    assert spec.measures == ("nDCG@10", "RR@10", "R@100")
    assert spec.systems["merged"].sweep.grid == (0, 0.25, 0.5, 0.75, 1)
    assert spec.systems["BM25"].engine == "pisa"
    assert spec.tested_against() == ("BM25",)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"collection": "hpp"}, r"spec\.yaml: collection: no collection is named 'hpp'; did you mean 'hpo'"),
        ({"collection": {"pool": "judged"}}, r"collection\.name: this field is missing$"),
        ({"collection": 7}, "collection: expected the name of a collection, or {name: NAME, ...}; found 7"),
        ({"collection": []}, "collection: "),
        ({"collection": {"name": "hpo", "label": ""}}, r"collection\.label: "),
        ({"collection": {"name": "hpo", "label": 7}}, r"collection\.label: "),
        (
            {"collection": ["hpo", "hpo"]},
            "expected each once, by its label; found hpo, hpo: give one of them another 'label'",
        ),
        (
            {"collection": {"name": "miracl-ja", "pol": "judged"}},
            r"no option 'pol'; did you mean 'pool'\? it has pool, download",
        ),
        ({"collection": "local"}, "local needs the option 'path'"),
        ({"collection": {"name": "local", "path": None}}, "local: path is the name of a folder, found None"),
        ({"collection": {"name": "jqara", "path": 5}}, "jqara: path is the name of a folder, found 5"),
        ({"measures": ["nDCG@@10"]}, "measures.0: .*is not a measure"),
        ({"measures": ["ndgc@10"]}, r"measures.0: .*did you mean 'nDCG@10'"),
        ({"measures": ["AP(foo=2)"]}, r"measures.0: .*'AP\(foo=2\)' has no parameter 'foo'; it has cutoff, rel"),
        (
            {"systms": 1},
            r"spec\.yaml: systms: unknown field; did you mean 'systems'\? there are name, collection, split",
        ),
        ({"splt": "dev", "systms": 1}, r"spec\.yaml: \n- splt: unknown field; .*\n- systms: unknown field"),
        (
            {"collection": {"name": "local", "path": "p", "measures": ["AP"]}},
            r"collection: an experiment has its measures in a field of its own: measures: \[nDCG@10\]$",
        ),
        (
            {"systems": {"x": {**MERGED, "sorce": "m"}}},
            r"systems\.x\.sorce: unknown field; did you mean 'source'\? there",
        ),
        (
            {"systems": {"x": {**MERGED, "sweep": {"gird": [1]}}}},
            r"x\.sweep\.gird: unknown field; did you mean 'grid'\? there are fraction, queries, trials, seed, grid",
        ),
        (
            {"systems": {"x": {**MERGED, "domain": {"tran": {}}}}},
            r"spec\.yaml: systems\.x\.domain\.tran: unknown field; did you mean 'train'\? there are train",
        ),
        ({"systems": {"x": {**MERGED, "domain": 7}}}, r"x\.domain: expected a name, a list of names, or .*; found 7$"),
        (
            {"systems": {"x": {**MERGED, "sweep": 7}}},
            r"x\.sweep: expected fields \(fraction, .*grid, split, .*\), found 7$",
        ),
        ({"significance": {"tset": "t"}}, r"significance\.tset: unknown field; did you mean 'test'"),
        ({"measures": "AP"}, "measures: expected a list, found 'AP'$"),
        ({"systems": 7}, "systems: expected fields, found 7$"),
        ({"num_results": "ten"}, "num_results: expected a valid integer, .*; found 'ten'$"),
        ({"systems": {}}, "systems: "),
        ({"systems": {"x": {"kind": "bm52"}}}, r"systems\.x: .*unknown kind 'bm52': did you mean 'bm25'\? kinds are"),
        ({"systems": {"x": {"model": "m"}}}, r"systems\.x: .*expected a section with 'kind'"),
        ({"systems": {"x": {"kind": "encoder"}}}, r"systems\.x\.model: this field is missing$"),
        ({"systems": {"a b": BM25, "a_b": BM25}}, "'a b' and 'a_b' would be kept in the same file"),
        (
            with_system(kind="encoder", model="m", pooling="last"),
            r"unknown pooling 'last': did you mean 'lasttoken'\? choose one of",
        ),
        (with_system(kind="encoder", model="m", batch_size=0), r"systems\.other\.batch_size: "),
        (with_system(kind="merged", source="m", sweep={}), "a merge needs 'source' and 'domain', or 'mergekit'"),
        (
            with_system(kind="merged", source="m", domain="d"),
            "linear needs 'alpha_lower' and 'alpha_upper', or 'sweep'",
        ),
        ({"systems": {"x": {**MERGED, "alpha_lower": 1, "alpha_upper": 1}}}, "in one way; found sweep and alpha_lower"),
        ({"systems": {"x": {**MERGED, "mergekit": "a.yml", "sweep": None}}}, "leave source, domain out"),
        (
            {"systems": {"x": {**MERGED, "domain": {"train": {"step": 5}}}}},
            r"x\.domain\.train\.step: unknown field; did you mean 'steps'",
        ),
        (
            {"systems": {"x": {**MERGED, "domain": {"train": {"steps": 0}}}}},
            r"x\.domain\.train\.steps: expected a number greater than or equal to 1; found 0",
        ),
        ({"systems": {"x": {**MERGED, "domain": {"train": {}, "seeds": []}}}}, "seeds: expected at least one"),
        ({"systems": {"x": {**MERGED, "domain": {"train": {"seed": 1}, "seeds": [1]}}}}, "either 'seeds' or 'seed'"),
        ({"systems": {"x": {**MERGED, "sweep": {"grid": [0.5, 2]}}}}, r"within \[0, 1\]; found 2"),
        ({"systems": {"x": {**MERGED, "sweep": {"grid": []}}}}, "the grid of alphas is empty"),
        ({"systems": {"x": {**MERGED, "sweep": {"metric": "nDGC"}}}}, "'nDGC' is not a measure"),
        ({"systems": {"x": {**MERGED, "method": "mean"}}}, r"systems\.x: .*unknown merge method 'mean'"),
        ({"systems": {"x": {**MERGED, "method": "karcher"}}}, "karcher takes no weights"),
        ({"systems": {"x": {**MERGED, "method": "slerp", "parameters": {"densty": 1}}}}, "slerp has no parameter"),
        (with_system(kind="fusion", of=["BM25"]), r"systems\.other\.of: "),
        (with_system(kind="fusion", of=["BM25", "BM25"]), "each system once"),
        (with_system(kind="fusion", of=["BM25", "merge"]), "no system is named 'merge'; did you mean 'merged'"),
        (with_system(kind="fusion", of=["BM25", "other"]), r"systems\.other: it builds on itself"),
        (with_system(kind="fusion", of=["BM25", "source"], weights=[1, 1]), "rrf takes no weights"),
        (with_system(kind="fusion", of=["BM25", "source"], method="linear", weights=[1]), "one for each of 2 systems"),
        (with_system(kind="fusion", of=["BM25", "source"], method="linear", weights=[0, 0]), "not all 0"),
        (with_system(kind="fusion", of=["BM25", "source", "merged"], method="linear"), "for two systems alone"),
        (
            with_system(kind="pipeline", function="nothing"),
            r"systems\.other\.function: expected module:function; found 'nothing'$",
        ),
        (
            {"baselines": ["BM52"]},
            r"baselines: no system is named 'BM52'; did you mean 'BM25'\? there are BM25, ",
        ),
        ({"num_results": 0}, "num_results"),
        ({"num_results": 50}, "R@100 looks deeper than num_results, 50"),
        ({"measures": ["RR@10", "MRR@10"]}, "each once"),
        ({"measures": ["nDCG@0"]}, "the cutoff of nDCG@0 must be a whole number, at least 1, not 0"),
        ({"measures": ["RR@10", "RBP@10"]}, "RBP@10 cannot be computed: ValueError: Unsupported"),
        ({"measures": ["P"]}, "P cannot be computed: AssertionError: invalid param cutoff=nothing"),
        ({"name": "../up"}, "name"),
        ({"name": ".."}, r"name: expected letters, digits, '_', '-' and '\.', not dots alone; found '\.\.'$"),
        (
            {"systems": {"x": {**BM25, "engine": "lucene"}}},
            r"x\.engine: found 'lucene'; expected one of pisa, terrier$",
        ),
        ({"systems": {"x": {**BM25, "k1": -1}}}, r"x\.k1: .*greater than or equal to 0"),
        ({"systems": {"x": {**BM25, "k1": float("nan")}}}, r"x\.k1: .*finite"),
        ({"systems": {"x": {**BM25, "b": 3}}}, r"x\.b: .*less than or equal to 1"),
        ({"systems": {"x": {**BM25, "b": float("nan")}}}, r"x\.b: "),
        (
            {"significance": {"test": "z"}},
            r"significance\.test: found 'z'; expected one of t, randomization, wilcoxon$",
        ),
        (
            {"significance": {"correction": "hlm"}},
            r"correction: found 'hlm'; did you mean 'holm'\? expected one of holm",
        ),
    ],
)
def test_each_wrong_field_is_named(tmp_path, change, message):
    with pytest.raises(ValueError, match=message):
        read_spec(write(tmp_path, {**SMALLEST, **change}))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (with_system(**{**MERGED, "sweep": {"grid": [0.5, "a"]}}), r"other\.sweep\.grid\.1: .*number; found 'a'"),
        (with_system(**{**MERGED, "sweep": {"grid": [[0.5, "a"]]}}), r"other\.sweep\.grid\.0\.1: .*; found 'a'"),
        (with_system(**{**MERGED, "sweep": {"grid": "a"}}), r"other\.sweep\.grid: expected a list, found 'a'"),
        (with_system(**{**MERGED, "domain": [5]}), r"other\.domain\.0: expected a valid string; found 5"),
        (with_system(**SOURCE, device=7), r"other\.device: expected a valid string; found 7"),
        (with_system(**SOURCE, device=[0]), r"other\.device\.0: expected a valid string; found 0"),
        (with_system(kind=["bm25"]), r"other: unknown kind \['bm25'\]: did you mean 'bm25'\? kinds are .*"),
        (with_system(kind="rerank", first="BM25", by={"kind": "encoder", "model": "m", "devise": 1}),
         r"other\.by\.devise: unknown field; did you mean 'device'\? there are task, .*, kind, model"),
        (with_system(kind="rerank", first="BM25", by={**MERGED, "sweep": {"gird": [1]}}),
         r"other\.by\.sweep\.gird: unknown field; did you mean 'grid'\? there are fraction, .*"),
    ],
)  # fmt: skip
def test_of_a_field_with_several_forms_the_nearest_is_named(tmp_path, change, message):
    """Pydantic adds the names of the forms to the path, and reports a problem for each."""
    with pytest.raises(ValueError, match=rf"spec\.yaml: systems\.{message}$"):
        read_spec(write(tmp_path, {**SMALLEST, **change}))


@pytest.mark.parametrize(
    ("change", "messages"),
    [
        ({"systems": {0.5: {**MERGED, "devise": 1}}},
         [r"systems\.0\.5: a name must be text: write it in quotes", r"systems\.0\.5\.devise: unknown .* 'device'.*"]),
        ({"systems": {7: {**SOURCE, "devise": 1}}},
         [r"systems\.7: a name must be text: write it in quotes", r"systems\.7\.devise: unknown .* 'device'\?.*"]),
        ({"measures": [], "systems": {}}, [r"measures: .*at least 1 item.*", r"systems: .*at least 1 item.*"]),
        ({"measures": ["nDGC"], "splt": "dev"}, [r"measures\.0: .*", r"splt: .*"]),
        (with_system(kind="pipeline", of=1), [r"systems\.other\.function: this .* missing", r"systems\.other\.of: .*"]),
        (with_system(kind="rerank"), [rf"systems\.other\.{name}: this field is missing" for name in ("first", "by")]),
    ],
)  # fmt: skip
def test_each_of_several_problems_is_a_line(tmp_path, change, messages):
    """A list without its wrong items is too short; that is no problem of its own."""
    with pytest.raises(ValueError, match="".join([r"spec\.yaml: ", *(rf"\n- {line}" for line in messages), "$"])):
        read_spec(write(tmp_path, {**SMALLEST, **change}))


def test_a_field_may_be_called_on(tmp_path):
    """YAML 1.1, as PyYAML reads it, takes the word for a truth value; as a value it still is one."""
    text = yaml.safe_dump(SMALLEST).replace("sweep: {}", "sweep: {on: known-items, items: 50}")
    spec = read_spec(write(tmp_path, text))
    sweep = spec.systems["merged"].sweep
    assert (sweep.on, sweep.items) == ("known-items", 50)
    assert ExperimentSpec.model_validate(spec.model_dump(mode="json")) == spec
    with pytest.raises(ValueError, match=r"systems\.merged\.sweep\.pool: unknown field; there are on, grid, items"):
        read_spec(write(tmp_path, text.replace("items: 50", "pool: {of: [BM25]}")))
    with pytest.raises(ValueError, match="'on' is given twice"):
        read_spec(write(tmp_path, text.replace("items: 50", "on: known-items")))


def test_a_circle_of_systems_is_refused(tmp_path):
    first = {"kind": "fusion", "of": ["BM25", "second"]}
    second = {"kind": "rerank", "first": "first", "by": "source"}
    circle = {**SMALLEST, "systems": {**SMALLEST["systems"], "first": first, "second": second}}
    with pytest.raises(ValueError, match=r"systems\.first: it builds on itself \(through 'second'\)"):
        read_spec(write(tmp_path, circle))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("a: [", "not readable YAML"),
        ("just text", "holds no experiment"),
        ("systems: {x: {}}\nname: n\nsystems: {y: {}}", "not readable YAML: 'systems' is given twice"),
        ("systems: {x: {k1: 1, b: 1, k1: 2}}", "not readable YAML: 'k1' is given twice"),
        ("systems: {x: {kind: bm25}, x: {kind: bm25}}", "not readable YAML: 'x' is given twice"),
    ],
)
def test_what_is_no_experiment_is_refused(tmp_path, content, message):
    with pytest.raises(ValueError, match=message):
        read_spec(write(tmp_path, content))


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no experiment file .*nowhere\.yaml"):
        read_spec(tmp_path / "nowhere.yaml")
