"""Where the time of encoding goes on one core, in this package and in OpenVINO (pip install openvino).

    python experiments/benchmarks/encoding_profile.py --documents 64

all-MiniLM-L6-v2 in bfloat16 on documents of SciFact, which ir_datasets reads, in the same batches of 2,048 tokens. Both
run in turns, without a profiler and with their own (torch.profiler; OpenVINO's performance counters); the fastest turn
counts. Milliseconds are a share of the profile times the time without one. Tokenising is left out; pooling, where
OpenVINO does it, is in the rest. OpenVINO computes GELU in the linear layer before it.
"""

from __future__ import annotations

import argparse
import time
from collections import Counter
from collections.abc import Callable

import numpy as np
import pandas as pd
import torch
from encoding import MINILM, compile_openvino
from torch.profiler import ProfilerActivity, profile
from transformers.utils.logging import disable_progress_bar, set_verbosity_error

from pyterrier_merge import E5Encoder, get_collection
from pyterrier_merge.encoding.batching import suitable_budget, token_batches

Batch = tuple[np.ndarray, np.ndarray]  # token ids and attention mask, (n_texts, n_tokens)

# What an operation of torch or a node of OpenVINO is part of; the first that its name holds counts.
PARTS = {
    "linear": "linear layers",
    "FullyConnected": "linear layers",
    "addmm": "linear layers",
    "bmm": "attention: products",
    "softmax": "attention: softmax",
    "scaled_dot_product": "attention: fused",
    "Subgraph": "attention: fused",
    "ScaledDotProduct": "attention: fused",
    "gelu": "GELU",
    "Gelu": "GELU",
    "layer_norm": "residual and norm",
    "aten::add": "residual and norm",
    "MVN": "residual and norm",
    "Add": "residual and norm",
}
REST = "rest: copies, reorders, embeddings"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--documents", type=int, default=64)
    parser.add_argument("--repeats", type=int, default=5)
    asked = parser.parse_args()
    set_verbosity_error()
    disable_progress_bar()
    torch.set_num_threads(1)
    texts = [doc["text"] for doc in get_collection("scifact").corpus_iter()]
    texts = [texts[place] for place in np.random.default_rng(0).choice(len(texts), asked.documents, replace=False)]
    ways = {"E5Encoder": ours(), "OpenVINO": openvinos()}
    batches = list(padded_batches(texts))
    totals: dict[str, list[float]] = {way: [] for way in ways}
    profiles: dict[str, list[Counter[str]]] = {way: [] for way in ways}
    for _ in range(asked.repeats):
        for way, (run, profiled) in ways.items():
            totals[way].append(seconds(run, batches))
            profiles[way].append(profiled(batches))
    table = pd.DataFrame(index=[*dict.fromkeys(PARTS.values()), REST])
    for way in ways:
        parts = min(profiles[way], key=Counter.total)
        share = pd.Series({part: parts[part] / parts.total() for part in table.index})
        table[f"{way}, share"] = share.map("{:.1%}".format)
        table[f"{way}, ms a document"] = (share * min(totals[way]) / len(texts) * 1000).round(2)
        print(f"{way}: {min(totals[way]) / len(texts) * 1000:.2f} ms a document")
    print(table.to_markdown())


def padded_batches(texts: list[str]) -> list[Batch]:
    """The batches that the encoder makes of the texts, longest first."""
    text_model = E5Encoder(MINILM, task="", document_prompt="", dtype="bfloat16")._ready()
    ids, _ = text_model._tokenise(texts, "")
    batches = []
    for rows in token_batches([len(row) for row in ids], suitable_budget("cpu")):
        longest = max(len(ids[row]) for row in rows)
        tokens = np.zeros((len(rows), longest), dtype=np.int64)
        mask = np.zeros_like(tokens)
        for place, row in enumerate(rows):
            tokens[place, : len(ids[row])] = ids[row]
            mask[place, : len(ids[row])] = 1
        batches.append((tokens, mask))
    return batches


Run = Callable[[Batch], object]
Profiled = Callable[[list[Batch]], "Counter[str]"]


def ours() -> tuple[Run, Profiled]:
    """This package's transformer, and the seconds of each part of it."""
    body = E5Encoder(MINILM, task="", document_prompt="", dtype="bfloat16")._ready().body

    def run(batch: Batch) -> object:
        ids, mask = map(torch.from_numpy, batch)
        with torch.inference_mode():
            return body(input_ids=ids, attention_mask=mask)

    def profiled(batches: list[Batch]) -> Counter[str]:
        parts: Counter[str] = Counter()
        with profile(activities=[ProfilerActivity.CPU]) as found:
            for batch in batches:
                run(batch)
        for event in found.key_averages():
            parts[part_of(event.key)] += event.self_cpu_time_total / 1e6
        return parts

    return run, profiled


def openvinos() -> tuple[Run, Profiled]:
    """What OpenVINO makes of the same transformer, and the seconds of each part of it."""
    _, quick = compile_openvino(MINILM, streams=1)
    _, counting = compile_openvino(MINILM, streams=1, PERF_COUNT=True)
    request, counted = quick.create_infer_request(), counting.create_infer_request()

    def profiled(batches: list[Batch]) -> Counter[str]:
        parts: Counter[str] = Counter()
        for batch in batches:
            counted.infer(list(batch))
            for node in counted.get_profiling_info():
                parts[part_of(node.node_type)] += node.real_time.total_seconds()
        return parts

    return lambda batch: request.infer(list(batch)), profiled


def part_of(name: str) -> str:
    return next((part for sign, part in PARTS.items() if sign in name), REST)


def seconds(run: Run, batches: list[Batch]) -> float:
    start = time.perf_counter()
    for batch in batches:
        run(batch)
    return time.perf_counter() - start


if __name__ == "__main__":
    main()
