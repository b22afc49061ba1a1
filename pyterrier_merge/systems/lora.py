"""A LoRA adapter on a retrieval model: given, or trained on all labels or on a sample."""

from __future__ import annotations

import copy
import logging
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import model_validator

from pyterrier_merge.collections.some_queries import with_queries
from pyterrier_merge.systems.base import Bench, PlanningBench, Prepared, Step, all_labels, index_step, most_trials
from pyterrier_merge.systems.choosing import (
    asked_again,
    require_not_by_folds,
    require_other_queries,
    require_unasked,
    used_labels,
)
from pyterrier_merge.systems.dense import dense, described
from pyterrier_merge.systems.lora_training import Base, Choice, Training, train_on
from pyterrier_merge.systems.negatives import NegativesSection
from pyterrier_merge.systems.sampling import Sampling
from pyterrier_merge.systems.settings import EncoderSettings, Positive
from pyterrier_merge.systems.steps import StepsSection
from pyterrier_merge.training.pairs import TrainingPairs, pairs_from_collection, pairs_from_tevatron
from pyterrier_merge.training.settings import LoRATraining

if TYPE_CHECKING:
    from pyterrier_merge.encoding.encoders import E5Encoder

logger = logging.getLogger(__name__)


class LoRASystem(Sampling, EncoderSettings):
    """A retrieval model with a LoRA adapter; see :func:`pyterrier_merge.train_lora`.

    It needs ``source`` or ``of``, and either ``adapter`` or ``train``. A trained adapter is stored in the cache. If
    ``of`` is a merge, the merge is saved there too, once for each of its trials with different alphas: 14.5 GB for a
    model of 7B parameters in bfloat16.

    Attributes:
        source: The retrieval model that the adapter is trained on.
        of: Name of a system, a retrieval model or a merge: the adapter is trained on its encoder. Encoder settings
            that are left out here are those of that system.
        adapter: Folder or hub id of an existing adapter.
        train: Train an adapter; ``{}`` uses the defaults.
        split: Train on the judgements of this split.
        pairs: Train on this file of JSON lines in Tevatron's format instead of the collection's judgements.
        min_label: Lowest label of a document that counts as relevant.
        negatives: Draw hard negatives.
        choose: How the number of steps is chosen; when left out, ``steps`` of ``train`` is used.
    """

    kind: Literal["lora"] = "lora"
    source: str | None = None
    of: str | None = None
    adapter: str | None = None
    train: LoRATraining | None = None
    split: str = "train"
    pairs: Path | None = None
    min_label: Positive = 1
    negatives: NegativesSection | None = None
    choose: StepsSection | None = None

    @model_validator(mode="after")
    def _one_way(self) -> LoRASystem:
        if (self.source is None) == (self.of is None):
            raise ValueError("give either 'source', a model, or 'of', the name of a system")
        if (self.adapter is None) == (self.train is None):
            raise ValueError("give either 'adapter', an existing one, or 'train': {} uses the defaults")
        if self.train is None:
            of_training = ("split", "pairs", "min_label", "negatives", "choose", *Sampling.model_fields)
            if named := self._said(of_training):
                raise ValueError(f"the adapter is already trained: leave {', '.join(named)} out, or give 'train'")
            return self
        if self.pairs is not None and self.choose is not None and self.choose.folds is not None:
            raise ValueError("folds are measured on the collection's judgements: leave 'pairs' out, or choose by split")
        if self.pairs is not None and self._said(("split", "min_label")):
            raise ValueError(f"the pairs are in {self.pairs}: leave 'split' and 'min_label' out")
        if self.pairs is not None and self.negatives is not None:
            raise ValueError(f"the negatives are in {self.pairs}, too: leave 'negatives' out")
        if self.negatives is not None and not self.train.negatives:
            raise ValueError("train.negatives is 0, so no hard negative would be used: set the number per query")
        if self.train.negatives and self.negatives is None and self.pairs is None:
            raise ValueError("train.negatives needs 'negatives', with a system: they are drawn from its results")
        stops_early = self.choose is not None and self.choose.split is not None
        if self.train.patience not in (None, LoRATraining.model_fields["patience"].default) and not stops_early:
            raise ValueError("train.patience stops at the best step on other queries: say 'choose', with a split")
        if self.train.stop_at is not None and self.choose is not None:
            raise ValueError("the number of steps is chosen: leave train.stop_at out")
        if self.seed and not self.sampled and self.negatives is None:
            raise ValueError("'seed' is for samples and negatives; the training has its own: train: {seed: ...}")
        return self

    def models(self) -> tuple[str, ...]:
        """Return the source, with the adapter if it already exists."""
        if self.source is None:
            return ()
        return (self.source if self.adapter is None else f"{self.source}+{self.adapter}",)

    def uses(self) -> tuple[str, ...]:
        """Return the system that it is trained on, and the systems that give pools and negatives."""
        pool = self.choose.pool if self.choose else None
        found = [self.of, self.negatives and self.negatives.of, *(pool.of if pool else ())]
        return tuple(dict.fromkeys(name for name in found if name))

    def num_trials(self, of: Callable[[str], int]) -> int:
        """Return the number of samples, or of trials of the system that it is trained on."""
        return most_trials([(self.of, of(self.of)) if self.of else ("source", 1), ("samples", self.trials or 1)])

    def check(self, bench: Bench) -> None:
        """Check the queries for training and choosing: the table's queries must not be among them."""
        if self.of is not None:
            require_not_by_folds(bench, [self.of], "of")
        if self.train is None:
            return
        if self.pairs is None:
            require_other_queries(bench, self.split, "split")
        if self.device is not None:
            from pyterrier_merge.training.folder import one_device

            one_device(self.device)
        if self.negatives is not None:
            self.negatives.check(bench)
        given = self._given_pairs(bench)
        if self.pairs is not None:
            require_unasked(bench, given.queries, "pairs", f"queries in {self.pairs.name}")
        pairs, left_out = self._new_pairs(bench, given)
        if left_out:
            logger.warning("%s", left_out)
        if self.train.negatives and self.negatives is None and pairs.negatives.empty:
            raise ValueError(f"train.negatives is {self.train.negatives}, and {pairs.name} has no negatives")
        samples = self.samples(pairs)
        if self.choose is not None:
            self.choose.check(bench, self.split if self.pairs is None else "", samples)

    def plan(self, bench: PlanningBench) -> list[Step]:
        """Return a step for the training of each trial, and one for its index."""
        if self.train is None:
            return [replace(step, kept=None) for step in self._indexes(bench)]
        folds = f", and {self.choose.folds} for folds" if self.choose and self.choose.folds else ""
        kept: Sequence[bool | None] | None = bench.if_cheap(
            lambda: [training.done() for training in self._trainings(bench)], *self.models()
        )
        made = [
            Step(what=f"training of an adapter{folds}", kept=done)
            for done in kept or [None] * self.num_trials(bench.num_trials)
        ]
        return [*made, *self._indexes(bench)]

    def prepare(self, bench: Bench) -> list[Prepared]:
        """Train adapters that are not cached, and return a ready system for each trial."""
        if self.train is None:
            return [self._given(bench, base) for base in self._bases(bench)]
        trainings = self._trainings(bench)
        if bench.executor.workers > 1:
            train_on(bench.executor, trainings)
        return [self._prepared(bench, training) for training in trainings]

    def _said(self, names: Iterable[str]) -> list[str]:
        """Return the given fields: those that differ from their defaults, because a stored spec has all fields."""
        return [name for name in names if getattr(self, name) != type(self).model_fields[name].default]

    def _indexes(self, bench: PlanningBench) -> list[Step]:
        """Return one index step per trial, with the base's encoder, because the adapter may not exist yet."""
        from pyterrier_merge.encoding.encoders import E5Encoder

        trials = self.num_trials(bench.num_trials)
        if self.source is not None:
            found = [E5Encoder(self.source, **self.encoder_settings(bench))]
        else:
            found = [step.encoder for step in bench.steps(str(self.of)) if step.encoder is not None][-1:]
        if not found:
            return [Step(what="index", searching=True, documents=None)] * trials
        return [index_step(bench, copy.copy(found[0]), over="") for _ in range(trials)]

    def _bases(self, bench: Bench) -> list[Base]:
        """Return the base of each trial's adapter."""
        from pyterrier_merge.encoding.encoders import E5Encoder
        from pyterrier_merge.encoding.merged import MergedE5Encoder

        if self.source is not None:
            return [Base(E5Encoder(self.source, **self.encoder_settings(bench)), described(self.source))]
        name, found = str(self.of), []
        for trial in range(bench.trials(name)):
            below = bench.prepared(name, trial)
            if type(below.encoder) not in (E5Encoder, MergedE5Encoder):
                its = f"a {type(below.encoder).__name__}" if below.encoder else "no encoder"
                raise ValueError(f"of: {name!r} has {its}; an adapter is trained on a retrieval model or on a merge")
            said = f"{name}{f' (trial {trial + 1})' if bench.trials(name) > 1 else ''}"
            found.append(Base(self._with_settings(below.encoder), said, below.labels))
        return found

    def _with_settings(self, encoder: Any) -> E5Encoder:
        """Return the encoder of another system with this section's settings."""
        given = {name: getattr(self, name) for name in self._said(EncoderSettings.model_fields)}
        if not given:
            return encoder
        from pyterrier_merge.encoding.encoders import E5Encoder
        from pyterrier_merge.encoding.merged import MergedE5Encoder

        if isinstance(encoder, MergedE5Encoder):
            return MergedE5Encoder.from_recipe(encoder.recipe, **(encoder.settings() | given))
        return E5Encoder(encoder.model, **(encoder.settings() | given))

    def _given_pairs(self, bench: Bench) -> TrainingPairs:
        if self.pairs is not None:
            return pairs_from_tevatron(self.pairs, bench.collection)
        return pairs_from_collection(bench.collection, self.split, min_label=self.min_label)

    def _new_pairs(self, bench: Bench, pairs: TrainingPairs) -> tuple[TrainingPairs, str]:
        """Return the pairs without queries that are measured or chosen on, and a note on those left out."""
        chosen_on = self.choose.split if self.choose else None
        left_out = []
        for split in (bench.split, chosen_on):
            if split is None or (split == self.split and self.pairs is None):
                continue
            if again := set(asked_again(pairs.queries, bench.collection.topics(split))):
                left_out.append(
                    f"{len(again)} of {len(pairs):,} queries of {pairs.name} also occur in {split}, such as qid "
                    f"{min(again)!r}: they are not trained on."
                )
                pairs = pairs.only([qid for qid in pairs.queries["qid"] if qid not in again])
        return pairs, " ".join(left_out)

    def _trainings(self, bench: Bench) -> list[Training]:
        """Return the training of each trial: trial k of the sample with trial k of the base system."""
        bases = self._bases(bench)
        pairs, left_out = self._new_pairs(bench, self._given_pairs(bench))
        samples = self.samples(pairs)
        trials = most_trials([(self.of or "source", len(bases)), ("samples", len(samples))])
        found = []
        for trial in range(trials):
            number = trial % len(samples)
            notes = [
                f"Trained on {len(samples[number]):,} of {len(pairs):,} queries of {pairs.name}, "
                f"with {len(samples[number].positives):,} relevant texts.",
                *([left_out] if left_out else []),
            ]
            found.append(self._training(bench, bases[trial % len(bases)], samples[number], number, notes))
        return found

    def _training(self, bench: Bench, base: Base, sample: TrainingPairs, number: int, notes: list[str]) -> Training:
        assert self.train is not None  # noqa: S101 (for the type checker)
        if self.negatives is not None:
            used = self.train.negatives
            sample, said = self.negatives.mined(bench, sample, self.split, seed=self.seed, used=used)
            notes.append(said)
        settings, choice = self.train, None
        if self.choose is not None and self.choose.steps is not None:
            settings = settings.model_copy(update={"steps": self.choose.steps[number]})
        elif self.choose is not None:
            choice = self._choice(bench, self.choose, sample)
        return Training(
            base=base,
            sample=sample,
            settings=settings,
            choice=choice,
            notes=tuple(notes),
            name=bench.collection.name,
            verbose=bench.verbose,
        )

    def _choice(self, bench: Bench, section: StepsSection, sample: TrainingPairs) -> Choice:
        asked, split = bench.collection, section.split or self.split
        if section.folds is not None:
            asked = with_queries(asked, split, sample.queries["qid"])
        return Choice(section.documents(bench, asked, split), split, section.measure(bench), section.folds)

    def _given(self, bench: Bench, base: Base) -> Prepared:
        from pyterrier_merge.encoding.lora import LoRAE5Encoder

        adapter = str(self.adapter)
        source = base.on_disk
        encoder = LoRAE5Encoder(source.model, adapter, **source.settings())
        note = f"adapter {Path(adapter).name} as given, on {base.name}."
        return dense(encoder, bench, labels=None, notes=(note,))

    def _prepared(self, bench: Bench, training: Training) -> Prepared:
        from pyterrier_merge.encoding.lora import LoRAE5Encoder

        made = training.run()
        encoder = training.base.encoder
        if made.adapter is not None:
            source = training.base.on_disk
            encoder = LoRAE5Encoder(source.model, made.adapter, **source.settings())
        tables = dict(made.tables)
        if self.sampled:
            tables["sample"] = training.sample.queries[["qid"]]
        return dense(
            encoder,
            bench,
            label=f"({made.steps} steps)",
            labels=self._labels(bench, training),
            line=f"LoRA on {self.of or Path(str(self.source)).name}",
            notes=training.describe(made),
            tables=tables,
            figures={"training": made.draw},
        )

    def _labels(self, bench: Bench, training: Training) -> frozenset[str] | None:
        below = [bench.prepared(name) for name in self.uses() if name != self.of]
        labels = all_labels(below)
        if labels is None or training.base.labels is None:
            return None
        labels |= training.base.labels
        qids = [qid for qid in training.sample.queries["qid"] if qid in training.sample.labels]
        if self.pairs is not None:
            labels |= frozenset(f"{self.pairs.name}/{qid}" for qid in qids)
        else:
            labels |= bench.collection.label_names(self.split, qids)
        if self.choose is not None and self.choose.split is not None:
            labels |= used_labels(bench.collection, self.choose.split)
        return labels
