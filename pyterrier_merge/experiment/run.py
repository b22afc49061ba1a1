"""Runs an experiment into a folder, step by step; a step that is finished is not done again."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import pandas as pd
import pyterrier as pt

from pyterrier_merge.advice import in_fields
from pyterrier_merge.alpha_search import Sweep, alpha_pairs, sweep
from pyterrier_merge.collections import get_collection
from pyterrier_merge.collections.base import TestCollection
from pyterrier_merge.collections.pool import pooled
from pyterrier_merge.encoding.encoders import E5Encoder
from pyterrier_merge.encoding.merged import MergedE5Encoder
from pyterrier_merge.experiment.environment import environment
from pyterrier_merge.experiment.plots import alpha_heatmap
from pyterrier_merge.experiment.report import markdown, marked_table, marks
from pyterrier_merge.experiment.run_folder import RunFolder, require_plain
from pyterrier_merge.experiment.significance import compare
from pyterrier_merge.experiment.spec import ExperimentSpec
from pyterrier_merge.fingerprint import fingerprint, fingerprint_frame
from pyterrier_merge.measuring import check_measure, found_nothing, in_one_order, judged
from pyterrier_merge.models import fingerprint_model, locate_model, pinned_name
from pyterrier_merge.retrieval.dense.pipeline import dense_retriever
from pyterrier_merge.retrieval.lexical.bm25 import BM25
from pyterrier_merge.storage import write_file
from pyterrier_merge.training.domain import train_domain_model

ShowTable = Callable[[str, pd.DataFrame], None]


def run_experiment(
    spec: ExperimentSpec,
    folder: str | Path,
    *,
    overwrite: bool = False,
    show: ShowTable | None = None,
    verbose: bool = False,
) -> pd.DataFrame:
    """Run BM25, the source model and the merge, and write everything that a paper's table needs into a folder.

    The folder gets ``report.md`` (figures, tests, how it was done), ``results.csv``, ``per_query.csv``, ``tests.csv``,
    ``sweep.csv`` and ``sweep.png`` (the choice of alphas), ``runs/*.res.gz`` (TREC runs, each with the versions and
    hardware that made it), ``tensors.csv`` (what the merge did to each tensor), ``spec.json`` and ``environment.json``.
    Indexes and the trained domain model go into the package's cache, by fingerprint.

    Args:
        spec: What to run.
        folder: Made where it is missing; a folder with finished steps of the same spec is continued.
        overwrite: Take a folder that holds the run of another spec; what this run does not make of it is deleted.
        show: Called with a title and a table as soon as there is one: first BM25 against source, at the end the whole.
        verbose: Show progress bars.

    Returns:
        One row a system: ``name`` and the measures.

    Raises:
        FileExistsError: The folder holds the run of another spec.
        ValueError: A model, a measure or a split is not what it should be. Where the merge alone fails, the report
            with the baselines and the reason is written before.
        RuntimeError: The hub cannot be reached and its cache lacks a model; for the domain model the report is
            written likewise.
    """
    show = show or _silent
    collection = get_collection(spec.collection.name, **spec.collection.options)
    _require_measurable(collection, spec)
    bench = _Bench(spec, RunFolder(folder, spec, overwrite=overwrite), collection, verbose)
    _require_models(spec)
    lexical = BM25(collection, engine=spec.bm25.engine, k1=spec.bm25.k1, b=spec.bm25.b, num_results=spec.num_results)
    source = E5Encoder(spec.source.model, task=collection.task, **spec.source.settings())
    runs = {
        lexical.name: bench.search("bm25", spec.split, lexical),
        "source": bench.search("source", spec.split, source),
    }
    baselines = list(runs)
    notes = bench.baseline_notes(source)
    show(f"{collection.title}: the baselines", bench.measure(runs).round(4))
    try:
        merged = bench.merged_encoder(source)
        chosen = bench.choose(merged, lexical, source)
        name = f"merged ({merged.alpha_lower:g}, {merged.alpha_upper:g})"
        runs[name] = bench.search("merged", spec.split, merged)
        notes += bench.merge_notes(merged, chosen)
    except (ValueError, RuntimeError, OSError) as error:
        bench.report(runs, baselines, notes, show, failed={"merged": in_fields(str(error))})
        raise
    return bench.report(runs, baselines, notes, show)


@dataclass
class _Bench:
    """The spec, the folder and the collection that every step works on."""

    spec: ExperimentSpec
    folder: RunFolder
    collection: TestCollection
    verbose: bool

    def search(self, name: str, split: str, system: BM25 | E5Encoder) -> pd.DataFrame:
        """The results of a system for the topics of a split, those of an earlier run where nothing has changed."""
        topics = self.collection.topics(split)
        identity = system.fingerprint if isinstance(system, E5Encoder) else repr(system)
        documents = self.collection.fingerprint, self.collection.language
        rules = ["ignore_identical_ids"] * self.collection.ignore_identical_ids
        key = fingerprint([identity, documents, fingerprint_frame(topics), self.spec.num_results, *rules])

        def search() -> pd.DataFrame:
            if isinstance(system, BM25):  # the first of all, and searched anew where the documents are others
                require_plain("qid", topics["qid"])
                require_plain("docno", (doc["docno"] for doc in self.collection.corpus_iter()))
                return system.transform(topics)
            dense = dense_retriever(system, self.collection, num_results=self.spec.num_results, verbose=self.verbose)
            return dense.transform(topics)

        return self.folder.results(f"{name}.{split}", key, search)

    def merged_encoder(self, source: E5Encoder) -> MergedE5Encoder:
        """Source and domain model, the latter trained on the collection's documents first where the spec says so."""
        section = self.spec.domain
        domain = section.model
        if domain is None:
            texts = [doc["text"] for doc in self.collection.corpus_iter()]
            base = locate_model(source.model)
            settings, contract = section.training(), source.contract
            domain = str(train_domain_model(texts, base, settings=settings, contract=contract, verbose=self.verbose))
        return MergedE5Encoder(
            source.model,
            domain,
            alpha_lower=1,
            alpha_upper=1,
            method=self.spec.merged.method,
            parameters=self.spec.merged.parameters,
            task=source.task,
            **self.spec.source.settings(),
        )

    def choose(self, encoder: MergedE5Encoder, lexical: BM25, source: E5Encoder) -> Sweep | None:
        """Set the alphas that are best on the development queries; a grid of one pair leaves nothing to choose."""
        section = self.spec.merged
        pairs = alpha_pairs(section.grid)
        if len(pairs) == 1:
            encoder.alpha_lower, encoder.alpha_upper = pairs[0]
            return None
        collection = self.collection
        if section.pool_depth is not None:
            found = [self.search("bm25", section.split, lexical), self.search("source", section.split, source)]
            collection = pooled(collection, section.split, found, depth=section.pool_depth)
        return sweep(
            encoder,
            collection,
            grid=section.grid,
            metric=self.spec.parsed_measures[0],
            split=section.split,
            num_results=self.spec.num_results,
            verbose=self.verbose,
        )

    def measure(self, runs: Mapping[str, pd.DataFrame], *, per_query: bool = False) -> pd.DataFrame:
        """The figures of each run: means, or one row for each query and measure."""
        topics, qrels = judged(self.collection.topics(self.spec.split), self.collection.qrels(self.spec.split))
        ignored = self.collection.ignore_identical_ids
        ordered = [in_one_order(run, ignore_identical_ids=ignored) for run in runs.values()]
        ordered = [found_nothing(qrels) if run.empty else run for run in ordered]
        measured: pd.DataFrame = pt.Experiment(
            ordered, topics, qrels, self.spec.parsed_measures, names=list(runs), perquery=per_query
        )
        if not per_query:
            return measured[["name", *self.spec.measures]]
        order = {measure: place for place, measure in enumerate(self.spec.measures)}
        return measured.sort_values("measure", key=lambda column: column.astype(str).map(order), kind="stable")

    def report(
        self,
        runs: Mapping[str, pd.DataFrame],
        baselines: Sequence[str],
        notes: Sequence[str],
        show: ShowTable,
        failed: Mapping[str, str] | None = None,
    ) -> pd.DataFrame:
        """Write figures, tests and how they came about; show the table; return the figures."""
        correction, level = self.spec.significance.correction, self.spec.significance.level
        results, per_query = self.measure(runs), self.measure(runs, per_query=True)
        comparisons = compare(per_query, baselines, correction=correction, level=level)
        for name, frame in (("results", results), ("per_query", per_query), ("tests", comparisons)):
            self._write_table(name, frame)
        table = marked_table(results, comparisons, baselines)
        for name, reason in (failed or {}).items():
            table.loc[len(table)] = [name, "not run", *[""] * (len(table.columns) - 2)]
            notes = [*notes, f"{name} was not run: {reason}"]
        title = f"{self.collection.name}: {self.collection.title}"
        page = markdown(title, table, comparisons, notes, correction=correction, level=level)
        write_file(self.folder.file("report.md"), page)
        write_file(self.folder.file("environment.json"), json.dumps(environment(), indent=2) + "\n")
        self.folder.leave_own_files()
        show(f"{self.collection.title}: the comparison ({marks(comparisons, correction, level)})", table)
        return results

    def baseline_notes(self, source: E5Encoder) -> list[str]:
        """What the report says of the collection and the baselines."""
        spec, topics = self.spec, self.collection.topics(self.spec.split)
        measured, _ = judged(topics, self.collection.qrels(spec.split))
        unjudged = len(topics) - len(measured)
        left_out = f" ({unjudged:,} more have no judgements and are not measured)" if unjudged else ""
        ranked = "each topic's own candidates are ranked" if self.collection.reranking else "all documents are searched"
        if self.collection.ignore_identical_ids:
            ranked += (
                "; a query's own document (docno equal to qid) is left out of the results of every system, as BEIR and "
                "MTEB do (ignore_identical_ids)"
            )
        return [
            f"Collection: {self.collection.name}, {self.collection.num_docs:,} documents, {len(measured):,} "
            f"{spec.split} queries{left_out}; {ranked}. {self.collection.citation}",
            f"BM25: engine {spec.bm25.engine}, k1 {spec.bm25.k1:g}, b {spec.bm25.b:g}. "
            f"{spec.num_results} results of every system for each query.",
            f"Source: {_described(source.model)}, {source.contract.max_length} tokens, computed in "
            f"{source.computed_in}.",
        ]

    def merge_notes(self, merged: MergedE5Encoder, chosen: Sweep | None) -> list[str]:
        """What the report says of the merge; its tables and its figure are written too."""
        self._write_table("tensors", pd.DataFrame(map(asdict, merged.tensor_merges)))
        domain = f"Domain model: {', '.join(map(_described, merged.recipe.domains))}"
        if self.spec.domain.train is None:
            labels = "Labels used by this run: none for training"
        else:
            settings = ", ".join(f"{name} {value}" for name, value in asdict(self.spec.domain.training()).items())
            domain += f", trained on the collection's documents, unlabelled ({settings})"
            labels = "Labels used: none for training"
        alphas = f"alphas ({merged.alpha_lower:g}, {merged.alpha_upper:g})"
        if chosen is None:
            how = f"{alphas} as given"
        else:
            self._write_table("sweep", chosen.table)
            alpha_heatmap(chosen, self.folder.file("sweep.png"))
            how = f"{alphas} chosen by {chosen.metric} on {chosen.on}"
            labels += f"; the judgements of the {self.spec.merged.split} queries for the choice of the alphas"
        return [f"{domain}.", f"Merge: {merged.method}, {how}.", f"{labels}."]

    def _write_table(self, name: str, frame: pd.DataFrame) -> None:
        write_file(self.folder.file(f"{name}.csv"), frame.to_csv(index=False))


def _require_measurable(collection: TestCollection, spec: ExperimentSpec) -> None:
    """What cannot be measured or tested would show when all is searched."""
    measured, _ = judged(collection.topics(spec.split), collection.qrels(spec.split))
    if len(alpha_pairs(spec.merged.grid)) > 1:
        chosen_on, _ = judged(collection.topics(spec.merged.split), collection.qrels(spec.merged.split))
        _require_other_queries(chosen_on, spec.merged.split, measured, spec.split)
        check_measure(spec.parsed_measures[0], spec.num_results, chosen_on["qid"].tolist())
    for measure in spec.parsed_measures:
        check_measure(measure, spec.num_results, measured["qid"].tolist())
    if len(measured) < 2:
        raise ValueError(
            f"{collection.name} has {len(measured)} {spec.split} query with judgements, and paired tests need two at "
            "least: name another split"
        )


def _require_other_queries(chosen_on: pd.DataFrame, split: str, measured: pd.DataFrame, measured_split: str) -> None:
    """Refuse to choose alphas on queries that the tables are computed on, by whatever name their split goes."""
    shared = chosen_on.merge(measured, on=["qid", "query"])["qid"]
    if len(shared):
        raise ValueError(
            f"{len(shared)} of {len(chosen_on)} {split} queries are {measured_split} queries too (such as qid "
            f"{shared[0]!r}), and alphas cannot be chosen on what the tables are computed on: take them out of "
            f"{split}, or give one pair of alphas as the grid"
        )


def _require_models(spec: ExperimentSpec) -> None:
    """A misspelt model shows before hours of work.

    A hub that cannot be reached costs the merge alone where it lacks the domain model: the report says so.
    """
    for field, model in (("source.model", spec.source.model), ("domain.model", spec.domain.model)):
        try:
            if model is not None:
                locate_model(model)
        except (FileNotFoundError, ValueError) as error:
            raise ValueError(f"{field}: {error}") from error
        except RuntimeError:
            if field == "source.model":
                raise


def _described(model: str) -> str:
    """A model's name, with the commit where it came from the hub, and the fingerprint of its content."""
    return f"{pinned_name(model)} (content {fingerprint_model(locate_model(model))})"


def _silent(_title: str, _table: pd.DataFrame) -> None: ...
