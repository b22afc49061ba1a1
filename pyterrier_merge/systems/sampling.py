"""Samples of the labelled queries. Equal settings give equal samples in all systems."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, model_validator

from pyterrier_merge.systems.base import Section
from pyterrier_merge.systems.settings import Positive
from pyterrier_merge.training.training_pairs import TrainingPairs


class Sampling(Section):
    """A random sample of the labelled queries, as if the others had no labels.

    A smaller sample is part of a larger one with the same seed and trial. Trial 3 of two systems with the same split,
    seed and size has the same queries.

    Attributes:
        fraction: Share of the queries to use; all when left out.
        queries: Number of queries to use, instead of ``fraction``.
        trials: Number of samples. Each makes one trial of the system; figures are averaged per query over the trials.
        seed: Random seed of the draw.
    """

    fraction: Annotated[float, Field(gt=0, le=1)] | None = None
    queries: Positive | None = None
    trials: Positive | None = None
    seed: Annotated[int, Field(ge=0)] = 0

    @model_validator(mode="after")
    def _one_size(self) -> Sampling:
        if self.fraction is not None and self.queries is not None:
            raise ValueError("give either 'fraction' or 'queries'")
        if self.trials is not None and not self.sampled:
            raise ValueError("'trials' are samples of the queries: set their size with 'fraction' or 'queries'")
        if self.fraction == 1 and (self.trials or 1) > 1:
            raise ValueError("fraction 1 takes all queries, so all trials would be the same: leave 'trials' out")
        return self

    @property
    def sampled(self) -> bool:
        """Whether only some of the queries are used."""
        return self.fraction is not None or self.queries is not None

    def samples(self, pairs: TrainingPairs) -> list[TrainingPairs]:
        """Return the sample of each trial; all pairs without sampling.

        Raises:
            ValueError: A sample would have fewer than two queries, or more queries than there are.
        """
        if not self.sampled:
            return [pairs]
        return [
            pairs.sample(fraction=self.fraction, number=self.queries, trial=trial, seed=self.seed)
            for trial in range(self.trials or 1)
        ]
