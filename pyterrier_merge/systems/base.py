"""The base classes of systems, which an experiment compares."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

import pandas as pd
import pyterrier as pt
from pydantic import BaseModel, ConfigDict

if TYPE_CHECKING:
    from ir_measures.measures import Measure

    from pyterrier_merge.collections.base import TestCollection
    from pyterrier_merge.encoding.encoders import E5Encoder
    from pyterrier_merge.executor import Executor

Figure = Callable[[Path], Any]  # writes a plot; the file's suffix gives the format
Found = TypeVar("Found")
_NOTHING: Mapping[str, Any] = MappingProxyType({})


@dataclass(frozen=True, kw_only=True)
class Prepared:
    """A system that is ready to answer topics.

    Attributes:
        transformer: From topics (``qid``, ``query``) to results (``qid``, ``docno``, ``score``).
        identity: Changes when the results change: part of the key of a stored run.
        encoder: The encoder of a dense system, which can also score other systems' results.
        label: A few words after the system's name in tables, such as the chosen alphas.
        labels: The queries whose judgements it used for training or choosing (see ``used_labels``); None if unknown.
        line: Systems with the same line differ in the labels that they used; the plot of figures against labels joins
            them.
        notes: Notes for the report, one sentence each.
        tables: Further tables of the report, by name (``tensors``, ``sweep``).
        figures: Further plots of the report, by name.
    """

    transformer: pt.Transformer
    identity: str
    encoder: E5Encoder | None = None
    label: str = ""
    labels: frozenset[str] | None = frozenset()
    line: str = ""
    notes: tuple[str, ...] = ()
    tables: Mapping[str, pd.DataFrame] = field(default_factory=lambda: _NOTHING)
    figures: Mapping[str, Figure] = field(default_factory=lambda: _NOTHING)

    def __post_init__(self) -> None:
        if self.labels is not None and not isinstance(self.labels, frozenset):
            raise ValueError(
                "labels of a prepared system is a frozenset with the names of judged queries, or None if unknown; "
                f"found {self.labels!r}"
            )


class Bench(Protocol):
    """The interface of an experiment for its systems."""

    @property
    def collection(self) -> TestCollection:
        """The collection to search."""

    @property
    def split(self) -> str:
        """The split that tables are computed on; nothing is chosen on its queries."""

    @property
    def measures(self) -> Sequence[Measure]:
        """The measures; systems choose by the first one."""

    @property
    def num_results(self) -> int:
        """Results for each query."""

    @property
    def executor(self) -> Executor:
        """The executor of work items."""

    @property
    def verbose(self) -> bool | None:
        """Whether to show progress bars; in terminals and notebooks when None."""

    def trials(self, name: str) -> int:
        """Return how many trials (seeds) another system has."""

    def by_folds(self, name: str) -> bool:
        """Return whether another system answers only the table's queries; see :meth:`System.by_folds`."""

    def prepared(self, name: str, trial: int = 0) -> Prepared:
        """Return another system; its transformer answers from stored results if there are any."""

    def results(self, name: str, split: str, trial: int = 0) -> pd.DataFrame:
        """Return another system's results: ``qid``, ``query``, ``docno``, ``score`` and ``rank`` (from 0)."""

    def on(self, collection: str | None) -> Bench:
        """Return the bench of another collection of the same experiment, by its label; this one for None."""


@dataclass(frozen=True, kw_only=True)
class Step:
    """A piece of work whose result is stored.

    Attributes:
        what: Description, the same for all steps in one row of the plan.
        kept: Whether it is already done; None if unknown.
        searching: It is needed only by a search, not if results are stored.
        encoder: Makes the vectors, and is not loaded; None if nothing is encoded.
        documents: Number of documents that it encodes; None if unknown.
        at_most: Whether fewer may be enough.
        over: Key of the encoded texts: vectors of equal encoders over the same key are made once. Empty if it is not
            known yet which merge will encode.
        stored: Whether the vectors are written to disk.
    """

    what: str
    kept: bool | None = None
    searching: bool = False
    encoder: E5Encoder | None = None
    documents: int | None = 0
    at_most: bool = False
    over: str = ""
    stored: bool = True


