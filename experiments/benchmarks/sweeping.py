"""Seconds for a sweep: merges that share layers, the same without sharing, and each merge by itself as done without it.

    python experiments/benchmarks/sweeping.py minilm                                  # 5 x 5 points, all of SciFact
    python experiments/benchmarks/sweeping.py minilm --collection hpo --known-items 2500 --ways shared alone
    python experiments/benchmarks/sweeping.py smollm2 --grid 3 --documents 500        # random weights in this shape
    python experiments/benchmarks/sweeping.py minilm --ways screened without --turns 1 --points 5   # a pool first
    python experiments/benchmarks/sweeping.py minilm --grid 3 --documents 300 --turns 1 --output toy.json   # to try it

Without this package a point is: the merge with mergekit's tensor function, written to disk; loading it with
sentence-transformers in bfloat16; ``encode`` at the batch size that is fastest here; a matrix product and the metric.
``screened`` measures all points on a pool (judged documents, the first ``--depth`` of BM25 and of the source), then the
best three and the source on all documents; the runs that make the pool are in its time. ``--points`` times this number
of the points of ``without`` and extrapolates, because all of them are the same work.
The domain model is the source with noise of 2.5 % in every tensor, or ``--domain FOLDER``: its weights change no time.
Each way runs in a process of its own, in turns; medians are told. Peak memory is a process's own (``VmHWM``); what the
states between layers take is computed by the rule of ``ScoringTask.memory`` beside it. Nothing else should run.
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from itertools import islice, product
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import pandas as pd
import torch
from encoding import MINILM, SHAPES, best_batch_size, random_model
from pyterrier.measures import nDCG
from safetensors.torch import load_file, save_file
from transformers.utils.logging import disable_progress_bar, set_verbosity_error

from pyterrier_merge import (
    E5Encoder,
    MergedE5Encoder,
    TestCollection,
    bm25,
    dense_retriever,
    from_frames,
    get_collection,
    known_items,
    sweep,
)
from pyterrier_merge.collections.pool import pooled
from pyterrier_merge.encoding import shared_layers
from pyterrier_merge.encoding.shared_layers import SharedLayers, Step
from pyterrier_merge.evaluation import measure_runs
from pyterrier_merge.experiment.environment import environment
from pyterrier_merge.merging.places import layer_of
from pyterrier_merge.models import locate_model
from pyterrier_merge.precision import default_device
from pyterrier_merge.storage import write_file
from pyterrier_merge.tuning.score import ScoringTask, scores

RESULTS = Path(__file__).parent / "results" / "sweeping.json"
METRIC, NUM_RESULTS = nDCG @ 10, 100
GRIDS = {5: (0.0, 0.25, 0.5, 0.75, 1.0), 3: (0.0, 0.5, 1.0), 2: (0.5, 1.0)}
NOISE = 0.025  # of a tensor's norm, which is how far a domain model of the demo moves
WAYS = {
    "shared": "layers shared",
    "alone": "layers not shared",
    "screened": "layers shared, a pool first",
    "without": "mergekit to disk, sentence-transformers",
}


def compare(asked: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Measure all ways in turns, each in a process of its own."""
    source = locate_model(MINILM) if asked.model == "minilm" else random_model(SHAPES[asked.model], folder / "source")
    domain = asked.domain or noisy(source, folder / "domain")
    texts = [doc["text"] for doc in islice(get_collection(asked.collection).corpus_iter(), 64)]
    batch_size = best_batch_size(str(source), texts)
    found: dict[str, list[dict[str, Any]]] = {way: [] for way in asked.ways}
    for turn in range(asked.turns):
        for way in found:
            options = [
                f"--{name}={getattr(asked, name.replace('-', '_'))}"
                for name in ("collection", "grid", "documents", "points", "known-items", "depth")
                if getattr(asked, name.replace("-", "_"))
            ]
            inner = [f"--way={way}", f"--source={source}", f"--domain={domain}", f"--batch-size={batch_size}"]
            command = [sys.executable, __file__, asked.model, *options, *inner]
            measured = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
            found[way].append(json.loads(measured.stdout.splitlines()[-1]))
            print(f"turn {turn}, {way}: {found[way][-1]['seconds']:.1f} s", flush=True)
    rows = [
        {
            "way": WAYS[way],
            "seconds": round(statistics.median(run["seconds"] for run in runs), 2),
            "peak_gb": round(statistics.median(run["peak_gb"] for run in runs), 3),
            "all_s": [round(run["seconds"], 2) for run in runs],
            **{key: value for key, value in runs[0].items() if key not in ("seconds", "peak_gb", "means", "documents")},
        }
        for way, runs in found.items()
    ]
    times = {way: row["seconds"] for way, row in zip(found, rows, strict=True)}
    means = {way: np.array(runs[0]["means"]) for way, runs in found.items() if runs[0]["means"]}
    result: dict[str, Any] = {
        "model": asked.model,
        "collection": asked.collection,
        "documents": next(iter(found.values()))[0]["documents"],
        "points": asked.grid**2,
        "device": default_device(),
        "best_batch_size_of_sentence_transformers": batch_size,
        "ways": rows,
        "times": {
            f"{other} / {way}": round(times[other] / times[way], 3)
            for way, other in product(("shared", "screened"), ("alone", "without"))
            if {way, other} <= set(times)
        },
    }
    if {"shared", "alone"} <= set(means):
        result["largest_difference_of_a_mean"] = float(np.abs(means["shared"] - means["alone"]).max())
    return result


