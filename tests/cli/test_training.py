import json

import pandas as pd
import pytest
from typer.testing import CliRunner

from pyterrier_merge import LoRATraining, MaskedTraining
from pyterrier_merge.advice import in_settings
from pyterrier_merge.cli import app
from pyterrier_merge.cli.training import read_settings
from pyterrier_merge.models.files import read_training

LORA = ["--device", "cpu", "--set", "steps=4", "--set", "batch_size=3", "--set", "evaluate_every=2", "--set", "rank=2"]


def call(*arguments):
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


@pytest.fixture(scope="module")
def collection(tmp_path_factory, words):
    """A folder of forty documents, and eight queries for each of three splits."""
    import random

    draw, folder = random.Random(3), tmp_path_factory.mktemp("collections") / "tiny"
    (folder / "qrels").mkdir(parents=True)
    docs = [{"docno": f"d{number}", "text": " ".join(draw.choices(words, k=30))} for number in range(40)]
    (folder / "corpus.jsonl").write_text("".join(json.dumps(doc) + "\n" for doc in docs))
    with (folder / "queries.tsv").open("w") as file:
        for place, split in enumerate(("train", "dev", "test")):
            some = docs[8 * place : 8 * place + 8]
            file.writelines(f"{split}-{doc['docno']}\t{' '.join(doc['text'].split()[3:6])}\n" for doc in some)
            lines = [f"{split}-{doc['docno']}\t{doc['docno']}\t1\n" for doc in some]
            (folder / "qrels" / f"{split}.tsv").write_text("query-id\tcorpus-id\tscore\n" + "".join(lines))
    return folder


