"""What collections of a thousand to a billion documents take: storage, hours, network and memory, by formula.

    python experiments/benchmarks/capacity.py [--disk 2] [--pq 64]

Nothing is run. Two encoders are taken: a 7B model (4,096 dimensions) on H200 GPUs, at the rate that was measured there
with random weights (``results/gpu.json``), and MiniLM (384 dimensions) on CPU cores, at the rate that was measured with
``encoding.py`` (SciFact, 256 tokens). A search reads all vectors once for each batch of 4,096 queries, so its time is
that of the disks (``--disk``, gigabytes a second of each node) or of memory.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
from gpu_cost import COLLECTIONS, Shape

from pyterrier_merge.storage import write_file

RESULTS = Path(__file__).parent / "results"
LARGE = {name: COLLECTIONS[name] for name in ("nfcorpus", "trec-cds-2016", "miracl-ja", "trec-pm-2017")} | {
    "a billion passages": 1_000_000_000
}
WORKERS = (1, 8, 64)
TEXT_BYTES = 1_500  # of a document, which the driver sends
NAME_BYTES = 120  # of a docno in the driver's memory: a Python string and its place in a set
CORES = 2  # of the machine that encoding.py was measured on
GRID = 5  # alphas of a half of the layers in a sweep


@dataclass(frozen=True)
class Encoder:
    """A model on one worker.

    Attributes:
        name: In words.
        dim: Dimensions of a vector.
        rate: Documents a second of one worker.
        memory: Gigabytes of a worker: weights and a batch.
    """

    name: str
    dim: int
    rate: float
    memory: float


def encoders() -> list[Encoder]:
    """Return the two encoders, with measured rates."""
    gpu = json.loads((RESULTS / "gpu.json").read_text(encoding="utf-8"))["encoding"]["with_32768_tokens_and"]
    cpu = json.loads((RESULTS / "encoding.json").read_text(encoding="utf-8"))["minilm on AMD EPYC"]["ways"]
    [on_gpu] = [way["documents_per_second"] for way in gpu if "this version" in way["change"]]
    [on_cores] = [way["documents_per_second"] for way in cpu if way["way"] == "E5Encoder, bfloat16"]
    return [
        Encoder("7B on H200 GPUs", Shape().hidden, on_gpu, 18.4),
        Encoder("MiniLM on CPU cores", 384, on_cores / CORES, 1.0),
    ]


def sweep_passes(workers: int) -> float:
    """Return how many passes over the documents the busiest worker makes in a sweep over 5 x 5 alphas.

    A work item has merges that share their lower half, which is then computed once.
    """
    times = []
    for size in range(1, GRID + 1):
        items = GRID * -(-GRID // size)
        times.append(-(-items // workers) * (1 + size) / 2)
    return min(times)


def row(name: str, documents: int, encoder: Encoder, *, disk: float, pq: int) -> dict[str, object]:
    """Return what one collection takes.

    Args:
        name: Of the collection.
        documents: How many.
        encoder: Encodes them.
        disk: Gigabytes a second that a node reads.
        pq: Bytes of a vector in a product quantizer.
    """
    vectors = documents * encoder.dim * 4 / 1e9
    hours = {count: documents / encoder.rate / count / 3600 for count in WORKERS}
    most = max(WORKERS)
    return {
        "encoder": encoder.name,
        "collection": name,
        "documents": documents,
        "float32_gb": vectors,
        "float16_gb": vectors / 2,
        f"pq{pq}_gb": documents * pq / 1e9,
        **{f"hours_{count}": value for count, value in hours.items()},
        f"sweep_hours_{most}": sweep_passes(most) * hours[1],
        f"texts_mb_s_{most}": most * encoder.rate * TEXT_BYTES / 1e6,
        f"vectors_mb_s_{most}": most * encoder.rate * encoder.dim * 4 / 1e6,
        "driver_gb": documents * NAME_BYTES / 1e9,
        "worker_gb": encoder.memory,
        "search_s_1": vectors / disk,
        f"search_s_{most}": vectors / disk / most,
    }


def in_words(value: object) -> str:
    """Return a number with three digits that count, and commas."""
    if not isinstance(value, float):
        return f"{value:,}" if isinstance(value, int) else str(value)
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--disk", type=float, default=2.0, help="GB a second that a node reads; %(default)s")
    parser.add_argument("--pq", type=int, default=64, help="bytes of a vector in a product quantizer; %(default)s")
    given = parser.parse_args()
    rows = [
        row(name, documents, encoder, disk=given.disk, pq=given.pq)
        for encoder in encoders()
        for name, documents in LARGE.items()
    ]
    frame = pd.DataFrame(rows)
    for name, own in frame.groupby("encoder", sort=False):
        print(f"\n{name}\n")
        print(own.drop(columns="encoder").map(in_words).to_markdown(index=False, disable_numparse=True))
    written = {"disk_gb_s": given.disk, "pq_bytes": given.pq, "rows": rows}
    write_file(RESULTS / "capacity.json", json.dumps(written, indent=1) + "\n")


if __name__ == "__main__":
    main()