def measure(asked: argparse.Namespace) -> dict[str, Any]:
    """Run a whole sweep in one way, and tell this process's seconds and peak memory."""
    whole = get_collection(asked.collection)
    collection = known_items(whole, asked.known_items) if asked.known_items else sample(whole, asked.documents)
    pairs = list(product(GRIDS[asked.grid], repeat=2))
    with tempfile.TemporaryDirectory(prefix="sweeping-") as folder:
        start = time.perf_counter()
        if asked.way == "without":
            timed = pairs[: asked.points]
            told: dict[str, Any] = {"means": without_this_package(asked, collection, timed, Path(folder))}
            told["points_timed"] = len(timed)
        elif asked.way == "screened":
            told = screened(asked, collection, Path(folder))
        else:
            told = with_this_package(asked, collection, pairs, Path(folder))
        seconds = (time.perf_counter() - start) * len(pairs) / told.get("points_timed", len(pairs))
    status = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    (kilobytes,) = (line.split()[1] for line in status if line.startswith("VmHWM"))
    return {"seconds": seconds, "peak_gb": int(kilobytes) * 1024 / 1e9, "documents": collection.num_docs, **told}


def with_this_package(
    asked: argparse.Namespace, collection: TestCollection, pairs: list[tuple[float, float]], folder: Path
) -> dict[str, Any]:
    encoder = MergedE5Encoder(asked.source, asked.domain, alpha_lower=1, alpha_upper=1)
    recipes = [encoder.recipe.with_alphas(*pair) for pair in pairs]
    task = ScoringTask(collection, "dev", METRIC, NUM_RESULTS, folder, encoder.settings())
    computed, held = 0, 0
    real = SharedLayers.run

    def noted(self: SharedLayers, some: Any, batches: Any, progress: Any) -> Any:
        nonlocal computed
        computed = max(computed, self.token_bytes(some) * sum(batch.tokens for batch in batches))

        def looked(place: int) -> None:
            nonlocal held
            if place == len(batches) - 1:
                states = [state for kept in self._kept.values() for state in kept.values()]
                held = max(held, shared_layers._bytes(states))
            progress(place)

        return real(self, some, batches, looked)

    def alone(levels: Any) -> list[Step]:
        return [Step(place, frozenset(), 0) for place in range(len(levels))]

    plan = alone if asked.way == "alone" else shared_layers.plan_walk
    with patch.object(SharedLayers, "run", noted), patch.object(shared_layers, "plan_walk", plan):
        found = scores(recipes, task)
    means = [float(found[recipe].mean()) for recipe in recipes]
    return {"means": means, "states_computed_gb": round(computed / 1e9, 4), "states_held_gb": round(held / 1e9, 4)}


def screened(asked: argparse.Namespace, collection: TestCollection, folder: Path) -> dict[str, Any]:
    """Sweep over a pool, and confirm the best points on all documents."""
    source, topics = E5Encoder(asked.source), collection.topics("dev")
    first = dense_retriever(source, collection, num_results=asked.depth, root=folder)
    pool = pooled(collection, "dev", [(bm25(collection) % asked.depth)(topics), first(topics)], depth=asked.depth)
    merged = MergedE5Encoder(asked.source, asked.domain, alpha_lower=1, alpha_upper=1)
    found = sweep(merged, collection, grid=GRIDS[asked.grid], screen=pool, metric=METRIC, root=folder, verbose=False)
    assert found.screening is not None  # noqa: S101 (for the type checker)
    return {"means": [], "pool": pool.num_docs, "confirmed": len(found.table), "tau": found.screening.tau}