def test_a_lora_of_a_folders_judgements(collection, bert_retriever, tmp_path):
    run = tmp_path / "run.res"
    run.write_text("".join(f"train-d{q} Q0 d{d} {d} {40 - d} bm25\n" for q in range(8) for d in range(20, 30)))
    out = tmp_path / "adapter"
    result = call(
        "train-lora", bert_retriever, collection, out, *LORA, "--dev", "dev", "--pool", 3, "--queries", 6, "--quiet",
        *("--trial", 1, "--negatives-run", run, "--set", "negatives=2", "--set", "target_modules=query,value"),
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    report = read_training(out)
    assert f"model: {out}  (loss " in result.stdout
    assert f"best: step {report['best_step']} by nDCG@10 on dev of tiny" in result.stdout
    assert report["pairs"]["queries"] == 6
    assert (report["settings"]["negatives"], report["settings"]["rank"]) == (2, 2)
    assert json.loads((out / "adapter_config.json").read_text())["target_modules"] == ["query", "value"]
    assert pd.read_csv(out / "training.csv")["step"].tolist() == [0, 1, 2, 3, 4]
    assert "error: " in (again := call("train-lora", bert_retriever, collection, out, *LORA)).stderr
    assert "delete it, or pass --overwrite" in again.stderr
    assert again.exit_code == 1


@pytest.mark.parametrize(
    ("objective", "settings"),
    [("masked", ["head_steps=1", "max_length=12"]), ("known-items", ["items=30", "rank=2"]), ("causal", ["rank=2"])],
)
def test_a_domain_model_of_a_folders_documents(
    objective, settings, collection, bert_retriever, mistral_language_model, tmp_path
):
    base = mistral_language_model if objective == "causal" else bert_retriever
    told = [part for setting in ("steps=2", "batch_size=4", *settings) for part in ("--set", setting)]
    out = tmp_path / "model"
    result = call("train-domain", base, collection, out, "--objective", objective, *told, "--device", "cpu", "--quiet")
    assert result.exit_code == 0, result.output
    assert f"model: {out}  (loss " in result.stdout
    assert read_training(out)["objective"] == objective
    assert (out / "model.safetensors").is_file()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--set", "steps"], "--set takes NAME=VALUE, such as rank=8; found 'steps'"),
        (["--set", "step=3"], "--set step: no such setting; did you mean 'steps'?"),
        (["--set", "steps=0"], "--set steps: Input should be greater than or equal to 1, found 0"),
        (["--set", "steps=many"], "--set steps: Input should be a valid integer, found 'many'"),
        (["--set", "steps=2", "--set", "steps=3"], "--set steps is given twice, as 2 and as 3: give it once"),
        (["--set", "steps=2", "--set", "stop_at=3"], "--set stop_at=3 is more than the 2 steps"),
        (["--split", "test"], "models must not be trained on test queries"),
        (["--split", "tset"], "'tset'"),
        (["--dev", "test", "--pool", "0"], "the best step must not be chosen on test queries"),
        (["--dev", "train", "--pool", "0"], "8 of the 8 queries of train of tiny are trained on"),
        (["--fraction", "0.01"], "a sample has at least 2"),
        (["--fraction", "0.5", "--queries", "3"], "give either fraction or number"),
        (["--trial", "1"], "--trial is a draw of queries or negatives: give --fraction"),
        (["--pool", "10"], "--pool is for the dev queries: give --dev SPLIT"),
        (["--set", "patience=2"], "--set patience=... stops at the best step on dev queries"),
        (["--negatives-run", "nowhere.res"], "--negatives-run needs --set negatives=N"),
        (["--negatives-run", "nowhere.res", "--set", "negatives=1"], "nowhere.res"),
        (["--device", "cuda:1"], "set CUDA_VISIBLE_DEVICES to choose a GPU"),
        (["--set", "target_modules=q_proj"], "has no linear module 'q_proj'; it has dense, key, query, value"),
    ],
)
def test_wrong_input_is_one_line(arguments, message, collection, bert_retriever, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result = call("train-lora", bert_retriever, collection, tmp_path / "out", "--device", "cpu", *arguments)
    assert result.exit_code == 1
    assert message in result.stderr
    assert result.stderr.startswith("error: ")
    assert result.stderr.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_what_is_not_there_is_said(collection, bert_retriever, tmp_path):
    nothing = call("train-domain", bert_retriever, "hpoo", tmp_path / "out")
    assert "no collection is named 'hpoo'; did you mean 'hpo'" in nothing.stderr
    wrong = call("train-domain", bert_retriever, collection, tmp_path / "out", "--objective", "known_items")
    assert "error: --objective known_items: did you mean 'known-items'?" in wrong.stderr
    decoder = call("train-domain", bert_retriever, collection, tmp_path / "out", "--objective", "causal")
    assert "train it with --objective masked or" in decoder.stderr
    assert {nothing.exit_code, wrong.exit_code, decoder.exit_code} == {1}


def test_settings_are_read_as_what_they_are():
    read = read_settings(LoRATraining, ["steps=7", "learning_rate=1e-4", "paper_prompts=True", "target_modules=q,v"])
    assert read == LoRATraining(steps=7, learning_rate=1e-4, paper_prompts=True, target_modules=("q", "v"))
    assert read_settings(LoRATraining, ["target_modules=q"]).target_modules == ("q",)
    assert read_settings(LoRATraining, ["patience=null"]).patience is None
    assert read_settings(MaskedTraining, ["packing=block"]) == MaskedTraining(packing="block")


def test_advice_is_said_as_flags():
    assert in_settings("pass overwrite=True or accumulation=4 or objective='causal', not task='x'") == (
        "pass --overwrite or --set accumulation=4 or --objective causal, not task='x'"
    )


def test_ctrl_c_says_that_the_checkpoint_is_kept(collection, bert_retriever, tmp_path, monkeypatch):
    import os
    import signal

    from pyterrier_merge.training import contrastive

    real, taken = contrastive.contrastive_loss, []

    def stopped_by_the_user(*arguments, **options):
        loss = real(*arguments, **options)

        def step(*batch):
            taken.append(1)
            if len(taken) == 4:
                os.kill(os.getpid(), signal.SIGINT)
            return loss(*batch)

        return step

    monkeypatch.setattr(contrastive, "contrastive_loss", stopped_by_the_user)
    out = tmp_path / "out"
    arguments = ["train-lora", bert_retriever, collection, out, *LORA, "--dev", "dev", "--pool", "0"]
    result = call(*arguments)
    assert result.exit_code == 130
    assert "stopped: the last checkpoint is kept beside OUT; give the same command again" in result.stderr
    assert (tmp_path / ".out.progress" / "checkpoint-2").is_dir()
    assert call(*arguments).exit_code == 0
    assert len(taken) == 3 + 1 + 2  # steps 3 and 4 again
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
