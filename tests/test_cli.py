import io
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
import yaml
from rich.console import Console
from typer.testing import CliRunner

from pyterrier_merge import __version__
from pyterrier_merge.cli import app
from pyterrier_merge.cli.console import print_table


def call(*arguments):
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def test_the_command_is_installed_and_knows_its_version():
    command = [sys.executable, "-m", "pyterrier_merge.cli", "--version"]
    assert (
        subprocess.run(command, capture_output=True, text=True, check=True).stdout == f"pyterrier-merge {__version__}\n"
    )


def test_help_shows_the_commands():
    result = call("--help")
    assert result.exit_code == 0
    assert "run" in result.output


def test_the_collections_are_listed_with_all_that_is_known(monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    result = call("collections")
    assert result.exit_code == 0
    lines = result.output.splitlines()
    assert max(map(len, lines)) <= 80
    row = next(line.split() for line in lines if "trec-cds-2016" in line)
    assert row == ["trec-cds-2016", "en", "1,255,260", "dev", "30", "nDCG@10", "18.9", "GB"]
    assert "…" not in result.output  # nothing is cut off


def test_a_wide_table_is_whole():
    row = {"system": "merged (0.75, 0.75)"} | dict.fromkeys(("nDCG@10", "RR@10", "R@100", "AP"), "0.4386 a+ b-")
    console = Console(file=io.StringIO(), width=80)
    print_table(console, "title", pd.DataFrame([row]))
    lines = console.file.getvalue().splitlines()
    assert [cell.strip() for cell in lines[5].strip("│").split("│")] == list(row.values())
    assert len({len(line) for line in lines[2:]}) == 1


def test_a_missing_file_is_an_error_in_one_line(tmp_path):
    result = call("run", tmp_path / "nowhere.yaml")
    assert result.exit_code == 1
    assert result.output.startswith("error: no experiment file")
    assert "Traceback" not in result.output


def test_what_is_no_yaml_is_an_error_in_one_line(tmp_path):
    (tmp_path / "spec.yaml").write_text("name: n\ncollection: [hpo\nsource: {}\n")
    for arguments in (["run", tmp_path / "spec.yaml"], ["merge", tmp_path / "spec.yaml", tmp_path / "out"]):
        result = call(*arguments)
        assert result.exit_code == 1
        assert result.output.startswith(f"error: {tmp_path / 'spec.yaml'} is not readable YAML: while parsing")
        assert "line 3, column 7" in result.output
        assert result.output.count("\n") == 1


def test_a_file_is_no_run_folder(tmp_path):
    spec = {"name": "n", "collection": "hpo", "systems": {"BM25": {"kind": "bm25"}}}
    (tmp_path / "spec.yaml").write_text(yaml.safe_dump(spec))
    result = call("run", tmp_path / "spec.yaml", "--out", tmp_path / "spec.yaml")
    assert result.exit_code == 1
    assert result.output == f"error: {tmp_path / 'spec.yaml'} is a file: name a folder for the run (--out)\n"


def test_a_wrong_field_is_an_error_that_leaves_nothing(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "spec.yaml").write_text(yaml.safe_dump({"name": "n", "collection": "nope"}))
    result = call("run", "spec.yaml")
    assert result.exit_code == 1
    assert "no collection is named 'nope'" in result.output
    assert [path.name for path in tmp_path.iterdir()] == ["spec.yaml"]


def test_a_missing_model_is_an_error_that_says_what_to_give(tmp_path, monkeypatch, small_collection):
    from pyterrier_merge.experiment import run

    monkeypatch.setattr(run, "get_collection", lambda _: small_collection)
    spec = {"name": "n", "collection": "hpo", "systems": {"source": {"kind": "encoder", "model": "./nothing"}}}
    (tmp_path / "spec.yaml").write_text(yaml.safe_dump(spec))
    result = call("run", tmp_path / "spec.yaml", "--out", tmp_path / "run", "--quiet")
    assert result.exit_code == 1
    assert "systems.source: no model at './nothing'" in result.output


@pytest.fixture
def experiment(tmp_path, monkeypatch, small_collection):
    """A file of three systems, one of which fails; the working folder is ``tmp_path``."""
    from pyterrier_merge.experiment import run

    monkeypatch.setattr(run, "get_collection", lambda _: small_collection)
    monkeypatch.setenv("PYTERRIER_MERGE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "broken_pipeline.py").write_text("def make(collection): return 7\n")
    broken = {"kind": "pipeline", "function": "broken_pipeline:make"}
    systems = {"BM25": {"kind": "bm25"}, "flat": {"kind": "bm25", "b": 0.0}, "broken": broken}
    content = {"name": "tiny", "collection": "hpo", "systems": systems, "num_results": 20, "measures": ["R@20"]}
    (tmp_path / "spec.yaml").write_text(yaml.safe_dump(content, sort_keys=False))
    return tmp_path


def test_the_exit_status_says_whether_every_system_ran(experiment):
    failed = call("run", "spec.yaml", "--quiet")
    assert failed.exit_code == 1
    assert "broken failed: broken_pipeline:make returned int, expected a PyTerrier transformer" in failed.stderr
    assert "flat" in failed.stdout  # the others are measured all the same
    assert (experiment / "runs" / "tiny" / "report.md").is_file()
    told = json.loads(call("run", "spec.yaml", "--quiet", "--json").stdout)["hpo"]
    assert [row["name"] for row in told["table"]] == ["BM25", "flat"]
    assert told["failed"]["broken"].startswith("broken_pipeline:make returned int")
    assert told["verdict"]
    again = call("run", "spec.yaml", "--quiet", "--only", "flat")
    assert again.exit_code == 0
    assert re.search(r"\] flat: R@20 [\d.]+ \(kept\)\n", again.stdout)
    assert "] broken: failed: broken_pipeline:make returned int" in failed.stdout
    assert failed.stdout.count("returned int") == failed.stderr.count("returned int") == 1


def test_only_runs_some_systems_and_the_folder_goes_on(experiment):
    """One first, all later, one again: what is finished is kept throughout."""
    runs = experiment / "runs" / "tiny" / "runs"
    first = call("run", "spec.yaml", "--quiet", "--only", "BM25")
    assert first.exit_code == 0, first.output
    assert [file.name for file in runs.glob("*.res.gz")] == ["BM25.test.res.gz"]
    report = experiment / "runs" / "tiny" / "report.md"
    assert "- Not all systems of the file were run; left out are flat, broken." in report.read_text()
    written = (runs / "BM25.test.res.gz").stat().st_mtime_ns
    assert call("run", "spec.yaml", "--quiet").exit_code == 1  # broken is broken
    assert "Not all systems" not in report.read_text()
    again = call("run", "spec.yaml", "--quiet", "--only", "BM25", "--only", "flat")
    assert again.exit_code == 0, again.output
    assert sorted(file.name for file in runs.glob("*.res.gz")) == ["BM25.test.res.gz", "flat.test.res.gz"]
    assert (runs / "BM25.test.res.gz").stat().st_mtime_ns == written
    call("run", "spec.yaml", "--quiet", "--only", "BM25")
    assert (runs / "flat.test.res.gz").is_file()


def test_only_takes_names_of_systems(experiment):
    result = call("run", "spec.yaml", "--only", "BM25", "--only", "falt")
    assert result.exit_code == 1
    assert "error: no system is named 'falt'; did you mean 'flat'? there are BM25, flat, broken" in result.stderr
    assert not (experiment / "runs").exists()


def test_a_dry_run_prints_the_plan_and_writes_nothing(experiment):
    before = set(experiment.rglob("*.*"))
    result = call("run", "spec.yaml", "--dry-run", "--only", "flat")
    assert result.exit_code == 0, result.output
    rows = [[cell.strip() for cell in line.split("│")[1:-1]] for line in result.stdout.splitlines() if "│" in line]
    assert ["flat", "bm25", "-", "no"] in rows
    plan = json.loads(call("run", "spec.yaml", "--dry-run", "--only", "flat", "--json").stdout)
    assert "In all on hpo: 0 documents to encode" in " ".join(plan["notes"])
    assert ["hpo", "30", "15", "nothing"] in rows
    assert ["flat", "pisa index", "no", "-", "-", "-", "-"] in rows
    assert not [row for row in rows if row[0] == "broken"]
    assert "In all on hpo: 0 documents to encode" in result.stdout
    assert set(experiment.rglob("*.*")) - before <= set(experiment.rglob("__pycache__/*"))


def test_a_rate_is_for_a_plan(experiment):
    result = call("run", "spec.yaml", "--rate", 10)
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr == "error: --rate is for the times of a plan: give --dry-run, too\n"


def test_options_of_a_cluster_come_before_the_file(experiment, monkeypatch):
    asked = []

    def refuse(*arguments, **options):
        asked.append((*arguments, options.pop("logs") and options))
        raise RuntimeError("no Ray cluster here")

    monkeypatch.setattr("pyterrier_merge.experiment.cluster.OnRay", refuse)
    content = (experiment / "spec.yaml").read_text()
    result = call("run", "spec.yaml", "--workers", 2)
    assert result.exit_code == 1
    assert "error: --workers and --gpus-per-worker need a cluster: give --ray, or 'cluster'" in result.stderr
    (experiment / "spec.yaml").write_text(f"{content}cluster: {{ray: 'there:1', workers: 8, gpus_per_worker: 0.5}}\n")
    for options in ([], ["--workers", 2], ["--ray", "local", "--gpus-per-worker", 0]):
        assert call("run", "spec.yaml", *options).exit_code == 1
    assert asked == [
        ("there:1", {"workers": 8, "gpus_per_worker": 0.5}),
        ("there:1", {"workers": 2, "gpus_per_worker": 0.5}),
        ("local", {"workers": 8, "gpus_per_worker": 0}),
    ]
    assert call("run", "spec.yaml", "--workers", 0).exit_code == 2


def test_sweep_chooses_and_searches_nothing_for_the_table(experiment, bert_retriever, bert_language_model):
    merged = {"kind": "merged", "source": str(bert_retriever), "domain": str(bert_language_model)}
    content = yaml.safe_load((experiment / "spec.yaml").read_text())
    content["systems"]["merged"] = merged | {"sweep": {"grid": [0.5, 1]}}
    (experiment / "spec.yaml").write_text(yaml.safe_dump(content, sort_keys=False))
    result = call("sweep", "spec.yaml", "--quiet")
    assert result.exit_code == 0, result.output
    folder = experiment / "runs" / "tiny"
    assert len(pd.read_csv(folder / "merged-sweep.csv")) == 4
    assert (folder / "merged-sweep.png").is_file()
    assert not (folder / "runs").exists()
    assert re.search(r"\n│\s+0\.5 ", result.stdout)
    assert "max-T test over the grid" in result.stdout
    [[one]] = json.loads(call("sweep", "spec.yaml", "--json").stdout)["hpo"].values()
    assert [row["alpha_lower"] for row in one["sweep"]] == [0.5, 0.5, 1, 1]
    assert call("run", "spec.yaml", "--quiet", "--only", "merged").stdout.count("merged") > 1  # it goes on from there


def test_sweep_goes_on_after_a_failure_and_looks_into_rerankers(experiment, bert_retriever, bert_language_model):
    merged = {"kind": "merged", "source": str(bert_retriever), "domain": str(bert_language_model)}
    content = yaml.safe_load((experiment / "spec.yaml").read_text())
    chosen = merged | {"sweep": {"grid": [[0.5, 1]]}}
    content["systems"] = {
        "BM25": content["systems"]["BM25"],
        "no model": merged | {"domain": str(experiment / "empty"), "sweep": {"grid": [[0.5, 1]]}},
        "reranked": {"kind": "rerank", "first": "BM25", "by": chosen},
    }
    shutil.copytree(bert_language_model, experiment / "empty")
    (experiment / "empty" / "model.safetensors").write_bytes(
        (bert_retriever / "model.safetensors").read_bytes()  # a copy of the source: merging fails
    )
    (experiment / "spec.yaml").write_text(yaml.safe_dump(content, sort_keys=False))
    result = call("sweep", "spec.yaml", "--quiet")
    assert result.exit_code == 1
    assert "error: no model: " in result.stderr
    assert (experiment / "runs" / "tiny" / "reranked-sweep.csv").is_file()


def test_sweep_needs_something_to_choose(experiment):
    result = call("sweep", "spec.yaml")
    assert result.exit_code == 1
    assert "error: no system has a 'sweep' section, so there is nothing to choose" in result.stderr


def test_the_fields_of_a_file_are_printed_without_one():
    result = call("run", "--fields")
    assert result.exit_code == 0
    assert result.stdout.startswith("# Fields of an experiment's file\n")
    assert "- `k1` (number, at least 0; default `1.2`): " in result.stdout


def test_check_prints_the_report_and_draws_it(bert_retriever, bert_language_model, tmp_path):
    result = call("check", bert_retriever, bert_language_model, "--plot", tmp_path / "distances.png", "--quiet")
    assert result.exit_code == 0
    assert "can be merged, with doubts\n- unrelated weights in 4 of 4 layers" in result.stdout
    assert (tmp_path / "distances.png").read_bytes().startswith(b"\x89PNG")
    assert not result.stderr


def test_check_prints_nothing_but_json(bert_retriever, bert_language_model):
    result = call("check", bert_retriever, bert_language_model, "--json")
    found = json.loads(result.stdout)
    assert result.exit_code == 0
    assert found["verdict"]["summary"] == "can be merged, with doubts"
    assert [distance["place"] for distance in found["distances"]][:2] == ["embeddings", "layer 0"]


def test_check_says_by_its_status_that_models_cannot_be_merged(bert_retriever, mistral_language_model, tmp_path):
    plot = tmp_path / "distances.png"
    result = call("check", bert_retriever, mistral_language_model, "--json", "--plot", plot)
    assert result.exit_code == 2
    assert json.loads(result.stdout)["verdict"]["summary"] == "cannot be merged"
    assert "no plot" in result.stderr
    assert not plot.exists()


def test_check_says_so_of_weights_that_cannot_be_merged_with_anything(bert_retriever, bert_language_model, tmp_path):
    folder = shutil.copytree(bert_language_model, tmp_path / "quantised")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "quantization_config": {"quant_method": "gptq"}}))
    result = call("check", bert_retriever, folder)
    assert result.exit_code == 2
    assert result.stderr.startswith("cannot be merged: ")
    assert "quantised" in result.stderr
    assert not result.stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["./nothing"], "no model at './nothing'"),
        (["{domain}", "--plot", "distances.txt"], "--plot takes a file that ends in .png"),
        (["{domain}", "--plot", "nowhere/distances.png"], "there is no folder"),
        (["{domain}", "--plot", "distances.png", "--no-distances"], "leave --no-distances out"),
    ],
)
def test_check_refuses_what_it_cannot_do(
    arguments, message, bert_retriever, bert_language_model, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    result = call("check", bert_retriever, *(a.format(domain=bert_language_model) for a in arguments))
    assert result.exit_code == 1
    assert message in result.stderr
    assert not result.stdout
    assert not list(tmp_path.iterdir())


def test_importing_is_light():
    """Torch alone takes more than the second that importing the package may."""
    heavy = "torch, transformers, mergekit, sentence_transformers, faiss, pyterrier_dr, matplotlib"
    script = f"import sys, pyterrier_merge; print([m for m in {heavy.split(', ')!r} if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout == "[]\n"


def test_every_public_name_is_there():
    import pyterrier_merge

    for name in pyterrier_merge.__all__:
        assert getattr(pyterrier_merge, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = pyterrier_merge.nothing


@pytest.fixture
def pair(bert_retriever, bert_language_model):
    return bert_retriever, bert_language_model


def test_merge_writes_a_folder_and_says_what_it_did(pair, tmp_path):
    from sentence_transformers import SentenceTransformer

    result = call("merge", *pair, tmp_path / "out", "--alpha-lower", 0.5, "--alpha-upper", 1, "--quiet")
    assert result.exit_code == 0, result.output
    lower, upper = (
        [cell.strip() for cell in line.split("│")] for line in result.output.splitlines() if "layers" in line
    )
    assert lower[1:3] == ["layers 0-1", "0.5"]
    assert upper[1:4] == ["layers 2-3", "1", "0.0000"]
    assert f"model: {tmp_path / 'out'}  (float32;" in result.output
    assert SentenceTransformer(str(tmp_path / "out"), device="cpu").encode("fever").shape == (32,)


def test_merge_takes_every_part_of_a_recipe(pair, mistral_retriever, mistral_language_model, tmp_path):
    result = call(
        *("merge", mistral_retriever, mistral_language_model, mistral_language_model, tmp_path / "out", "--quiet"),
        *("--alpha-lower", 0.5, "--alpha-upper", 0.75, "--method", "ties", "--parameter", "density=0.4"),
        *("--parameter", "normalize=False", "--base", mistral_language_model, "--embeddings", 0.5),
        *("--dtype", "bfloat16", "--task", "Find"),
    )
    assert result.exit_code == 0, result.output
    record = json.loads((tmp_path / "out" / "merge.json").read_text())
    recipe = record["recipe"]
    assert recipe["domains"] == [str(mistral_language_model)] * 2
    assert (recipe["method"], recipe["base"]) == ("ties", str(mistral_language_model))
    assert recipe["parameters"] == [["density", 0.4], ["normalize", False]]
    assert recipe["embeddings"]["alpha"] == 0.5
    assert (record["dtype"], record["contract"]["query_prompt"]) == ("bfloat16", "Instruct: Find\nQuery: ")
    assert "embeddings" in result.output


def test_merge_takes_a_mergekit_file(pair, tmp_path):
    call("merge", *pair, tmp_path / "first", "--alpha-lower", 0.5, "--alpha-upper", 1, "--quiet")
    result = call("merge", tmp_path / "first" / "mergekit_config.yml", tmp_path / "second", "--quiet")
    assert result.exit_code == 0, result.output
    first, second = ((tmp_path / name / "model.safetensors").read_bytes() for name in ("first", "second"))
    assert first == second


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["S"], "expected SOURCE DOMAIN... OUT (three names at least), or RECIPE.yml OUT; found 1 name"),
        (["S", "out"], "found 2 names"),
        (["S", "D", "out"], "say how much of SOURCE is kept: --alpha-lower and --alpha-upper"),
        (["S", "D", "out", "--alpha-lower", "2", "--alpha-upper", "1"], "alpha_lower is the weight"),
        (
            ["S", "D", "out", "--alpha-lower", "1"],
            "linear needs the weight of SOURCE in both halves: --alpha-upper, from",
        ),
        (["S", "D", "out", "--method", "magic", "--alpha-lower", "1"], "unknown merge method 'magic'"),
        (["S", "D", "out", "--alpha-lower", "0", "--alpha-upper", "1", "--parameter", "x"], "takes NAME=VALUE"),
        (
            ["S", "D", "out", "--method", "ties", "--parameter", "density=0.5", "--parameter", "density=.4"],
            "--parameter density is given twice, as 0.5 and as '.4': give it once",
        ),
        (["S", "D", "there", "--alpha-lower", "0", "--alpha-upper", "1"], "delete it, or pass --overwrite"),
        (["S", "D", "out", "--alpha-lower", "0", "--alpha-upper", "1", "--push", "me"], "named 'USER/NAME'"),
        (["S", "./no", "out", "--alpha-lower", "0", "--alpha-upper", "1"], "no model at './no'"),
        (["no.yml", "out"], "no merge file no.yml"),
        (["no.yml", "out", "--embeddings", "0", "--parameter", "a=1"], "leave --parameter, --embeddings out"),
    ],
)
def test_merge_explains_wrong_arguments_in_one_line(arguments, message, pair, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "there").mkdir()
    names = dict(zip(("S", "D"), pair, strict=True))
    result = call("merge", *(names.get(argument, argument) for argument in arguments), "--quiet")
    assert result.exit_code == 1
    assert result.output.startswith("error: ")
    assert message in result.output
    assert result.output.count("\n") == 1
    assert [path.name for path in tmp_path.iterdir()] == ["there"]


