"""What a system would do, told before anything is done."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, TypeVar

from pyterrier_merge.systems.base import Bench

if TYPE_CHECKING:
    from pyterrier_merge.encoding.encoders import E5Encoder

Found = TypeVar("Found")


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
    """

    what: str
    kept: bool | None = None
    searching: bool = False
    encoder: E5Encoder | None = None
    documents: int | None = 0
    at_most: bool = False
    over: str = ""


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


def index_step(bench: PlanningBench, encoder: E5Encoder, *, over: str | None = None) -> Step:
    """Return the step that indexes the whole collection."""
    over = bench.collection.name if over is None else over
    return Step(what="index", searching=True, encoder=encoder, documents=bench.documents, over=over)
