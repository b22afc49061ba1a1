"""The bench on which systems are prepared and searched: one collection, its topics, and the stored results."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, ClassVar, Protocol, TypeVar

import numpy as np
import pandas as pd
import pyterrier as pt

from pyterrier_merge.collections.identical_ids import without_identical_ids
from pyterrier_merge.evaluation import check_measure, judged, require_attainable
from pyterrier_merge.executor import Executor, InProcess
from pyterrier_merge.experiment.system_names import file_name, require_known_uses
from pyterrier_merge.fingerprint import fingerprint, fingerprint_frame
from pyterrier_merge.models import locate_parts
from pyterrier_merge.schematic import labelled
from pyterrier_merge.spelling import did_you_mean
from pyterrier_merge.systems.base import Prepared, System
from pyterrier_merge.systems.given import KeptResults

if TYPE_CHECKING:
    from ir_measures.measures import Measure
    from typing_extensions import Self

    from pyterrier_merge.collections.base import TestCollection

logger = logging.getLogger(__name__)


Key = TypeVar("Key")
SECONDS = "seconds"  # attribute of results: duration of the search


class SystemFailedError(RuntimeError):
    """A system cannot be prepared or searched because a system that it builds on failed."""


class UnusableCollectionError(ValueError):
    """The collection is unusable, so every system would fail."""


class UnusableStoreError(OSError):
    """Results cannot be stored, so every search would be lost."""


class ResultStore(Protocol):
    """Stores results by a key."""

    def results(self, name: str, key: str, search: Callable[[], pd.DataFrame]) -> pd.DataFrame:
        """Return the results kept under ``key``, else those of ``search``, which are kept then, ``attrs`` too."""


class InMemory:
    """Stores results in memory."""

    def __init__(self) -> None:
        self._kept: dict[str, pd.DataFrame] = {}

    def results(self, name: str, key: str, search: Callable[[], pd.DataFrame]) -> pd.DataFrame:  # noqa: ARG002
        """Return the results kept under ``key``, else those of ``search``, which are kept then."""
        if key not in self._kept:
            self._kept[key] = search()
        return self._kept[key]


@dataclass
class ExperimentBench:
    """Prepares each system once and stores its results.

    Attributes:
        systems: By name, in the order of the table.
        collection: The collection to search.
        split: The split that tables are computed on.
        measures: The measures; systems choose by the first one.
        num_results: Results for each query.
        store: Stores results.
        siblings: Benches of all collections of the experiment, by the collection's label.
        executor: Runs work items.
        before_search: Called once, before the first search; stored results need no search.
        tell: Called with a system's name and its current step or its scores.
        verbose: Show progress bars; in terminals and notebooks when None.
        searched: Systems and splits that were searched on this bench; results of the others were stored before.
        seconds: Wall-clock time of each search for all queries, by system, split and trial, without the building of an
            index. The time of a system that uses other systems' results includes theirs. None if unknown.
    """

    systems: Mapping[str, System]
    collection: TestCollection
    split: str
    measures: Sequence[Measure]
    num_results: int
    store: ResultStore
    siblings: Mapping[str, Self] = field(default_factory=dict)
    executor: Executor = field(default_factory=InProcess)
    before_search: Callable[[], None] | None = None
    tell: Callable[[str, str], None] | None = None
    verbose: bool | None = None
    searched: set[tuple[str, str]] = field(default_factory=set)
    seconds: dict[tuple[str, str, int], float | None] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._ready: dict[str, tuple[Prepared, ...]] = {}
        self.failed: dict[str, str] = {}  # system -> why it cannot be prepared
        self.unanswered: dict[tuple[str, str], str] = {}  # system and split -> why it cannot be searched
        self._splits: dict[str, pd.DataFrame] = {}  # splits searched so far, by which a stage recognises topics
        self._kept_parts: list[float | None] = []  # per search in progress: seconds of stored results it read
        self._building = 0.0  # seconds in which indexes were built, which no search includes
        require_known_uses(self.systems)

    def check(self) -> None:
        """Raise ``ValueError`` for errors that would otherwise appear after hours: models, splits, measures."""
        _, qrels = judged(self.collection.topics(self.split), self.collection.qrels(self.split))
        for measure in self.measures:
            check_measure(measure, self.num_results)
            require_attainable(measure, qrels)
        for name, system in self.systems.items():
            with blamed(name):
                self.num_trials(name)
                system.check(self)
            self.check_models(name)

    def check_models(self, name: str) -> None:
        """Raise ``ValueError`` if a model of a system cannot be found."""
        with blamed(name):
            for model in self.systems[name].models():
                locate_parts(model)

    def on(self, collection: str | None) -> Self:
        """Return the bench of another collection of the experiment, by its label; this one for None.

        Raises:
            ValueError: The experiment has no such collection.
        """
        if collection is None:
            return self
        known = self.siblings or {self.collection.name: self}
        if collection not in known:
            advice = did_you_mean(collection, known, "it has")
            raise ValueError(f"the experiment has no collection {collection!r}; {advice}")
        return known[collection]

    def trials(self, name: str) -> int:
        """Return how many trials a system has."""
        return len(self._prepared(name))

    def num_trials(self, name: str) -> int:
        """Return how many trials a system will have, from the fields alone."""
        return self.systems[name].num_trials(self.num_trials)

    def by_folds(self, name: str) -> bool:
        """Return whether a system answers only the table's queries; see :meth:`System.by_folds`."""
        return self.systems[name].by_folds(self.by_folds)

    def prepared(self, name: str, trial: int = 0) -> Prepared:
        """Return a system whose transformer answers the topics of a split from stored results."""
        return replace(self._prepared(name)[trial], transformer=KeptStage(self, name, trial))

    def results(self, name: str, split: str, trial: int = 0) -> pd.DataFrame:
        """Return a system's results for all topics of a split.

        Columns ``qid``, ``query``, ``docno``, ``score`` and ``rank`` (from 0); at most ``num_results`` for each query,
        best first, equal scores by docno.
        """
        system, topics = self._prepared(name)[trial], self.collection.topics(split)
        collection = self.collection
        documents = collection.fingerprint, collection.language, collection.ignore_identical_ids
        key = fingerprint([system.identity, documents, fingerprint_frame(topics), self.num_results])
        file = f"{self.stem(name, trial)}.{split}"
        self._splits[split] = topics

        kept = True

        def search() -> pd.DataFrame:
            nonlocal kept
            kept = False
            self.searched.add((name, split))
            if self.tell is not None:
                numbered = f", trial {trial + 1}" if self.trials(name) > 1 else ""
                self.tell(name, f"searching {len(topics):,} {split} queries{numbered}")
            return self._timed(system.transformer, topics, name)

        if (name, split) in self.unanswered:
            raise SystemFailedError(f"it builds on {name!r}, which failed: {self.unanswered[name, split]}")
        with self._failing(self.unanswered, (name, split)):
            found = self._stored(file, key, search)
        if self._kept_parts and kept:  # otherwise the search that reads it included its time
            self._kept_parts[-1] = _added(self._kept_parts[-1], found.attrs.get(SECONDS))
        self.seconds[name, split, trial] = found.attrs.get(SECONDS)
        return found[["qid", "docno", "score", "rank"]].merge(topics, on="qid", how="left")

    def _timed(self, transformer: pt.Transformer, topics: pd.DataFrame, name: str) -> pd.DataFrame:
        """Search, and record the seconds it took, plus those of the stored results it is made from."""
        self._before_search()
        started = time.perf_counter()
        if callable(ready := getattr(transformer, "ready", None)):
            ready()
            self._building += time.perf_counter() - started
        self._kept_parts.append(0.0)
        started = time.perf_counter() - self._building  # a part that is searched for the first time may build its own
        try:
            found = self.answer(transformer, topics, name)
        finally:
            parts = self._kept_parts.pop()
        own = None if isinstance(transformer, KeptResults) else time.perf_counter() - self._building - started
        found.attrs[SECONDS] = _added(own, parts)
        return found

    def _stored(self, file: str, key: str, search: Callable[[], pd.DataFrame]) -> pd.DataFrame:
        return self.store.results(file, key, search)

    def stem(self, name: str, trial: int) -> str:
        """Return the prefix of the names of a trial's files."""
        return file_name(name, trial if self.trials(name) > 1 else None)

    def runs(self, name: str) -> list[pd.DataFrame]:
        """Return a system's results for the split of the tables, one frame per trial."""
        return [self.results(name, self.split, trial) for trial in range(self.trials(name))]

    def num_labels(self, name: str) -> int | None:
        """Return the maximum number of judged queries that a trial of a system used; None if unknown."""
        counts = [None if trial.labels is None else len(trial.labels) for trial in self._prepared(name)]
        return None if None in counts else max(count or 0 for count in counts)

    def answer(self, transformer: pt.Transformer, topics: pd.DataFrame, name: str) -> pd.DataFrame:
        """Search, and check the results.

        Raises:
            ValueError: A column is missing, a score is not finite, a document occurs twice for a query, or results
                are for other queries.
        """
        self._before_search()
        found = transformer.transform(topics)
        if not isinstance(found, pd.DataFrame):
            raise ValueError(f"{name} returned {type(found).__name__}, expected a frame of results")  # noqa: TRY004
        if missing := [column for column in ("qid", "docno", "score") if column not in found]:
            raise ValueError(
                f"{name} returned {', '.join(map(str, found.columns)) or 'no columns'}, expected qid, docno and score: "
                f"{', '.join(missing)} is missing"
            )
        found = found[["qid", "docno", "score"]].astype({"qid": str, "docno": str, "score": float})
        if strangers := sorted(set(found["qid"]) - set(topics["qid"])):
            raise ValueError(f"{name} returned results for queries that were not asked, such as qid {strangers[0]!r}")
        if not np.isfinite(found["score"]).all():
            qid = found.loc[~np.isfinite(found["score"]), "qid"].iloc[0]
            raise ValueError(f"{name} returned a score that is not finite for qid {qid!r}")
        twice = found.duplicated(["qid", "docno"])
        if twice.any():
            qid, docno = found.loc[twice, ["qid", "docno"]].iloc[0]
            raise ValueError(f"{name} returned document {docno!r} twice for qid {qid!r}")
        if self.collection.ignore_identical_ids:
            found = without_identical_ids(found)
        ordered = found.sort_values(["qid", "score", "docno"], ascending=[True, False, True], ignore_index=True)
        ranked = ordered.assign(rank=ordered.groupby("qid").cumcount())
        return ranked[ranked["rank"] < self.num_results].reset_index(drop=True)

    def _before_search(self) -> None:
        if self.before_search is not None:
            try:
                self.before_search()
            except ValueError as error:
                raise UnusableCollectionError(str(error)) from error
            self.before_search = None

    def _prepared(self, name: str) -> tuple[Prepared, ...]:
        if name in self.failed:
            raise SystemFailedError(f"it builds on {name!r}, which failed: {self.failed[name]}")
        if name not in self._ready:
            with self._failing(self.failed, name):
                self._ready[name] = tuple(self.systems[name].prepare(self))
        return self._ready[name]

    @contextmanager
    def _failing(self, reasons: dict[Key, str], key: Key) -> Iterator[None]:
        """Store why a system failed, for systems that build on it."""
        try:
            yield
        except Exception as error:
            reasons.setdefault(key, reason_of(error))
            raise

    def split_of(self, topics: pd.DataFrame) -> str | None:
        """Return the split, among those searched, that has exactly these topics."""
        return next((split for split, known in self._splits.items() if topics.equals(known)), None)


