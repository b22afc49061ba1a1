"""Makes the comparison of a bench's systems: searches, measures and tests each of them."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

import pandas as pd
from ir_measures import Judged
from ir_measures.measures import Measure

from pyterrier_merge.evaluation import in_one_order, judged, mean_values, measure_runs
from pyterrier_merge.experiment.bench import ExperimentBench, UnusableCollectionError, UnusableStoreError, reason_of
from pyterrier_merge.experiment.bootstrap import trial_notes
from pyterrier_merge.experiment.comparison import PER_TRIAL, Comparison
from pyterrier_merge.experiment.significance import DEFAULT_PLAN, TestPlan, paired_tests
from pyterrier_merge.fingerprint import fingerprint, fingerprint_rows
from pyterrier_merge.progress import progress
from pyterrier_merge.spelling import did_you_mean

logger = logging.getLogger(__name__)

JUDGED = Judged @ 10  # the share of judged results that is shown


def compared(
    bench: ExperimentBench,
    baselines: Sequence[str],
    plan: TestPlan = DEFAULT_PLAN,
) -> Comparison:
    """Search every system of a bench, measure it and test it against the baselines.

    A system that fails is left out of the figures and reported with its reason; the others continue.

    Args:
        bench: Systems and collection.
        baselines: Names of systems.
        plan: The plan of the tests.

    Raises:
        ValueError: A baseline is not among the systems.
    """
    if unknown := [name for name in baselines if name not in bench.systems]:
        advice = did_you_mean(unknown[0], bench.systems, "the systems are")
        raise ValueError(f"unknown baseline {unknown[0]!r}: {advice}")
    topics, qrels = judged(bench.collection.topics(bench.split), bench.collection.qrels(bench.split))
    measures = [*bench.measures, *([] if JUDGED in bench.measures else [JUDGED])]
    found: dict[str, list[pd.DataFrame]] = {}
    names: dict[str, str] = {}
    failed: dict[str, str] = {}
    contents: dict[str, str] = {}
    values = []
    watched = False if bench.tell is not None else bench.verbose
    for name in progress(bench.systems, desc="comparing", unit="system", verbose=watched):
        try:
            runs = bench.runs(name)
        except (UnusableCollectionError, UnusableStoreError):
            raise
        except Exception as error:  # any error: the other systems are compared
            failed[name] = reason_of(error)
            logger.debug("%s failed", name, exc_info=True)
            _tell_failure(bench, name, failed[name])
            continue
        names[name] = shown = _shown_name(bench, name)
        found[shown] = runs
        ordered = [in_one_order(run) for run in runs]
        contents[shown] = _content(ordered)
        own = measure_runs({str(trial): run for trial, run in enumerate(ordered)}, qrels, measures, in_order=True)
        values.append(own.rename(columns={"name": "trial"}).assign(name=shown))
        _tell_figures(bench, name, shown, values[-1])
    tested = tuple(dict.fromkeys(names[name] for name in baselines if name in names))
    same = _same_results(contents, tested)
    comparison = _assembled(bench, measures, topics, qrels, found, names, values, failed, same, tested, plan)
    return replace(comparison, untested=tuple(name for name in baselines if name in failed))


def _tell_failure(bench: ExperimentBench, name: str, reason: str) -> None:
    if bench.tell is None:
        logger.warning("%s failed: %s", name, reason)
    else:
        bench.tell(name, f"failed: {reason}")


def _tell_figures(bench: ExperimentBench, name: str, shown: str, values: pd.DataFrame) -> None:
    if bench.tell is not None:
        means = values.groupby("measure", sort=False)["value"].mean()
        figures = ", ".join(f"{measure} {means[str(measure)]:.4f}" for measure in bench.measures)
        bench.tell(shown, figures if (name, bench.split) in bench.searched else f"{figures} (kept)")


def _assembled(
    bench: ExperimentBench,
    measures: Sequence[Measure],
    topics: pd.DataFrame,
    qrels: pd.DataFrame,
    found: Mapping[str, list[pd.DataFrame]],
    names: Mapping[str, str],
    values: Sequence[pd.DataFrame],
    failed: Mapping[str, str],
    same: Mapping[str, str],
    baselines: tuple[str, ...],
    plan: TestPlan,
) -> Comparison:
    columns = ["name", "qid", "measure"]
    every = pd.concat(values) if values else pd.DataFrame(columns=[*columns, "trial", "value"])
    averaged = every.groupby(columns, sort=False)["value"].mean().reset_index()
    table = mean_values(averaged, measures)
    if JUDGED not in bench.measures:
        table[str(JUDGED)] = table["name"].map(_judged_shares(found, every, topics))
    table["labels"] = pd.Series([bench.num_labels(name) for name in names], dtype="Int64")
    own = averaged[averaged["measure"].isin(list(map(str, bench.measures)))].reset_index(drop=True)
    distinct = tuple(dict.fromkeys(same.get(name, name) for name in baselines))
    once = own[~own["name"].isin(same)]
    enough = len(topics) > 1 and once["name"].nunique() > 1
    tests = paired_tests(once, distinct, plan) if enough else paired_tests(once[:0], (), plan)
    collection, by_trial = bench.collection, _by_trial(bench, names, every)
    several = every[every["name"].isin(by_trial["name"]) & every["measure"].isin(own["measure"])]
    per_trial = several.assign(trial=several["trial"].astype(int) + 1)[PER_TRIAL].reset_index(drop=True)
    intervals = trial_notes(str(bench.measures[0]), distinct, own, per_trial) if len(topics) > 1 else ()
    return Comparison(
        title=f"{collection.name}: {collection.title}",
        measures=tuple(map(str, bench.measures)),
        table=table,
        per_query=own,
        tests=tests,
        baselines=baselines,
        plan=plan,
        collection=collection,
        topics=topics,
        qrels=qrels,
        runs={name: tuple(runs) for name, runs in found.items()},
        by_trial=by_trial,
        per_trial=per_trial,
        lines={shown: line for name, shown in names.items() if (line := bench.prepared(name).line)},
        same=same,
        failed=failed,
        unanswered=_unanswered(found, topics),
        seconds=dict(_seconds(bench, names)),
        notes=(*_notes(bench, topics, names), *intervals, *_depths(bench, found)),
    )


def _judged_shares(
    found: Mapping[str, list[pd.DataFrame]], every: pd.DataFrame, topics: pd.DataFrame
) -> dict[str, float]:
    """Mean share of judged results over the queries that a system answers; ir_measures counts 0 for the others."""
    sums = every[every["measure"] == str(JUDGED)].groupby("name")["value"].sum()
    asked = set(topics["qid"])
    answered = {name: sum(len(asked.intersection(run["qid"])) for run in runs) for name, runs in found.items()}
    return {name: float(sums[name] / count) for name, count in answered.items() if count}


def _shown_name(bench: ExperimentBench, name: str) -> str:
    labels = {bench.prepared(name, trial).label for trial in range(bench.trials(name))}
    shown = " ".join([name, *labels]).strip() if len(labels) == 1 else name
    return name if shown in bench.systems else shown  # unless another system has that name


def _content(ordered: Sequence[pd.DataFrame]) -> str:
    """A fingerprint of a system's results and their order. Trials with equal rankings count as one."""
    trials = [fingerprint_rows(run[["qid", "docno"]]) for run in ordered]
    return fingerprint(trials[:1] if len(set(trials)) == 1 else trials)


