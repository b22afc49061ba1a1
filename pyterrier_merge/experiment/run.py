"""Runs an experiment into a folder; finished steps are not repeated."""

from __future__ import annotations

import csv
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd

from pyterrier_merge.collections import get_collection
from pyterrier_merge.collections.base import TestCollection
from pyterrier_merge.collections.reading.runs import require_plain
from pyterrier_merge.evaluation import judged
from pyterrier_merge.executor import Executor, InProcess
from pyterrier_merge.experiment.assembling import compared
from pyterrier_merge.experiment.bench import ExperimentBench, reason_of
from pyterrier_merge.experiment.cluster import executor_of
from pyterrier_merge.experiment.comparison import Comparison
from pyterrier_merge.experiment.report.folder import write_files, write_report
from pyterrier_merge.experiment.run_folder import RunFolder, make_way, require_alone
from pyterrier_merge.experiment.spec import CollectionSection, ExperimentSpec
from pyterrier_merge.experiment.system_names import file_name
from pyterrier_merge.progress import verbosity
from pyterrier_merge.spelling import did_you_mean
from pyterrier_merge.storage import user_path, write_file
from pyterrier_merge.systems.base import Figure, Prepared, System

Show = Callable[[str, str], None]  # the name of a system, and its current step or its scores


@verbosity
def run_experiment(
    spec: ExperimentSpec,
    folder: str | Path,
    *,
    only: tuple[str, ...] = (),
    overwrite: bool = False,
    show: Show | None = None,
    executor: Executor | None = None,
    verbose: bool | None = None,
) -> dict[str, Comparison]:
    """Run every system over every collection, and write a folder with everything that a paper's table needs.

    The folder gets ``report.html`` (one page: verdict, figures, tests, pictures, single queries, how it was done),
    ``report.md``, ``table.tex``, ``results.csv``, ``per_query.csv``, ``tests.csv``, ``means.png``,
    ``differences-a.png`` (from baseline a), ``qrels.txt``, ``runs/*.res.gz`` (TREC runs, each with the versions and
    hardware that made it), the tables and pictures of the systems (``SYSTEM-sweep.csv``), ``spec.json``,
    ``environment.json`` and ``manifest.json``; with several collections, each has its own folder inside, named by
    its label. Each trial (seed) of a system with several has its own files, ``SYSTEM@1…``, and its means in
    ``trials.csv``. Indexes and trained domain models are stored in the package's cache, by fingerprint.

    Args:
        spec: The experiment.
        folder: The run folder, created if it is missing; a run with finished steps of the same spec is resumed.
        only: Names of systems: these, those that they build on, and the baselines. All when empty. The folder still
            belongs to the whole spec: results of other systems are kept, and a later run uses them. Its report has the
            systems of the last run.
        overwrite: Use a folder that holds the run of another spec; files of it that this run does not make are deleted.
        show: Called with the name of each system when it is searched, and with its figures once it is measured.
        executor: Encodes and searches documents, scores the merges of sweeps and trains the adapters of trials; when
            None, the one that ``cluster`` of the spec selects.
        verbose: Show progress bars; in terminals and notebooks when None.

    Returns:
        The comparison of each collection, by its label. A system that failed is in ``failed`` with its reason.

    Raises:
        FileExistsError: The folder holds the run of another spec.
        OSError: The folder cannot be written to, which is checked before anything runs.
        ValueError: A model, a measure, a split or a name is invalid.
    """
    folders, benches = _opened(spec, folder, only, overwrite, show, executor, verbose)
    for bench in benches.values():
        require_testable(bench)
        bench.check()
    make_way(user_path(folder), [own.path for own in folders.values()])
    found = {}
    for name, bench in benches.items():
        comparison = compared(bench, spec.tested_against(), spec.significance.plan())
        if len(benches) > 1 and name != bench.collection.name:
            comparison = replace(comparison, title=f"{name} ({comparison.title})")
        if left_out := [system for system in spec.systems if system not in bench.systems]:
            note = f"Not all systems of the file were run; left out are {', '.join(left_out)}."
            comparison = replace(comparison, notes=(note, *comparison.notes))
        if not isinstance(bench.executor, InProcess):
            comparison = replace(comparison, notes=(*comparison.notes, f"Run on {bench.executor}."))
        found[name] = comparison
        with folders[name].writing():
            _write(bench, folders[name], comparison)
    whole = not left_out and not any(comparison.failed for comparison in found.values())
    for own in folders.values():  # at the end: a merge may be chosen on an earlier collection
        with own.writing():
            own.finish(whole=whole)
    return found


