"""Seconds for the next pair of alphas: this package's merger against ``mergekit-yaml`` to disk and a reload.

    python experiments/benchmarks/merging.py minilm 1b       # shapes from SHAPES; 7b where there is room for it
    python experiments/benchmarks/merging.py memory 1b       # peak resident memory of a merge, in a process of its own

Models are random weights in real shapes, in classes that ``mergekit-yaml`` merges (``BertForSequenceClassification``,
``MistralForCausalLM``), for it matches no tensor of a retriever with a language model. Rows go to
``results/merging.json``, with versions and hardware. On a GPU the parents stay there, in the type they are stored in.
"""

from __future__ import annotations

import json
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from transformers import (
    AutoModel,
    BertConfig,
    BertForSequenceClassification,
    MistralConfig,
    MistralForCausalLM,
    PretrainedConfig,
)
from transformers.utils.logging import disable_progress_bar, set_verbosity_error

from pyterrier_merge import MergeRecipe
from pyterrier_merge.experiment.environment import environment
from pyterrier_merge.merging.merger import Merger
from pyterrier_merge.merging.parents import Parents
from pyterrier_merge.precision import default_device
from pyterrier_merge.storage import write_file

RESULTS = Path(__file__).parent / "results" / "merging.json"
ALPHAS = (0.25, 0.75, 0.5, 0.9, 0.4)  # one after the other, so that every tensor is merged anew
REPEATS = {"7b": 1}  # of mergekit's own ways; three of others


@dataclass(frozen=True)
class Shape:
    """A model's class, its real configuration, and the type that its weights are stored in."""

    family: type
    config: PretrainedConfig
    dtype: torch.dtype


SHAPES = {
    "minilm": Shape(
        BertForSequenceClassification,
        BertConfig(num_hidden_layers=6, hidden_size=384, num_attention_heads=12, intermediate_size=1536),
        torch.float32,
    ),
    "1b": Shape(
        MistralForCausalLM,
        MistralConfig(
            num_hidden_layers=22,
            hidden_size=2048,
            num_attention_heads=32,
            num_key_value_heads=4,
            intermediate_size=5632,
            tie_word_embeddings=False,
        ),
        torch.bfloat16,
    ),
    "4 layers of 7b": Shape(
        MistralForCausalLM, MistralConfig(num_hidden_layers=4, tie_word_embeddings=False), torch.bfloat16
    ),
    "7b": Shape(MistralForCausalLM, MistralConfig(tie_word_embeddings=False), torch.bfloat16),
}


def compare(name: str, folder: Path) -> dict[str, Any]:
    """Time one more merge both ways, on models that lie on disk already."""
    shape = SHAPES[name]
    source, domain = pair(shape, folder)
    device = default_device()
    model = AutoModel.from_pretrained(source, dtype=shape.dtype).to(device)
    recipes = [MergeRecipe.halves(source, domain, alpha, alpha) for alpha in ALPHAS]
    merger = Merger(model, Parents(recipes[0]))
    merges = merger.merge(recipes[-1])  # the first reading of the files is not timed, on either side
    ours = [_seconds(partial(merger.merge, recipe), device) for recipe in recipes]
    parameters = dict(model.named_parameters())
    merged = [parameters[merge.name] for merge in merges]
    moved = 3 * sum(parameter.numel() * parameter.element_size() for parameter in merged)  # two read, one written
    del model, merger, parameters
    print("seconds of this package's merges:", [round(second, 4) for second in ours], flush=True)
    repeats = REPEATS.get(name, 3)
    theirs = [_mergekit(shape, source, domain, alpha, folder / "merged", device) for alpha in ALPHAS[:repeats]]
    steps = {step: statistics.median(times[step] for times in theirs) for step in theirs[0]}
    seconds = statistics.median(ours)
    return {
        "shape": name,
        "device": device,
        "dtype": str(shape.dtype).removeprefix("torch."),
        "merged_parameters": sum(parameter.numel() for parameter in merged),
        "ours_s": round(seconds, 4),
        "ours_all_s": [round(second, 4) for second in ours],
        "gigabytes_per_second": round(moved / seconds / 1e9, 2),
        **{f"{step}_s": round(second, 2) for step, second in steps.items()},
        "times_faster_than_the_command": round((steps["mergekit_yaml"] + steps["reload"]) / seconds, 1),
        "times_faster_than_its_function": round((steps["run_merge"] + steps["reload"]) / seconds, 1),
    }


def memory(name: str, folder: Path) -> dict[str, Any]:
    """Measure the peak resident memory of loading a model and merging it twice, in a process of its own."""
    source, domain = pair(SHAPES[name], folder)
    command = [sys.executable, __file__, "--peak", name, str(source), str(domain)]
    measured = subprocess.run(command, check=True, capture_output=True, text=True)
    return {"shape": name, **json.loads(measured.stdout.splitlines()[-1])}


