"""What an experiment would do, as tables: ``pyterrier-merge run SPEC --dry-run``."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from pyterrier_merge.experiment.estimates import NOT_KNOWN, Estimates, answer, in_time
from pyterrier_merge.experiment.planning import PlanBench
from pyterrier_merge.experiment.run import bench_settings, require_testable, run_folders
from pyterrier_merge.experiment.spec import ExperimentSpec
from pyterrier_merge.models.hub import offline
from pyterrier_merge.storage import cache_folder, in_bytes

DTYPES = {"F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16"}


@dataclass(frozen=True)
class ExperimentPlan:
    """The plan of an experiment, from the current state of caches and folders.

    Attributes:
        tables: By title: systems in the order in which they run, models, collections, and the work on each collection.
        notes: The basis of the estimates, expected failures, and unknowns.
    """

    tables: Mapping[str, pd.DataFrame]
    notes: tuple[str, ...]


def plan_experiment(
    spec: ExperimentSpec,
    folder: str | Path,
    *,
    only: tuple[str, ...] = (),
    overwrite: bool = False,
    rate: float | None = None,
) -> ExperimentPlan:
    """Plan what ``run_experiment`` with these arguments would do, without training, downloading or writing anything.

    Small models on this machine are loaded to find cached results and to measure the speed of encoding.

    Args:
        spec: See ``run_experiment``; the same for the next three arguments.
        folder: The run folder.
        only: Names of systems.
        overwrite: Use a folder that holds the run of another spec.
        rate: Documents per second that a worker encodes; measured when None.

    Raises:
        FileExistsError: The folder holds the run of another spec.
        ValueError: A model, a measure, a split or a name is invalid.
    """
    with offline():
        every, folders = bench_settings(spec, only), run_folders(spec, folder, overwrite=overwrite)
        benches: dict[str, PlanBench] = {}
        for name, settings in every.items():
            benches[name] = PlanBench(**settings, store=folders[name], siblings=benches)
        for bench in benches.values():
            bench.check()
            if bench.here:
                require_testable(bench)
        order = _in_order(next(iter(benches.values())))
        estimates = {name: Estimates(bench, order, rate=rate) for name, bench in benches.items()}
        tables = {
            "systems": _systems(benches, order),
            "models": _models(next(iter(benches.values())), order),
            "collections": _collections(benches),
            **{f"work on {name}": own.table for name, own in estimates.items()},
        }
        return ExperimentPlan(
            tables, tuple(dict.fromkeys([*_notes(benches, estimates), *_on_workers(spec, estimates)]))
        )


def _in_order(bench: PlanBench) -> list[str]:
    """The systems in the order of preparation: each after the systems that it builds on."""
    order: list[str] = []

    def visit(name: str) -> None:
        for used in bench.systems[name].uses():
            visit(used)
        if name not in order:
            order.append(name)

    for name in bench.systems:
        visit(name)
    return order


def _systems(benches: Mapping[str, PlanBench], order: list[str]) -> pd.DataFrame:
    systems = next(iter(benches.values())).systems
    rows = [
        {
            "system": name,
            "kind": vars(systems[name])["kind"],
            "builds on": ", ".join(systems[name].uses()) or "-",
            **{f"results on {one} kept": answer([bench.kept(name)]) for one, bench in benches.items()},
        }
        for name in order
    ]
    return pd.DataFrame(rows)


def _models(bench: PlanBench, order: list[str]) -> pd.DataFrame:
    used: dict[str, list[str]] = {}
    for name in order:
        for model in bench.systems[name].models():
            used.setdefault(model, []).append(name)
    rows = []
    for model, systems in used.items():
        facts = bench.facts(model)
        size = NOT_KNOWN
        if facts.parameters and facts.dtype:
            size = f"{facts.parameters / 1e6:,.1f} M, {DTYPES[facts.dtype]}, {in_bytes(facts.stored_bytes)}"
        rows.append({"model": model, "of": ", ".join(dict.fromkeys(systems)), "where": facts.where, "weights": size})
    return pd.DataFrame(rows, columns=["model", "of", "where", "weights"])


def _collections(benches: Mapping[str, PlanBench]) -> pd.DataFrame:
    rows = []
    for name, bench in benches.items():
        missing, queries = bench.collection.missing_bytes, bench.queries(bench.split)
        rows.append(
            {
                "collection": name,
                "documents": NOT_KNOWN if bench.documents is None else f"{bench.documents:,}",
                f"{bench.split} queries": f"{queries:,}" if queries else NOT_KNOWN,
                "to download": in_bytes(missing) if missing else "nothing" if missing == 0 else "of unknown size",
            }
        )
    return pd.DataFrame(rows)


def _notes(benches: Mapping[str, PlanBench], estimates: Mapping[str, Estimates]) -> Iterator[str]:
    for name, bench in benches.items():
        yield f"In all on {name}: {estimates[name].total}."
        yield from (f"{system} would fail on {name}: {reason}" for system, reason in bench.failed.items())
    for bench in benches.values():
        yield from (f"Not known: {reason}." for reason in bench.unknown)
    if all(own.documents == 0 for own in estimates.values()):
        return
    rates = [note for own in estimates.values() for note in own.rates]
    yield from rates
    yield "Time: of encoding documents alone" + ("." if rates else ", and not estimated: no model was measured.")
    yield "Memory: the weights in the type that they are computed in; batches and training come on top."
    yield (
        "Disk: 4 bytes for each component of a vector; docnos, BM25's index and trained models come on top. "
        f"{in_bytes(shutil.disk_usage(cache_folder()).free)} are free where indexes are kept."
    )


def _on_workers(spec: ExperimentSpec, estimates: Mapping[str, Estimates]) -> Iterator[str]:
    if spec.cluster is None:
        return
    yield (
        "Work items on the cluster: shards of 1,000 documents for an index, merges that share their lower layers in a "
        "sweep, trials of LoRA, and a range of documents for each worker in a search."
    )
    workers = spec.cluster.workers
    for name, own in estimates.items():
        if workers and own.seconds:
            yield (
                f"On {workers} workers, encoding for {name} takes {in_time(own.seconds / workers)} at best; one worker "
                "encodes all documents for a merge of a sweep."
            )
