"""Hard negatives from the results of another system, as part of a section."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

from pydantic import Field, model_validator

from pyterrier_merge.systems.base import Bench, Section
from pyterrier_merge.systems.choosing import require_not_by_folds
from pyterrier_merge.systems.settings import Positive

if TYPE_CHECKING:
    from pyterrier_merge.training.training_pairs import TrainingPairs


class NegativesSection(Section):
    """Hard negatives: results of another system that are not judged relevant.

    Attributes:
        of: Name of the system.
        ranks: First and last rank to draw from, counted from 1.
        margin: Drop candidates that score above ``margin`` times the query's best positive.
        per_query: Negatives to draw for each query; ``negatives`` of ``train`` is their number in a batch.
    """

    of: str
    ranks: tuple[Positive, Positive] = (1, 100)
    margin: Annotated[float, Field(gt=0, le=1)] | None = None
    per_query: Positive = 30

    @model_validator(mode="after")
    def _in_order(self) -> NegativesSection:
        if self.ranks[0] > self.ranks[1]:
            raise ValueError(f"ranks are the first and the last one, such as [1, 100]; found {list(self.ranks)}")
        return self

    def check(self, bench: Bench) -> None:
        """Raise ``ValueError`` if the system's results end before the last rank, or are of other queries."""
        require_not_by_folds(bench, [self.of], "negatives.of")
        if self.ranks[1] > bench.num_results:
            raise ValueError(f"negatives.ranks: rank {self.ranks[1]} is deeper than num_results, {bench.num_results}")

    def mined(
        self, bench: Bench, pairs: TrainingPairs, split: str, *, seed: int, used: int
    ) -> tuple[TrainingPairs, str]:
        """Return pairs with negatives, and a sentence about them with the number of queries that have too few.

        Args:
            bench: The system's bench.
            pairs: The training pairs.
            split: The split of the queries.
            seed: Random seed of the draw.
            used: Number of negatives of a query in a batch.
        """
        found = pairs.with_negatives(
            bench.results(self.of, split),
            bench.collection,
            ranks=self.ranks,
            margin=self.margin,
            per_query=self.per_query,
            seed=seed,
        )
        first, last = self.ranks
        said = f"Hard negatives: {self.per_query} per query, from ranks {first} to {last} of {self.of}"
        if short := found.short_of(self.per_query):
            said += f"; {short} of {len(found)} queries have fewer"
        if short := found.short_of(used):
            said += f", and {short} fewer than the {used} of a batch, in which some are repeated"
        return found, f"{said}."
