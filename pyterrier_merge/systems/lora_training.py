"""One training of a LoRA system: its data, its settings, and its cache folder."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from pyterrier_merge.fingerprint import fingerprint
from pyterrier_merge.models import fingerprint_model, locate_model
from pyterrier_merge.models.files import TRAINING, read_training
from pyterrier_merge.precision import resolve_dtype
from pyterrier_merge.storage import cache_folder
from pyterrier_merge.training.curve_plot import CURVE, curve_plot

if TYPE_CHECKING:
    from ir_measures.measures import Measure

    from pyterrier_merge.collections.base import TestCollection
    from pyterrier_merge.encoding.encoders import E5Encoder
    from pyterrier_merge.executor import Executor
    from pyterrier_merge.training.settings import LoRATraining
    from pyterrier_merge.training.training_pairs import TrainingPairs

PROCEDURE = 1  # part of every folder's name: increase it if the same section would give another adapter


@dataclass(frozen=True)
class Base:
    """The base of an adapter.

    Attributes:
        encoder: The encoder for searching, of a retrieval model or of a merge.
        name: Description of the base.
        labels: The labels that the base itself used.
    """

    encoder: E5Encoder
    name: str
    labels: frozenset[str] | None = frozenset()

    @cached_property
    def on_disk(self) -> E5Encoder:
        """The encoder with a model on disk; a merge is saved into the cache once."""
        from pyterrier_merge.encoding.encoders import E5Encoder
        from pyterrier_merge.encoding.merged import MergedE5Encoder

        if isinstance(self.encoder, MergedE5Encoder):
            if not self._folder.is_dir():
                copy.copy(self.encoder).save(self._folder)
            return E5Encoder(self._folder, **self.encoder.settings())
        return self.encoder

    @property
    def is_on_disk(self) -> bool:
        """Whether the base needs no saving before a training."""
        from pyterrier_merge.encoding.merged import MergedE5Encoder

        return not isinstance(self.encoder, MergedE5Encoder) or self._folder.is_dir()

    @cached_property
    def _folder(self) -> Path:
        return cache_folder("merges") / copy.copy(self.encoder).fingerprint  # the copy releases the weights


@dataclass(frozen=True)
class Choice:
    """The data for choosing the number of steps.

    Attributes:
        collection: Documents, and the queries of one split: queries outside the sample, or for folds the sample itself.
        split: The split of the queries.
        metric: The measure of the choice.
        folds: Number of folds; None if the queries are not trained on.
    """

    collection: TestCollection
    split: str
    metric: Measure
    folds: int | None

    @property
    def identity(self) -> list[Any]:
        """Everything that decides the choice."""
        from pyterrier_merge.training.dev import dev_identity

        return [*dev_identity(self.collection, self.split, self.metric), self.folds]


@dataclass(frozen=True)
class Made:
    """The result of a training.

    Attributes:
        adapter: Its folder; None if no step was better than the source.
        steps: The number of steps that was used.
        tables: ``training`` (one row per step) and ``folds``.
        measure: Name of the measure; empty if the steps were fixed.
        diverged_at: The step at which the training diverged; the best state before it is used.
    """

    adapter: Path | None
    steps: int
    tables: dict[str, pd.DataFrame]
    measure: str = ""
    diverged_at: int | None = None

    def draw(self, path: Path) -> Any:
        """Draw loss and curves."""
        chosen = self.steps if self.measure else None
        curve, folds = self.tables.get("training"), self.tables.get("folds")
        return curve_plot(curve, path, measure=self.measure, folds=folds, chosen=chosen)

    @property
    def values(self) -> tuple[float, float] | None:
        """The measured values of the source and of the chosen step; None if nothing was measured."""
        if not self.measure:
            return None
        curve = self.tables.get("folds", self.tables.get("training"))
        assert curve is not None  # noqa: S101 (for the type checker)
        column = "mean" if "mean" in curve else "dev"
        values = curve.set_index("step")[column]
        return float(values[0]), float(values[self.steps])


@dataclass(frozen=True, kw_only=True)
class Training:
    """One trial's training, and its cache folder.

    Attributes:
        base: The base of the adapter.
        sample: The training pairs.
        settings: The settings of the training.
        choice: The data for choosing the steps; None if they are fixed.
        notes: Notes on the pairs.
        name: Name of the collection, for the folder.
        verbose: Show progress bars; in terminals and notebooks when None.
    """

    base: Base
    sample: TrainingPairs
    settings: LoRATraining
    choice: Choice | None
    notes: tuple[str, ...]
    name: str
    verbose: bool | None

    @cached_property
    def root(self) -> Path:
        """The folder of adapter and curves. Its name has a fingerprint of everything that decides them."""
        from pyterrier_merge.training import lora
        from pyterrier_merge.training.folder import one_device

        source = self.base.on_disk
        content = [fingerprint_model(locate_model(source.model)), source.contract_settings(), self.sample.fingerprint]
        dtype = resolve_dtype(self.settings.dtype, one_device(source.device))
        chosen = self.choice.identity if self.choice else []
        identity = fingerprint([PROCEDURE, lora.PROCEDURE, *content, self.settings.model_dump(), str(dtype), chosen])
        return cache_folder("adapters") / f"{self.name}-{identity}"

    def done(self) -> bool:
        """Whether nothing is left to train; checks without writing anything."""
        from pyterrier_merge.training.folds import kept_folds

        if not self.base.is_on_disk:
            return False
        if (self.root / "adapter" / TRAINING).is_file():
            return True
        folds = kept_folds(self.root, self.choice.folds) if self.choice and self.choice.folds else None
        return folds is not None and folds.best_step == 0

    def run(self) -> Made:
        """Choose the steps and train; cached results are not computed again."""
        from pyterrier_merge.training.folds import cross_validate
        from pyterrier_merge.training.lora import train_lora

        settings, source, choice = self.settings, self.base.on_disk, self.choice
        tables, measure = dict[str, pd.DataFrame](), str(choice.metric) if choice else ""
        dev: dict[str, Any] = {}
        if choice is not None and choice.folds is not None:
            found = cross_validate(
                source, self.sample, choice.collection, self.root, settings,
                split=choice.split, folds=choice.folds, metric=choice.metric, verbose=self.verbose,
            )  # fmt: skip
            tables["folds"] = found.curve
            if found.best_step == 0:
                return Made(None, 0, tables, measure)
            settings = settings.model_copy(update={"stop_at": found.best_step})
        elif choice is not None:
            dev = {"dev": choice.collection, "split": choice.split, "metric": choice.metric}
        folder = train_lora(source, self.sample, self.root / "adapter", settings, **dev, verbose=self.verbose)
        tables["training"] = pd.read_csv(folder / CURVE)
        report = read_training(folder)
        steps = report.get("best_step")
        if steps is None:
            steps = min(settings.steps, settings.stop_at or settings.steps)
        return Made(folder if steps else None, steps, tables, measure, report.get("diverged_at"))

    def describe(self, made: Made) -> tuple[str, ...]:
        """Return notes for the report, one sentence each."""
        said = ", ".join(f"{name} {value}" for name, value in self.settings.model_dump().items() if value is not None)
        return (f"LoRA on {self.base.name} ({said}).", *self.notes, self._steps(made), *self._divergence(made))

    def _divergence(self, made: Made) -> list[str]:
        if made.diverged_at is not None:
            return [f"The training diverged at step {made.diverged_at}: the best state before it is used."]
        folds = made.tables.get("folds")
        if folds is not None and (last := int(folds["step"].iloc[-1])) < self.settings.steps:
            return [f"The training of a fold diverged after step {last}: later steps are not compared."]
        return []

    def _steps(self, made: Made) -> str:
        if self.choice is None or made.values is None:
            return f"Steps: {made.steps}, as given."
        documents = self.choice.collection
        on = f"{self.choice.folds}-fold cross-validation within the sample"
        if self.choice.folds is None:
            on = f"{len(documents.topics(self.choice.split))} queries of {self.choice.split}"
        on = f"{made.measure} in {on}, {documents.num_docs:,} documents"
        before, after = made.values
        if made.steps == 0:
            return (
                f"Steps: 0, because no step was better than the source ({before:.4f}): {on}. The system is the source."
            )
        return f"Steps: {made.steps} of {self.settings.steps}, chosen by {on}: {after:.4f}, the source {before:.4f}."


def train_on(executor: Executor, trainings: Sequence[Training]) -> None:
    """Run unfinished trainings on an executor. The adapters are then in the cache, where ``run`` finds them."""
    left = [training for training in trainings if not training.done()]
    for training in left:
        _ = training.base.on_disk  # saved once, before several processes need it
    alike = {training.root: training for training in left}  # trials that chose the same merge
    for _ in executor.map(_train, alike.values()):
        pass


def _train(training: Training) -> None:
    training.run()