@verbosity
def choose_merges(
    spec: ExperimentSpec,
    folder: str | Path,
    *,
    only: tuple[str, ...] = (),
    overwrite: bool = False,
    show: Show | None = None,
    executor: Executor | None = None,
    verbose: bool | None = None,
) -> dict[str, dict[str, list[Prepared]]]:
    """Choose the merges of an experiment without searching with them: only its sweeps are run.

    The run folder gets the tables and plots of the sweeps; :func:`run_experiment` can continue from there. It has the
    same arguments and errors.

    Returns:
        The systems with a sweep, by collection and name: one for each trial.

    Raises:
        ValueError: None of the systems has a sweep.
        RuntimeError: For some systems, no choice is possible; the message has the reasons. The files of the others are
            written.
    """
    chosen = [name for name, system in _chosen(spec, only).items() if _has_sweep(system)]
    if not chosen:
        raise ValueError("no system has a 'sweep' section, so there is nothing to choose")
    folders, benches = _opened(spec, folder, only, overwrite, show, executor, verbose)
    for bench in benches.values():
        bench.check()
    make_way(user_path(folder), [own.path for own in folders.values()])
    found: dict[str, dict[str, list[Prepared]]] = {}
    failed: dict[str, str] = {}
    for label, bench in benches.items():
        found[label] = {}
        for name in chosen:
            try:
                found[label][name] = [bench.prepared(name, trial) for trial in range(bench.trials(name))]
            except (ValueError, RuntimeError) as error:
                failed[f"{name} on {label}" if len(benches) > 1 else name] = reason_of(error)
        with folders[label].writing():
            folders[label].claim()
            write_files(*_own_files(bench, list(found[label])), folders[label].file)
            folders[label].note()
    if failed:
        raise RuntimeError("; ".join(f"{name}: {reason}" for name, reason in failed.items()))
    return found


def _has_sweep(system: System) -> bool:
    """Whether a system, or the encoder of its own that it scores with, chooses a merge."""
    return any(getattr(one, "sweep", None) is not None for one in (system, getattr(system, "by", None)))


def _opened(
    spec: ExperimentSpec,
    folder: str | Path,
    only: tuple[str, ...],
    overwrite: bool,
    show: Show | None,
    executor: Executor | None,
    verbose: bool | None,
) -> tuple[dict[str, RunFolder], dict[str, ExperimentBench]]:
    """The folder and the bench of each collection, by its label."""
    every = bench_settings(spec, only)
    folders = run_folders(spec, folder, overwrite=overwrite)
    for own in folders.values():
        own.require_writable()
    executor = executor or executor_of(spec.cluster, user_path(folder))
    benches: dict[str, ExperimentBench] = {}
    for name, settings in every.items():
        before = partial(_require_names, settings["collection"], spec.split)
        tell = partial(_show_on, show, name) if show is not None and len(every) > 1 else show
        benches[name] = ExperimentBench(
            **settings,
            store=folders[name],
            siblings=benches,
            executor=executor,
            before_search=before,
            tell=tell,
            verbose=verbose,
        )
    return folders, benches


def _show_on(show: Show, label: str, name: str, said: str) -> None:
    show(f"{name} on {label}", said)