def _added(one: float | None, other: float | None) -> float | None:
    return None if one is None or other is None else one + other


class KeptStage(pt.Transformer):
    """A system of the experiment as a pipeline stage that answers the topics of a split from stored results.

    Args:
        bench: The bench with the results.
        name: Name of the system.
        trial: Number of the trial.
    """

    schematic: ClassVar = labelled("KeptStage")

    def __init__(self, bench: ExperimentBench, name: str, trial: int) -> None:
        self.bench = bench
        self.name = name
        self.trial = trial

    def transform(self, inp: pd.DataFrame) -> pd.DataFrame:
        """Return ``qid``, ``query``, ``docno``, ``score`` and ``rank``."""
        bench = self.bench
        asked = inp[["qid", "query"]].reset_index(drop=True)
        if (split := bench.split_of(asked)) is not None:
            return bench.results(self.name, split, self.trial)
        found = bench.answer(bench._prepared(self.name)[self.trial].transformer, asked, self.name)
        return found.merge(asked, on="qid")


@contextmanager
def blamed(name: str) -> Iterator[None]:
    """Add the system's name to errors, except if the hub cannot be reached, which is reported in the system's row."""
    try:
        yield
    except (FileNotFoundError, ValueError) as error:
        raise ValueError(f"systems.{name}: {error}") from error
    except RuntimeError:
        logger.debug("systems.%s", name, exc_info=True)


def reason_of(error: Exception) -> str:
    """Return why a system failed, for its row; an unclear message gets the name of its error class."""
    expected = isinstance(error, (ValueError, RuntimeError, OSError, ImportError)) and str(error)
    return str(error) if expected else f"{type(error).__name__}: {error}"
