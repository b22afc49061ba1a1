"""Choosing a LoRA system's number of steps: on dev queries, by cross-validation, or given for each trial."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

from ir_measures.measures import Measure
from pydantic import AfterValidator, Field, model_validator

from pyterrier_merge.evaluation import check_measure, judged, parsed_measure, require_attainable
from pyterrier_merge.systems.base import Bench, Section
from pyterrier_merge.systems.choosing import require_other_queries
from pyterrier_merge.systems.pool import PoolSection
from pyterrier_merge.systems.settings import Positive

if TYPE_CHECKING:
    from pyterrier_merge.collections.base import TestCollection
    from pyterrier_merge.training.training_pairs import TrainingPairs

MEASURED = 100  # results per query for measuring a step


class StepsSection(Section):
    """How the number of steps is chosen. One of ``split``, ``folds`` and ``steps`` is given.

    Attributes:
        split: Measure every ``evaluate_every`` steps on the queries of this split, which are not trained on, and keep
            the best state; ``patience`` of ``train`` stops early. Their judgements count as labels.
        folds: Cross-validation within the sample: train on all folds but one and measure on that one every
            ``evaluate_every`` steps, average the curves, then train on the whole sample up to the best step. If that is
            step 0, the system is the source.
        steps: The number of steps of each trial, chosen before; they replace ``steps`` of ``train``.
        pool: Measure on a pool instead of the whole collection; all documents are encoded at every measurement. For
            folds, the pool is made from all queries of the sample.
        metric: The measure for the choice; the experiment's first measure when left out.
    """

    split: str | None = None
    folds: Annotated[int, Field(ge=2)] | None = None
    steps: tuple[Positive, ...] | None = None
    pool: PoolSection | None = None
    metric: Annotated[str, AfterValidator(lambda text: str(parsed_measure(text)))] | None = None

    @model_validator(mode="after")
    def _one_way(self) -> StepsSection:
        ways = [name for name in ("split", "folds", "steps") if getattr(self, name) is not None]
        if len(ways) != 1:
            raise ValueError(f"choose by one of 'split', 'folds' and 'steps'; found {' and '.join(ways) or 'none'}")
        if self.steps is not None and (self.pool or self.metric):
            raise ValueError("steps are given, so nothing is measured: leave 'pool' and 'metric' out")
        return self

    def measure(self, bench: Bench) -> Measure:
        """Return the measure for the choice."""
        return bench.measures[0] if self.metric is None else parsed_measure(self.metric)

    def check(self, bench: Bench, split: str, samples: list[TrainingPairs]) -> None:
        """Raise ``ValueError`` for errors that would otherwise appear after the trainings.

        Args:
            bench: The table's bench.
            split: The split that is trained on.
            samples: The training data of each trial.
        """
        if self.steps is not None:
            if len(self.steps) != len(samples):
                raise ValueError(
                    f"choose.steps: {len(self.steps)} numbers for {len(samples)} trials: give one for each"
                )
            return
        if self.folds is not None:
            from pyterrier_merge.training.fold_queries import split_into_folds

            for sample in samples:
                split_into_folds(sample, self.folds)
        if self.split is not None:
            if self.split == split:
                raise ValueError(
                    f"choose.split: {split!r} is trained on, so the best step would be chosen on training queries: "
                    "give another split, or choose by folds"
                )
            require_other_queries(bench, self.split, "choose.split")
        chosen_on = self.split or split
        if self.pool is not None:
            self.pool.check(bench, chosen_on)
        _, qrels = judged(bench.collection.topics(chosen_on), bench.collection.qrels(chosen_on))
        check_measure(self.measure(bench), MEASURED)
        require_attainable(self.measure(bench), qrels)

    def documents(self, bench: Bench, asked: TestCollection, split: str) -> TestCollection:
        """Return the documents and queries that steps are measured on."""
        return asked if self.pool is None else self.pool.documents(bench, asked, split)