def run_folders(spec: ExperimentSpec, folder: str | Path, *, overwrite: bool = False) -> dict[str, RunFolder]:
    """Return the folder of each collection, by its label.

    Raises:
        FileExistsError: It holds the run of another spec.
    """
    written = spec.identity()
    paths = {section.label: collection_folder(folder, spec, section.label) for section in spec.collection}
    if not overwrite:
        require_alone(user_path(folder), list(paths.values()))
    return {label: RunFolder(path, written, overwrite=overwrite) for label, path in paths.items()}


def bench_settings(spec: ExperimentSpec, only: tuple[str, ...] = ()) -> dict[str, dict[str, Any]]:
    """Return the settings of each collection's bench, by its label, for some systems or all.

    Raises:
        ValueError: There is no such system, or no such collection.
    """
    common = {
        "systems": _chosen(spec, only),
        "split": spec.split,
        "measures": spec.parsed_measures,
        "num_results": spec.num_results,
    }
    return {section.label: {**common, "collection": _collection(section)} for section in spec.collection}


def _collection(section: CollectionSection) -> TestCollection:
    try:
        return get_collection(section.name, **section.options)
    except (FileNotFoundError, ValueError) as error:
        raise ValueError(f"collection {section.label}: {error}") from error


def collection_folder(folder: str | Path, spec: ExperimentSpec, label: str) -> Path:
    """Return the folder of a collection's files: the run folder itself if there is only one collection."""
    return user_path(folder) / file_name(label) if len(spec.collection) > 1 else user_path(folder)


def _chosen(spec: ExperimentSpec, only: tuple[str, ...]) -> dict[str, System]:
    """The systems to run: all, or some with the systems that they build on and the baselines."""
    if unknown := [name for name in only if name not in spec.systems]:
        raise ValueError(f"no system is named {unknown[0]!r}; {did_you_mean(unknown[0], spec.systems)}")
    wanted = [*only, *spec.tested_against()] if only else list(spec.systems)
    for name in wanted:
        wanted += [used for used in spec.systems[name].uses() if used not in wanted]
    return {name: system for name, system in spec.systems.items() if name in wanted}


def require_testable(bench: ExperimentBench) -> None:
    """Raise ``ValueError`` for too few judged queries, before everything is searched."""
    topics, _ = judged(bench.collection.topics(bench.split), bench.collection.qrels(bench.split))
    if len(topics) < 2:
        raise ValueError(
            f"{bench.collection.name} has {len(topics)} {bench.split} query with judgements, and paired tests need two "
            "at least: name another split"
        )


def _require_names(collection: TestCollection, split: str) -> None:
    """Reject names with white space, which TREC runs cannot hold, before hours of search."""
    require_plain("qid", collection.topics(split)["qid"])
    require_plain("docno", (doc["docno"] for doc in collection.corpus_iter()))


def _write(bench: ExperimentBench, folder: RunFolder, comparison: Comparison) -> None:
    folder.claim()
    tables, figures = _own_files(bench, [name for name in bench.systems if name not in comparison.failed])
    qrels = bench.collection.qrels(bench.split).assign(iteration="0")[["qid", "iteration", "docno", "label"]]
    write_file(folder.file("qrels.txt"), qrels.to_csv(sep=" ", header=False, index=False, quoting=csv.QUOTE_NONE))
    write_report(comparison, folder.file, tables=tables, figures=figures, spec=folder.spec)
    folder.note()


def _own_files(bench: ExperimentBench, names: Sequence[str]) -> tuple[dict[str, pd.DataFrame], dict[str, Figure]]:
    """The tables and plots of systems, by the names of their files."""
    tables: dict[str, pd.DataFrame] = {}
    figures: dict[str, Figure] = {}
    for name in names:
        for trial in range(bench.trials(name)):
            prepared, stem = bench.prepared(name, trial), bench.stem(name, trial)
            tables |= {f"{stem}-{kind}": table for kind, table in prepared.tables.items()}
            figures |= {f"{stem}-{kind}": figure for kind, figure in prepared.figures.items()}
    return tables, figures