def _same_results(contents: Mapping[str, str], baselines: Sequence[str]) -> dict[str, str]:
    """Systems with the same ranking as another one for every query: the same merge, or a merge that is the source."""
    first: dict[str, str] = {}
    same = {}
    for name in (*baselines, *(name for name in contents if name not in baselines)):
        if (other := first.setdefault(contents[name], name)) != name:
            same[name] = other
    return same


def _seconds(bench: ExperimentBench, names: Mapping[str, str]) -> Iterator[tuple[str, float]]:
    for name, shown in names.items():
        trials = [bench.seconds.get((name, bench.split, trial)) for trial in range(bench.trials(name))]
        known = [seconds for seconds in trials if seconds is not None]
        if known and len(known) == len(trials):
            yield shown, sum(known) / len(known) / len(bench.collection.topics(bench.split))


def _unanswered(found: Mapping[str, list[pd.DataFrame]], topics: pd.DataFrame) -> dict[str, int]:
    """Number of queries without a result in any trial."""
    counts = {name: len(set(topics["qid"]).difference(*(run["qid"] for run in runs))) for name, runs in found.items()}
    return {name: count for name, count in counts.items() if count}


def _depths(bench: ExperimentBench, found: Mapping[str, list[pd.DataFrame]]) -> Iterator[str]:
    """Notes on systems whose longest result list is shorter than a measure's depth, although more documents exist."""
    cutoffs = {str(measure): measure.params.get("cutoff") or 0 for measure in bench.measures}
    for name, runs in found.items():
        longest = max((int(run["rank"].max()) + 1 for run in runs if len(run)), default=0)
        deeper = [measure for measure, cutoff in cutoffs.items() if cutoff > longest]
        if 0 < longest < bench.collection.num_docs and deeper:
            look = "looks" if len(deeper) == 1 else "look"
            yield f"{name} has at most {longest} results for a query; {', '.join(deeper)} {look} deeper."


def _by_trial(bench: ExperimentBench, names: Mapping[str, str], every: pd.DataFrame) -> pd.DataFrame:
    """The means of each trial, for systems with several trials."""
    frames = []
    for name, shown in names.items():
        if bench.trials(name) > 1:
            own = every[every["name"] == shown]
            means = mean_values(own.drop(columns="name").rename(columns={"trial": "name"}), bench.measures)
            labels = [bench.prepared(name, trial).label for trial in range(bench.trials(name))]
            means.insert(0, "label", labels)
            means.insert(0, "trial", range(1, len(means) + 1))
            frames.append(means.assign(name=shown))
    columns = ["name", "trial", "label", *map(str, bench.measures)]
    return pd.concat(frames, ignore_index=True)[columns] if frames else pd.DataFrame(columns=columns)


def _notes(bench: ExperimentBench, topics: pd.DataFrame, names: Mapping[str, str]) -> tuple[str, ...]:
    collection = bench.collection
    unjudged = len(collection.topics(bench.split)) - len(topics)
    left_out = f" ({unjudged:,} more have no judgements and are not measured)" if unjudged else ""
    ranked = "each topic's own candidates are ranked" if collection.reranking else "all documents are searched"
    if collection.ignore_identical_ids:
        ranked += "; a query's own document (docno equal to qid) is left out of every system's results, as in BEIR"
    notes = [
        f"Collection: {collection.name}, {collection.num_docs:,} documents, {len(topics):,} {bench.split} queries"
        f"{left_out}; {ranked}; at most {bench.num_results:,} results of a system for each query. {collection.citation}"
    ]
    for name in names:
        for trial in range(bench.trials(name)):
            numbered = f"{name}, trial {trial + 1}" if bench.trials(name) > 1 else name
            notes += [f"{numbered}: {note}" for note in bench.prepared(name, trial).notes]
    return tuple(note.strip() for note in notes)
