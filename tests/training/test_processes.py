"""Two processes that train one adapter, as accelerate launch and torchrun start them."""

import json
import os
import socket
import subprocess
import sys

import pytest
from safetensors.torch import load_file

from pyterrier_merge import E5Encoder, LoRATraining, train_lora

pytestmark = pytest.mark.slow  # half a minute: two processes import everything

SCRIPT = """
import json, sys
from dataclasses import replace
import pandas as pd
from pyterrier_merge import E5Encoder, LoRATraining, train_lora
from pyterrier_merge.collections import from_frames
from pyterrier_merge.training.pairs import pairs_from_frame

base, folder, rows, settings = json.loads(sys.argv[1])
pairs = pairs_from_frame(pd.DataFrame(rows, columns=["qid", "query", "docno", "text"]))
docs = [{"docno": row[2], "text": row[3]} for row in rows]
topics, qrels = (pd.DataFrame([[row[0], row[place]] for row in rows]) for place in (3, 2))
topics, qrels = topics.set_axis(["qid", "query"], axis=1), qrels.set_axis(["qid", "docno"], axis=1).assign(label=1)
dev = from_frames("dev", docs, {"dev": topics}, {"dev": qrels})
encoder = E5Encoder(base, device="cpu", task="fever")
try:
    train_lora(encoder, pairs, f"{folder}/refused", LoRATraining(**settings | {"accumulation": 3}))
except ValueError as error:
    print(error)
train_lora(encoder, pairs, f"{folder}/out", LoRATraining(**settings), dev=dev, checkpoint_every=2)
"""
SETTINGS = {
    "steps": 6, "batch_size": 4, "accumulation": 2, "evaluate_every": 2, "patience": None, "dtype": "float32",
    "learning_rate": 1e-2, "dropout": 0.0,
}  # fmt: skip


@pytest.fixture(scope="module")
def together(mistral_retriever, some_pairs, tmp_path_factory):
    """The folder that two processes trained into, and what they printed."""
    folder = tmp_path_factory.mktemp("together")
    table = some_pairs.queries.merge(some_pairs.positives, on="qid")
    rows = [[*row, some_pairs.texts[row[2]]] for row in table.itertuples(index=False)]
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port = found.getsockname()[1]
    told = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "ACCELERATE_USE_CPU": "true"}
    command = [sys.executable, "-c", SCRIPT, json.dumps([str(mistral_retriever), str(folder), rows, SETTINGS])]
    processes = [
        subprocess.Popen(
            command, env=os.environ | told | {"RANK": rank, "LOCAL_RANK": rank, "OMP_NUM_THREADS": "1"},
            text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )
        for rank in "01"
    ]  # fmt: skip
    try:
        printed = [process.communicate(timeout=300) for process in processes]
    finally:
        for process in processes:
            process.kill()
    assert [process.returncode for process in processes] == [0, 0], printed
    return folder, [out for out, _ in printed]


def test_two_processes_train_the_adapter_of_one(together, mistral_retriever, some_pairs, tmp_path):
    """Each batch of a step is one process's, so that the step is the same but for the order of sums."""
    folder, _ = together
    report = json.loads((folder / "out" / "training.json").read_text())
    best = LoRATraining(**SETTINGS | {"stop_at": report["best_step"] or None})  # without dev, the last step is kept
    alone = train_lora(E5Encoder(mistral_retriever, device="cpu", task="fever"), some_pairs, tmp_path / "out", best)
    one, two = (load_file(place / "adapter_model.safetensors") for place in (alone, folder / "out"))
    assert report["best_step"] > 0
    assert max(weight.abs().max() for weight in one.values()) > 0.05
    for name, weight in one.items():
        assert (weight - two[name]).abs().max() < 2e-3, name
    assert report["loss"]
    assert report["tokens"] > json.loads((alone / "training.json").read_text())["tokens"] * 6 / (best.stop_at or 6) - 1


def test_one_of_them_writes_and_nothing_is_left(together):
    folder, _ = together
    assert sorted(path.name for path in folder.iterdir()) == ["out"]
    assert (folder / "out" / "training.csv").read_text().count("\n") == 8  # the header and steps 0 to 6


def test_batches_that_cannot_be_shared_are_refused(together):
    _, printed = together
    assert len(printed) == 2
    for said in printed:
        assert said.startswith(
            "2 processes share the batches of a step, which has accumulation=3: set it to a multiple"
        )