def peak(name: str, source: str, domain: str) -> dict[str, float]:
    """Load, merge, and tell this process's peaks in GB (10^9 bytes)."""
    before = _peak_gb()
    model = AutoModel.from_pretrained(source, dtype=SHAPES[name].dtype)
    loaded = _peak_gb()
    recipes = [MergeRecipe.halves(source, domain, alpha, alpha) for alpha in ALPHAS[:2]]
    merger = Merger(model, Parents(recipes[0]))
    for recipe in recipes:
        merger.merge(recipe)
    size = sum(parameter.numel() * parameter.element_size() for parameter in model.parameters()) / 1e9
    return {
        "model_gb": round(size, 3),
        "libraries_gb": round(before, 3),
        "loaded_peak_gb": round(loaded, 3),
        "merged_peak_gb": round(_peak_gb(), 3),
        "beside_the_model_gb": round(_peak_gb() - size, 3),
    }


def pair(shape: Shape, folder: Path) -> tuple[Path, Path]:
    """Write two models of random weights, and return their folders."""
    folders = folder / "source", folder / "domain"
    for seed, path in enumerate(folders):
        if not path.is_dir():
            torch.manual_seed(seed)
            torch.set_default_dtype(shape.dtype)
            try:
                with torch.device(default_device()):  # numbers for billions of weights take a CPU minutes
                    model = shape.family(shape.config)
            finally:
                torch.set_default_dtype(torch.float32)
            model.save_pretrained(path, max_shard_size="5GB")
    return folders


def _mergekit(shape: Shape, source: Path, domain: Path, alpha: float, out: Path, device: str) -> dict[str, float]:
    """Time the command, the function behind it in a process that has imported it, and loading what they wrote."""
    from mergekit.config import MergeConfiguration
    from mergekit.merge import MergeOptions, run_merge

    weights = ((source, alpha), (domain, 1 - alpha))
    models = [{"model": str(model), "parameters": {"weight": weight}} for model, weight in weights]
    configuration = {"merge_method": "linear", "models": models, "dtype": str(shape.dtype).removeprefix("torch.")}
    written = out.with_suffix(".yml")
    written.write_text(json.dumps(configuration), encoding="utf-8")  # JSON is YAML
    options = ["--cuda"] if device == "cuda" else []
    command = [str(Path(sys.executable).with_name("mergekit-yaml")), str(written), str(out), "--no-copy-tokenizer"]
    times = {}
    with _removed(out):
        command_run = partial(subprocess.run, [*command, *options], check=True, capture_output=True)
        times["mergekit_yaml"] = _seconds(command_run, device)
        times["reload"] = _seconds(lambda: _loaded(out, shape, device), device)
    settings = MergeOptions(copy_tokenizer=False, device=device, quiet=True)
    with _removed(out):
        parsed = MergeConfiguration.model_validate(configuration)
        times["run_merge"] = _seconds(lambda: run_merge(parsed, out_path=str(out), options=settings), device)
    return times


def _loaded(folder: Path, shape: Shape, device: str) -> None:
    """Load a model until its weights are in memory, and not only mapped."""
    for parameter in AutoModel.from_pretrained(folder, dtype=shape.dtype).to(device).parameters():
        parameter.sum()


def _seconds(call: Callable[[], Any], device: str) -> float:
    start = time.perf_counter()
    call()
    if device.startswith("cuda"):
        torch.cuda.synchronize()
    return time.perf_counter() - start


def _peak_gb() -> float:
    """Peak of this process alone; what ``resource`` tells includes the process that started it."""
    status = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    (kilobytes,) = (line.split()[1] for line in status if line.startswith("VmHWM"))
    return int(kilobytes) * 1024 / 1e9


@contextmanager
def _removed(folder: Path) -> Iterator[None]:
    try:
        yield
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def main(*arguments: str) -> None:
    set_verbosity_error()
    disable_progress_bar()
    if arguments[0] == "--peak":
        print(json.dumps(peak(*arguments[1:])))
        return
    measured, names = ("memory", arguments[1:]) if arguments[0] == "memory" else ("speed", arguments)
    found = json.loads(RESULTS.read_text(encoding="utf-8")) if RESULTS.is_file() else {}
    for name in names:
        with tempfile.TemporaryDirectory(prefix="merging-") as folder:
            row = (memory if measured == "memory" else compare)(name, Path(folder)) | {"environment": environment()}
        print(json.dumps({key: value for key, value in row.items() if key != "environment"}, indent=1), flush=True)
        rows = [
            other
            for other in found.get(measured, [])
            if (other["shape"], other.get("device")) != (name, row.get("device"))
        ]
        found[measured] = [*rows, row]
        write_file(RESULTS, json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