def without_this_package(
    asked: argparse.Namespace, collection: TestCollection, pairs: list[tuple[float, float]], folder: Path
) -> list[float]:
    """Merge, write, load, encode, search and measure each point."""
    from mergekit.merge_methods import merge_tensors
    from sentence_transformers import SentenceTransformer

    source, domain = (load_file(weights_file(Path(model))) for model in (asked.source, asked.domain))
    layers = 1 + max(layer for name in source if (layer := layer_of(name)) is not None)
    documents = list(collection.corpus_iter())
    docnos, texts = np.array([doc["docno"] for doc in documents]), [doc["text"] for doc in documents]
    topics, qrels = collection.topics("dev"), collection.qrels("dev")
    means = []
    for lower, upper in pairs:
        merged = {}
        for name, tensor in source.items():
            layer = layer_of(name)
            if layer is None:
                merged[name] = tensor
                continue
            alpha = lower if layer < layers // 2 else upper
            weights = {"weight": [alpha, 1 - alpha]}
            merged[name] = merge_tensors([tensor, domain[name]], "linear", parameters=weights, dtype=torch.float32)
        out = shutil.copytree(asked.source, folder / "merged", dirs_exist_ok=True)
        save_file(merged, weights_file(out), metadata={"format": "pt"})
        model = SentenceTransformer(str(out), device=default_device()).to(torch.bfloat16)
        settings: dict[str, Any] = {
            "batch_size": asked.batch_size,
            "convert_to_tensor": True,
            "show_progress_bar": False,
        }
        vectors, queries = (model.encode(some, **settings).float() for some in (texts, topics["query"].tolist()))
        best = (queries @ vectors.T).topk(min(NUM_RESULTS, len(texts)), dim=1)
        results = pd.DataFrame(
            {
                "qid": topics["qid"].repeat(best.indices.shape[1]).to_numpy(),
                "docno": docnos[best.indices.cpu().numpy().ravel()],
                "score": best.values.cpu().numpy().ravel(),
            }
        )
        means.append(float(measure_runs({"run": results}, qrels, [METRIC])["value"].mean()))
    return means


def sample(collection: TestCollection, documents: int | None) -> TestCollection:
    """Return the collection in memory; or so many documents of it, and the queries that have a relevant one there."""
    whole = list(collection.corpus_iter())
    topics, qrels = collection.topics("dev"), collection.qrels("dev")
    if documents is not None:
        wanted = set(qrels["docno"])
        whole = sorted(whole, key=lambda doc: doc["docno"] not in wanted)[:documents]
        qrels = qrels[qrels["docno"].isin({doc["docno"] for doc in whole})]
        topics = topics[topics["qid"].isin(qrels["qid"])]
    return from_frames(f"{collection.name}-sample", whole, {"dev": topics}, {"dev": qrels})


def noisy(source: Path, folder: Path) -> Path:
    """Write a copy of a model whose tensors are each a little off."""
    shutil.copytree(source, folder)
    generator, tensors = torch.Generator().manual_seed(0), load_file(weights_file(folder))
    for name, tensor in tensors.items():
        if tensor.is_floating_point():
            noise = torch.randn(tensor.shape, generator=generator)
            tensors[name] = (tensor + NOISE * tensor.norm() / noise.norm() * noise).to(tensor.dtype)
    save_file(tensors, weights_file(folder), metadata={"format": "pt"})
    return folder


def weights_file(folder: Path) -> Path:
    (file,) = folder.rglob("model.safetensors")
    return file


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", choices=["minilm", *SHAPES])
    parser.add_argument("--collection", default="scifact", help="its dev queries choose; %(default)s")
    parser.add_argument("--grid", type=int, choices=GRIDS, default=5, help="values of each alpha; %(default)s")
    parser.add_argument("--documents", type=int, help="a sample of so many; all when left out")
    parser.add_argument("--known-items", type=int, help="sweep over so many known items of the collection instead")
    parser.add_argument("--domain", type=Path, help="a domain model of the same shape, in one file of weights")
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=["shared", "alone", "without"])
    parser.add_argument("--depth", type=int, default=10, help="first results of each run in the pool; %(default)s")
    parser.add_argument("--points", type=int, help="points of 'without' that are timed; all when left out")
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--output", type=Path, default=RESULTS, help="JSON with figures and environment; %(default)s")
    for inner in ("way", "source"):
        parser.add_argument(f"--{inner}", help=argparse.SUPPRESS)
    parser.add_argument("--batch-size", type=int, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    set_verbosity_error()
    disable_progress_bar()
    if asked.way:
        print(json.dumps(measure(asked)))
        return
    with tempfile.TemporaryDirectory(prefix="sweeping-") as folder:
        result = compare(asked, Path(folder))
    print(pd.DataFrame(result["ways"]).drop(columns="all_s").to_markdown(index=False))
    print(json.dumps({key: value for key, value in result.items() if key != "ways"}, indent=1))
    found = json.loads(asked.output.read_text(encoding="utf-8")) if asked.output.is_file() else {}
    key = f"{asked.model}, {asked.collection}, {result['documents']} documents, {result['points']} points"
    key += ", known items" if asked.known_items else ""
    key += f", a pool of depth {asked.depth} first" if "screened" in asked.ways else ""
    write_file(asked.output, json.dumps({**found, key: result | {"environment": environment()}}, indent=1) + "\n")


if __name__ == "__main__":
    main()