def test_merge_pushes_when_asked(pair, tmp_path, monkeypatch):
    from pyterrier_merge.encoding.saving import publishing

    uploads = []
    monkeypatch.setattr(publishing, "require_token", lambda name: f"client for {name}")
    monkeypatch.setattr(publishing, "upload", lambda *given: uploads.append(given) or "https://hub/me/merged")
    options = ["--alpha-lower", 0.5, "--alpha-upper", 1, "--push", "me/merged", "--quiet"]
    result = call("merge", *pair, tmp_path / "out", *options)
    assert "pushed: https://hub/me/merged" in result.output
    assert uploads == [("client for me/merged", tmp_path / "out", "me/merged")]
    assert "# me/merged" in (tmp_path / "out" / "README.md").read_text()


def test_merge_takes_a_source_without_sentence_transformers_files(pair, tmp_path):
    plain = shutil.copytree(pair[0], tmp_path / "plain")
    (plain / "modules.json").unlink()
    arguments = ("merge", plain, pair[1], tmp_path / "out", "--alpha-lower", 0.5, "--alpha-upper", 1)
    refused = call(*arguments)
    assert refused.exit_code == 1
    assert "such as --pooling mean (" in refused.output.replace("\n", " ")
    contract = ("--query-prompt", "q: ", "--document-prompt", "d: ", "--max-length", 32)
    assert call(*arguments, "--pooling", "cls", "--no-normalize", *contract).exit_code == 0
    modules = [module["type"].rpartition(".")[2] for module in json.loads((tmp_path / "out/modules.json").read_text())]
    assert modules == ["Transformer", "Pooling"]
    assert json.loads((tmp_path / "out/1_Pooling/config.json").read_text())["pooling_mode_cls_token"] is True
    kept = json.loads((tmp_path / "out/merge.json").read_text())["contract"]
    assert [kept[name] for name in ("query_prompt", "document_prompt", "max_length")] == ["q: ", "d: ", 32]


