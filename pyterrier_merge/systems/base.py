"""What a system is: one of the things that an experiment compares."""

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

Figure = Callable[[Path], Any]  # writes a picture; the file's ending says the format
Found = TypeVar("Found")
_NOTHING: Mapping[str, Any] = MappingProxyType({})


@dataclass(frozen=True, kw_only=True)
class Prepared:
    """A system that is ready to answer topics.

    Attributes:
        transformer: From topics (``qid``, ``query``) to results (``qid``, ``docno``, ``score``).
        identity: Changes when the results would: part of the key of a kept run.
        encoder: Of a dense system: scores other systems' results, too.
        label: A few words behind the system's name in tables, such as the alphas that were chosen.
        labels: The queries whose judgements it used, for training or for choosing (see ``used_labels``); None where
            that is not known.
        line: Systems with the same line differ in the labels that they used: they are joined in the plot of figures
            against labels.
        notes: What the report says of it, one sentence each.
        tables: Further tables of the report, by name (``tensors``, ``sweep``).
        figures: Further pictures of the report, by name.
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


class Bench(Protocol):
    """What a system may ask of the experiment that it is part of."""

    @property
    def collection(self) -> TestCollection:
        """What is searched."""

    @property
    def split(self) -> str:
        """The split that tables are computed on: nothing is chosen on its queries."""

    @property
    def measures(self) -> Sequence[Measure]:
        """The measures, the first of which systems choose by."""

    @property
    def num_results(self) -> int:
        """Results for each query."""

    @property
    def executor(self) -> Executor:
        """Where work items are mapped over."""

    @property
    def verbose(self) -> bool | None:
        """Whether to show progress bars; in terminals and notebooks when None."""

    def trials(self, name: str) -> int:
        """Return how many trials (seeds) another system has."""

    def prepared(self, name: str, trial: int = 0) -> Prepared:
        """Return another system; its transformer answers from kept results where there are any."""

    def results(self, name: str, split: str, trial: int = 0) -> pd.DataFrame:
        """Return another system's results: ``qid``, ``query``, ``docno``, ``score`` and ``rank`` (from 0)."""

    def on(self, collection: str | None) -> Bench:
        """Return the bench of another collection of the same experiment, by its label; this one for None."""


@dataclass(frozen=True, kw_only=True)
class Step:
    """A piece of work whose outcome is kept.

    Attributes:
        what: In words, alike for the steps that make one row of the plan.
        kept: Whether it is done already; None where that is not known.
        searching: It is needed by a search alone, so not where results are kept.
        encoder: Makes the vectors, and is not loaded; None where nothing is encoded.
        documents: How many it encodes, None where that is not known.
        at_most: Whether fewer may be enough.
        over: What is encoded: vectors of equal encoders over the same are made once. Empty where it is not known yet
            which merge will encode.
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
    """A bench on which nothing is trained, encoded or fetched; what would need that raises ``RuntimeError``."""

    @property
    def documents(self) -> int | None:
        """Number of documents of the collection; None where it is not known before they are fetched."""

    def queries(self, split: str) -> int | None:
        """Return the number of a split's queries; None where it is not known before they are fetched."""

    def judged_documents(self, split: str) -> int | None:
        """Return the number of documents that are judged for a split; None likewise."""

    def if_cheap(self, look: Callable[[], Found], *models: str, reads_all: bool = False) -> Found | None:
        """Return what ``look`` finds, which may fingerprint and load models.

        Args:
            look: What to do.
            models: What it loads.
            reads_all: It reads the text of every document.

        Returns:
            None where data or models are not here, or are too large for a plan.
        """

    def steps(self, name: str) -> tuple[Step, ...]:
        """Return the plan of another system."""

    def on(self, collection: str | None) -> PlanningBench:
        """Return the bench of another collection of the same experiment; this one for None."""


class Section(BaseModel):
    """A part of an experiment's file: validated, frozen, unknown fields refused."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class System(Section, ABC):
    """One entry under ``systems:`` of an experiment's file.

    A subclass is a *kind* of system. It says what it needs, checks it before any work, and prepares itself.
    """

    def models(self) -> tuple[str, ...]:
        """Return the models that it names: they are looked up before any work, so that a typo costs nothing."""
        return ()

    def uses(self) -> tuple[str, ...]:
        """Return the names of the systems that it builds on."""
        return ()

    def check(self, bench: Bench) -> None:
        """Raise ``ValueError`` for what would otherwise show after hours, such as a split that is missing."""

    def plan(self, bench: PlanningBench) -> Sequence[Step]:  # noqa: ARG002 (of every kind)
        """Return what it would do that takes long, besides searching; nothing is trained, encoded or fetched for it."""
        return ()

    @abstractmethod
    def prepare(self, bench: Bench) -> Sequence[Prepared]:
        """Return one ready system for each trial (seed): train, choose and index here, resumably.

        Raises:
            ValueError: The system cannot be what it was told to be; the message is the reason in the report.
        """


def index_step(bench: PlanningBench, encoder: E5Encoder, *, over: str | None = None) -> Step:
    """Return the step that indexes the whole collection."""
    over = bench.collection.name if over is None else over
    return Step(what="index", searching=True, encoder=encoder, documents=bench.documents, over=over)


def all_trials(bench: Bench, name: str) -> tuple[str, list[Prepared]]:
    """Return another system's name and its trials."""
    return name, [bench.prepared(name, trial) for trial in range(bench.trials(name))]


def all_labels(parts: Iterable[Prepared]) -> frozenset[str] | None:
    """Return the queries whose judgements any of several systems used; None where that is not known of one."""
    found = [part.labels for part in parts]
    return None if None in found else frozenset[str]().union(*(labels for labels in found if labels))


def shared_trials(systems: Sequence[tuple[str, Sequence[Prepared]]]) -> list[list[Prepared]]:
    """Return the systems of each trial of something that is built on them.

    Args:
        systems: The name and the trials of each.

    Raises:
        ValueError: They have different numbers of trials; a system with one trial takes part in all of another's.
    """
    most = max(len(trials) for _, trials in systems)
    if any(len(trials) not in (1, most) for _, trials in systems):
        counts = ", ".join(f"{name} {len(trials)}" for name, trials in systems)
        raise ValueError(f"these systems have different numbers of trials ({counts}): give them as many seeds, or one")
    return [[trials[min(trial, len(trials) - 1)] for _, trials in systems] for trial in range(most)]
