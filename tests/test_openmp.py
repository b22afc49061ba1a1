"""In processes of their own: what is tested here is read when libraries are loaded, or happens when one forks."""

import os
import subprocess
import sys

import pytest
import torch

from pyterrier_merge import openmp
from pyterrier_merge.precision import default_device
from pyterrier_merge.retrieval.dense.exact_search import device_names

FORK = """
import multiprocessing, sys
import numpy as np, pandas as pd
from pyterrier_merge import E5Encoder, FaissIndex, openmp

model, folder, device, first, runtimes = sys.argv[1:]
FORKED = multiprocessing.get_context("fork")
WORDS = ["acute kidney failure", "pain", "fever of the liver", "renal disease"]
TEXTS = [" ".join(WORDS[place % 4 :] * (place % 7 + 1)) for place in range(600)]
TOPICS = pd.DataFrame({"qid": [str(place) for place in range(40)], "query": TEXTS[:40]})
STRUCTURES = {"factory": "Flat"}, {"factory": "IVF4,Flat", "nprobe": 4}, {"factory": "HNSW4"}
encoder = E5Encoder(model, dtype="float32", device=None if device == "any" else device)
index = FaissIndex(folder, verbose=False)

def compute():
    if not index.built():
        (encoder >> index).index({"docno": str(place), "text": text} for place, text in enumerate(TEXTS))
    queries = encoder.query_encoder()(TOPICS)
    found = [index.retriever(20, **structure)(queries) for structure in STRUCTURES]
    return [encoder.encode_docs(TEXTS), *[results["score"].to_numpy() for results in found]]

def threads():
    import torch
    return torch.get_num_threads()

if runtimes == "old":
    openmp._ended = lambda runtime: False
expected = compute() if first == "parent" else None
with FORKED.Pool(1) as pool:
    found = pool.apply_async(compute).get(timeout=60)
    print(pool.apply_async(threads).get(timeout=60), "threads")
after = compute()
for parts in (found, expected or after):
    assert all(np.abs(part - other).max() < 1e-5 for part, other in zip(parts, after, strict=True))
once_more = FORKED.Process(target=compute)
once_more.start()
once_more.join(60)
print("exit status", once_more.exitcode)
"""
RUNTIMES = "import pyterrier_merge, torch, faiss"


def python(script, *arguments, **environment):
    settings = {name: value for name, value in os.environ.items() if name not in openmp._SETTINGS}
    command = [sys.executable, "-c", script, *map(str, arguments)]
    environment = settings | environment
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=200, check=False)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.parametrize(
    ("device", "first", "runtimes", "threads"),
    [("any", "parent", "new", 2), ("cpu", "child", "new", 2), ("cpu", "parent", "old", 1)],
    ids=["after the parent", "before the parent", "with a runtime that keeps its threads"],
)
def test_a_forked_child_computes_what_its_parent_does(device, first, runtimes, threads, bert_retriever, tmp_path):
    if device == "any" and torch.cuda.is_available():
        pytest.skip("the parent would use the GPU")
    done = python(FORK, bert_retriever, tmp_path / "index", device, first, runtimes, OMP_NUM_THREADS="2")
    assert done.stdout == f"{threads} threads\nexit status 0\n", done.stderr
    assert "free()" not in done.stderr


def test_a_process_that_was_forked_from_one_with_a_gpu_says_how_to_start_it(monkeypatch):
    monkeypatch.setattr(torch.cuda, "_is_in_bad_fork", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    for ask in (default_device, lambda: device_names("cuda"), lambda: device_names(["cuda:0"])):
        with pytest.raises(RuntimeError, match="'spawn'"):
            ask()
    assert device_names(None) == ("cpu",)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)  # to have asked for a GPU is enough to be forked badly
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert default_device() == "cpu"


def test_idle_threads_sleep_in_every_runtime():
    shown = python(RUNTIMES, OMP_DISPLAY_ENV="VERBOSE").stderr
    if "GOMP_SPINCOUNT" not in shown:
        pytest.skip("torch comes without GNU's OpenMP here")
    waits = [line for line in shown.splitlines() if "GOMP_SPINCOUNT" in line]
    assert waits == ["  GOMP_SPINCOUNT = '0'"] * len(waits)


@pytest.mark.parametrize(
    ("imports", "setting", "expected"),
    [
        ("pyterrier_merge", {}, "PASSIVE"),
        ("pyterrier_merge", {"OMP_WAIT_POLICY": "ACTIVE"}, "ACTIVE"),
        ("pyterrier_merge", {"GOMP_SPINCOUNT": "1000"}, "None"),
        ("pyterrier_merge", {"KMP_BLOCKTIME": "10"}, "None"),
        ("torch, pyterrier_merge", {}, "None"),
    ],
)
def test_how_threads_wait_is_set_where_nobody_has_and_it_will_be_read(imports, setting, expected):
    done = python(f"import os, {imports}; print(os.environ.get('OMP_WAIT_POLICY'))", **setting)
    assert done.stdout == f"{expected}\n", done.stderr