def test_run_gives_advice_as_fields_of_the_file(pair, tmp_path, monkeypatch, small_collection):
    from pyterrier_merge.experiment import run

    monkeypatch.setattr(run, "get_collection", lambda _: small_collection)
    plain = shutil.copytree(pair[0], tmp_path / "plain")
    (plain / "modules.json").unlink()
    spec = {"name": "n", "collection": "hpo", "systems": {"source": {"kind": "encoder", "model": str(plain)}}}
    (tmp_path / "spec.yaml").write_text(yaml.safe_dump(spec))
    refused = call("run", tmp_path / "spec.yaml", "--out", tmp_path / "run", "--quiet")
    assert refused.exit_code == 1
    assert "such as pooling: mean (" in refused.output.replace("\n", " ")


def test_results_are_json_on_demand(tmp_path, monkeypatch):
    monkeypatch.setenv("PYTERRIER_MERGE_CACHE", str(tmp_path))
    listed = json.loads(call("collections", "--json").stdout)
    assert {"name", "documents", "licence"} <= set(listed[0])
    assert json.loads(call("cache", "--json").stdout) == []


def test_the_page_of_the_commands_is_what_they_say(tmp_path):
    page = Path(__file__).resolve().parents[1] / "docs" / "command-line.md"
    options = ["--name", "pyterrier-merge", "--title", "Command line", "--output", tmp_path / "page.md"]
    subprocess.run(
        [sys.executable, "-m", "typer", "pyterrier_merge.cli", "utils", "docs", *options],
        check=True,
        capture_output=True,
        env={**os.environ, "COLUMNS": "120"},
    )
    assert (tmp_path / "page.md").read_text() == page.read_text()
