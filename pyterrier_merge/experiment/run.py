"""Runs an experiment into a folder, step by step; a step that is finished is not done again."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import pyterrier as pt

from pyterrier_merge.alpha_search import Sweep, sweep
from pyterrier_merge.collections import get_collection
from pyterrier_merge.collections.base import TestCollection
from pyterrier_merge.collections.pool import pooled
from pyterrier_merge.encoding.encoders import E5Encoder, MergedE5Encoder
from pyterrier_merge.experiment.environment import environment
from pyterrier_merge.experiment.plots import alpha_heatmap
from pyterrier_merge.experiment.report import legend, markdown, marked_table
from pyterrier_merge.experiment.significance import compare
from pyterrier_merge.experiment.spec import ExperimentSpec
from pyterrier_merge.fingerprint import fingerprint, fingerprint_frame
from pyterrier_merge.models import locate_model
from pyterrier_merge.retrieval.bm25 import bm25
from pyterrier_merge.retrieval.dense import dense_retriever
from pyterrier_merge.storage import write_file
from pyterrier_merge.training.domain import train_domain_model

ShowTable = Callable[[str, pd.DataFrame], None]


def run_experiment(
    spec: ExperimentSpec, folder: str | Path, *, show: ShowTable | None = None, verbose: bool = False
) -> pd.DataFrame:
    """Run BM25, the source model and the merge, and write everything that a paper's table needs into a folder.

    The folder gets ``report.md`` (figures, tests, how it was done), ``results.csv``, ``per_query.csv``, ``tests.csv``,
    ``sweep.csv`` and ``sweep.png`` (the choice of alphas), ``runs/*.res.gz`` (TREC runs), ``tensors.csv`` (what the
    merge did to each tensor), ``spec.json`` and ``environment.json``. Indexes and the trained domain model go into the
    package's cache, by fingerprint.

    Args:
        spec: What to run.
        folder: Made where it is missing; a folder with finished steps of the same spec is continued.
        show: Called with a title and a table as soon as there is one: first BM25 against source, at the end the whole.
        verbose: Show progress bars.

    Returns:
        One row a system: ``name`` and the measures.
    """
    show = show or _silent
    bench = _Bench(spec, Path(folder), get_collection(spec.collection), verbose)
    lexical = bm25(
        bench.collection, engine=spec.bm25.engine, k1=spec.bm25.k1, b=spec.bm25.b, num_results=spec.num_results
    )
    source = E5Encoder(
        spec.source.model,
        revision=spec.source.revision,
        task=bench.collection.task,
        max_length=spec.source.max_length,
        dtype=spec.source.dtype,
        batch_size=spec.source.batch_size,
        verbose=verbose,
    )
    runs = {lexical.name: bench.search("bm25", spec.split, lexical, repr(lexical))}
    runs["source"] = bench.search("source", spec.split, source, source.fingerprint)
    baselines = list(runs)
    show(f"{bench.collection.title}: the baselines", bench.measure(runs).round(4))

    merged, chosen = bench.choose(lexical, source, bench.domain_model(source))
    name = f"merged ({chosen.alpha_lower:g}, {chosen.alpha_upper:g})"
    runs[name] = bench.search("merged", spec.split, merged, merged.fingerprint)
    alpha_heatmap(chosen, bench.folder / "sweep.png")
    pd.DataFrame(map(vars, merged.tensor_merges)).to_csv(bench.folder / "tensors.csv", index=False)
    return bench.report(runs, baselines, merged, chosen, show)


@dataclass
class _Bench:
    """The spec, the folder and the collection that every step works on."""

    spec: ExperimentSpec
    folder: Path
    collection: TestCollection
    verbose: bool

    def __post_init__(self) -> None:
        write_file(self.folder / "spec.json", self.spec.model_dump_json(indent=2) + "\n")

    def search(self, name: str, split: str, system: pt.Transformer, identity: str) -> pd.DataFrame:
        """The run of a system: read from the folder where the same system has written it, else made and written."""
        file = self.folder / "runs" / f"{name}.{split}.res.gz"
        topics = self.collection.topics(split)
        key = fingerprint([identity, self.collection.fingerprint, fingerprint_frame(topics), self.spec.num_results])
        if not file.is_file() or self._steps().get(file.name) != key:
            if isinstance(system, E5Encoder):
                system = dense_retriever(system, self.collection, num_results=self.spec.num_results)
            results = system.transform(topics)
            file.parent.mkdir(parents=True, exist_ok=True)
            pt.io.write_results(results, str(file), run_name=name)
            write_file(
                self.folder / "runs" / "finished.json", json.dumps({**self._steps(), file.name: key}, indent=2) + "\n"
            )
        return pt.io.read_results(str(file))

    def domain_model(self, source: E5Encoder) -> str:
        """The name of the domain model, trained on the collection's documents first where the spec says so."""
        section = self.spec.domain
        if section.model is not None:
            return section.model
        texts = [doc["text"] for doc in self.collection.corpus_iter()]
        base = locate_model(source.model, revision=source.revision)
        return str(train_domain_model(texts, base, settings=section.training(), verbose=self.verbose))

    def choose(self, lexical: pt.Transformer, source: E5Encoder, domain: str) -> tuple[MergedE5Encoder, Sweep]:
        """The merged encoder with the alphas that are best on the development queries."""
        section = self.spec.merged
        encoder = MergedE5Encoder(
            source.model,
            domain,
            alpha_lower=1,
            alpha_upper=1,
            method=section.method,
            source_revision=source.revision,
            domain_revision=self.spec.domain.revision,
            task=source.task,
            max_length=source.max_length,
            dtype=source.dtype,
            batch_size=source.batch_size,
        )
        collection = self.collection
        if section.pool_depth is not None:
            judged = [
                self.search("bm25", section.split, lexical, repr(lexical)),
                self.search("source", section.split, source, source.fingerprint),
            ]
            collection = pooled(collection, section.split, judged, depth=section.pool_depth)
        chosen = sweep(
            encoder,
            collection,
            grid=section.grid,
            metric=self.spec.parsed_measures[0],
            split=section.split,
            num_results=self.spec.num_results,
            verbose=self.verbose,
        )
        chosen.table.to_csv(self.folder / "sweep.csv", index=False)
        return encoder, chosen

    def measure(self, runs: dict[str, pd.DataFrame], *, per_query: bool = False) -> pd.DataFrame:
        """The figures of each run: means, or one row for each query and measure."""
        topics, qrels = self.collection.topics(self.spec.split), self.collection.qrels(self.spec.split)
        measured: pd.DataFrame = pt.Experiment(
            list(runs.values()), topics, qrels, self.spec.parsed_measures, names=list(runs), perquery=per_query
        )
        return measured if per_query else measured[["name", *self.spec.measures]]

    def report(
        self,
        runs: dict[str, pd.DataFrame],
        baselines: Sequence[str],
        merged: MergedE5Encoder,
        chosen: Sweep,
        show: ShowTable,
    ) -> pd.DataFrame:
        """Write figures, tests and how they came about; show the table; return the figures."""
        correction, level = self.spec.significance.correction, self.spec.significance.level
        results, per_query = self.measure(runs), self.measure(runs, per_query=True)
        comparisons = compare(per_query, baselines, correction=correction, level=level)
        for name, frame in (("results", results), ("per_query", per_query), ("tests", comparisons)):
            write_file(self.folder / f"{name}.csv", frame.to_csv(index=False))
        write_file(self.folder / "environment.json", json.dumps(environment(), indent=2) + "\n")
        table = marked_table(results, comparisons, baselines)
        title = f"{self.collection.name}: {self.collection.title}"
        notes = self._notes(merged, chosen)
        write_file(
            self.folder / "report.md", markdown(title, table, comparisons, notes, correction=correction, level=level)
        )
        show(f"{self.collection.title}; {legend(comparisons, correction, level)}", table)
        return results

    def _notes(self, merged: MergedE5Encoder, chosen: Sweep) -> list[str]:
        spec, topics = self.spec, self.collection.topics(self.spec.split)
        moved = [merge.to_source for merge in merged.tensor_merges if merge.alpha < 1]
        return [
            f"Collection: {self.collection.name}, {self.collection.num_docs:,} documents, {len(topics):,} "
            f"{spec.split} queries. {self.collection.citation}",
            f"BM25: engine {spec.bm25.engine}, k1 {spec.bm25.k1:g}, b {spec.bm25.b:g}; "
            f"{spec.num_results} results of every system for each query.",
            f"Source: {spec.source.model}, {merged.contract.max_length} tokens, computed in {merged.computed_in}.",
            f"Domain model: {merged.domain}"
            + (", trained on the collection's documents, unlabelled." if spec.domain.train is not None else "."),
            f"Merge: {merged.method}, alphas chosen by {chosen.metric} on {chosen.on}; "
            f"{len(moved)} tensors moved by {min(moved, default=0):.2%} to {max(moved, default=0):.2%} of their norm.",
            "Labels used: none for training; the judgements of the development queries for the choice of the alphas.",
        ]

    def _steps(self) -> dict[str, str]:
        file = self.folder / "runs" / "finished.json"
        return dict(json.loads(file.read_text(encoding="utf-8"))) if file.is_file() else {}


def _silent(_title: str, _table: pd.DataFrame) -> None: ...
