"""The bench of a plan: it reads the current state, and does not train, encode, download or write."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TypeVar

import pandas as pd

from pyterrier_merge.collections.catalogue import FACTS
from pyterrier_merge.experiment.bench import ExperimentBench, Key, blamed
from pyterrier_merge.experiment.run_folder import RunFolder
from pyterrier_merge.experiment.system_names import file_name
from pyterrier_merge.models.facts import ModelFacts, model_facts
from pyterrier_merge.retrieval.dense.pipeline import index_of
from pyterrier_merge.storage import in_bytes
from pyterrier_merge.systems.base import Prepared, Step, index_step

FAILURES = (ValueError, RuntimeError, OSError, ImportError)
SMALL_MODEL = 1_500_000_000  # maximum bytes of weights that a plan loads, which takes seconds
FEW_DOCUMENTS = 500_000  # maximum number of documents whose texts a plan reads
Found = TypeVar("Found")


class NotKeptError(RuntimeError):
    """A result does not exist yet, and a plan does not create it."""


@dataclass
class PlanBench(ExperimentBench):
    """Implements :class:`~pyterrier_merge.systems.base.PlanningBench`.

    Attributes:
        store: The run folder, which is only read.
        unknown: Why facts are unknown, each reason once, in order of occurrence.
    """

    store: RunFolder

    def __post_init__(self) -> None:
        super().__post_init__()
        self.unknown: dict[str, None] = {}
        self._steps: dict[str, tuple[Step, ...]] = {}
        self._facts: dict[str, ModelFacts] = {}

    @property
    def here(self) -> bool:
        """Whether all data of the collection are on this machine."""
        return self.collection.missing_bytes == 0

    @property
    def documents(self) -> int | None:
        """Number of documents: counted, or from the catalogue if they are not on this machine."""
        if self.here:
            return self.collection.num_docs
        facts = FACTS.get(self.collection.name)
        return None if facts is None or self.collection.judged_pool else facts.documents

    def queries(self, split: str) -> int | None:
        """Return the number of a split's queries: counted, or from the catalogue."""
        if self.here:
            return len(self.collection.topics(split))
        facts = FACTS.get(self.collection.name)
        return facts.queries.get(split) if facts else None

    def judged_documents(self, split: str) -> int | None:
        """Return the number of judged documents of a split; None if the data are not on this machine."""
        return self.collection.qrels(split)["docno"].nunique() if self.here else None

    def facts(self, model: str) -> ModelFacts:
        """Return the facts about a model, without loading it."""
        if model not in self._facts:
            self._facts[model] = model_facts(model)
        return self._facts[model]

    def check(self) -> None:
        """Check as much as possible without downloading data."""
        if all(self.on(name).here for name in (None, *self.siblings)):
            super().check()
        else:
            for name in self.systems:
                self.check_models(name)

    def check_models(self, name: str) -> None:
        """Raise ``ValueError`` if a system's model that is not on the hub cannot be found."""
        with blamed(name):
            for model in self.systems[name].models():
                self.facts(model)

    def if_cheap(self, look: Callable[[], Found], *models: str, reads_all: bool = False) -> Found | None:
        """Return the result of ``look``; None if data or models are not on this machine or too large for a plan."""
        if (reason := self._too_much(models, reads_all)) is None:
            try:
                return look()
            except FAILURES as error:
                reason = str(error)
        self.unknown[reason] = None
        return None

    def steps(self, name: str) -> tuple[Step, ...]:
        """Return a system's steps, with the index it searches if loading alone can prepare the system."""
        planned = self._planned(name)
        try:
            encoders = [prepared.encoder for prepared in self._prepared(name) if prepared.encoder is not None]
        except FAILURES:
            return planned
        if not encoders:
            return planned
        indexes = [(encoder, index_of(encoder, self.collection).built()) for encoder in encoders]
        before = [step for step in planned if not step.searching]
        return (*before, *(replace(index_step(self, encoder), kept=built) for encoder, built in indexes))

    def kept(self, name: str) -> bool | None:
        """Whether the results of a system are stored; None if unknown."""
        runs = self.store.path / "runs"
        if not any((runs / f"{file_name(name, trial)}.{self.split}.json").is_file() for trial in (None, 0)):
            return False
        try:
            return bool(self.runs(name))
        except FAILURES:
            return False if self.ready(name) else None

    def ready(self, name: str) -> bool:
        """Whether stored results and small models are enough to prepare a system."""
        system = self.systems[name]
        done = all(step.kept for step in self._planned(name) if not step.searching)
        cheap = self.if_cheap(lambda: True, *system.models())
        return done and bool(cheap) and all(map(self.ready, system.uses()))

    def _prepared(self, name: str) -> tuple[Prepared, ...]:
        if not self.ready(name):
            raise NotKeptError(f"what is made of the results of {name}, which are not known yet")
        return super()._prepared(name)

    def _stored(self, file: str, key: str, search: Callable[[], pd.DataFrame]) -> pd.DataFrame:  # noqa: ARG002
        if (found := self.store.kept(file, key)) is None:
            raise NotKeptError(f"what is made of the results {file}, which are not kept yet")
        return found

    @contextmanager
    def _failing(self, reasons: dict[Key, str], key: Key) -> Iterator[None]:
        """A missing result is not a failure."""
        try:
            with super()._failing(reasons, key):
                yield
        except NotKeptError:
            reasons.pop(key, None)
            raise

    def _planned(self, name: str) -> tuple[Step, ...]:
        if name not in self._steps:
            self._steps[name] = tuple(self.systems[name].plan(self))
        return self._steps[name]

    def _too_much(self, models: Sequence[str], reads_all: bool) -> str | None:
        """Why a plan does not read data and models; None if it does."""
        if not self.here:
            return f"what is kept of work on {self.collection.name}, whose data are not on this machine yet"
        if reads_all and self.collection.num_docs > FEW_DOCUMENTS:
            return f"what depends on the texts of {self.collection.num_docs:,} documents, which a plan does not read"
        for model, facts in ((model, self.facts(model)) for model in models):
            if not facts.loadable:
                return f"what is kept of {model}, before it is downloaded, converted or merged with its adapter"
            if (facts.stored_bytes or 0) > SMALL_MODEL:
                return f"what is kept of {model}, before it is loaded ({in_bytes(facts.stored_bytes)})"
        return None