class PlanningBench(Bench, Protocol):
    """A bench that does not train, encode or download; steps that need this raise ``RuntimeError``."""

    @property
    def documents(self) -> int | None:
        """Number of documents of the collection; None if it is unknown before the download."""

    def num_trials(self, name: str) -> int:
        """Return how many trials another system will have."""

    def queries(self, split: str) -> int | None:
        """Return the number of a split's queries; None if it is unknown before the download."""

    def judged_documents(self, split: str) -> int | None:
        """Return the number of judged documents of a split; None if it is unknown before the download."""

    def if_cheap(self, look: Callable[[], Found], *models: str, reads_all: bool = False) -> Found | None:
        """Return the result of ``look``, which may fingerprint and load models.

        Args:
            look: The function to call.
            models: The models that it loads.
            reads_all: Whether it reads the text of every document.

        Returns:
            None if data or models are not on this machine, or are too large for a plan.
        """

    def steps(self, name: str) -> tuple[Step, ...]:
        """Return the plan of another system."""

    def on(self, collection: str | None) -> PlanningBench:
        """Return the bench of another collection of the same experiment; this one for None."""


class Section(BaseModel):
    """A part of an experiment's file: validated, frozen, unknown fields are rejected."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class System(Section, ABC):
    """One entry under ``systems:`` of an experiment's file.

    A subclass is a *kind* of system. It declares its needs, checks them before any work, and prepares itself.
    """

    def models(self) -> tuple[str, ...]:
        """Return the models that it names: they are looked up before any work, so that typos fail early."""
        return ()

    def uses(self) -> tuple[str, ...]:
        """Return the names of the systems that it builds on."""
        return ()

    def num_trials(self, of: Callable[[str], int]) -> int:  # noqa: ARG002 (of every kind)
        """Return its number of trials, from the fields alone.

        Args:
            of: Gives the number of another system's trials.

        Raises:
            ValueError: The numbers of the systems that it builds on do not go together.
        """
        return 1

    def by_folds(self, of: Callable[[str], bool]) -> bool:
        """Return whether it answers only the table's queries, because each fold of them has a merge of its own.

        Args:
            of: Says so of another system.
        """
        return any(map(of, self.uses()))

    def check(self, bench: Bench) -> None:
        """Raise ``ValueError`` for errors that would otherwise appear after hours, such as a missing split."""

    def plan(self, bench: PlanningBench) -> Sequence[Step]:  # noqa: ARG002 (of every kind)
        """Return its long steps besides searching, without training, encoding or downloading anything."""
        return ()

    @abstractmethod
    def prepare(self, bench: Bench) -> Sequence[Prepared]:
        """Return one ready system for each trial (seed); resumes interrupted training, choosing and indexing.

        Raises:
            ValueError: The system cannot be prepared as specified; the message is the reason in the report.
        """


def index_step(bench: PlanningBench, encoder: E5Encoder, *, over: str | None = None) -> Step:
    """Return the step that indexes the whole collection."""
    over = bench.collection.name if over is None else over
    return Step(what="index", searching=True, encoder=encoder, documents=bench.documents, over=over)


def all_trials(bench: Bench, name: str) -> tuple[str, list[Prepared]]:
    """Return another system's name and its trials."""
    return name, [bench.prepared(name, trial) for trial in range(bench.trials(name))]


def all_labels(parts: Iterable[Prepared]) -> frozenset[str] | None:
    """Return the queries whose judgements any of several systems used; None if unknown for one of them."""
    found = [part.labels for part in parts]
    return None if None in found else frozenset[str]().union(*(labels for labels in found if labels))


def most_trials(counts: Sequence[tuple[str, int]]) -> int:
    """Return the number of trials of a system that builds on others, from the name and the number of each.

    Raises:
        ValueError: They differ; a system with one trial takes part in all of another's.
    """
    most = max(count for _, count in counts)
    if any(count not in (1, most) for _, count in counts):
        found = ", ".join(f"{name} {count}" for name, count in counts)
        raise ValueError(f"numbers of trials differ ({found}): use the same number of seeds or samples, or one")
    return most


def shared_trials(systems: Sequence[tuple[str, Sequence[Prepared]]]) -> list[list[Prepared]]:
    """Return the systems of each trial of a system that builds on them.

    Args:
        systems: The name and the trials of each.

    Raises:
        ValueError: They have different numbers of trials; a system with one trial takes part in all of another's.
    """
    most = most_trials([(name, len(trials)) for name, trials in systems])
    return [[trials[min(trial, len(trials) - 1)] for _, trials in systems] for trial in range(most)]
