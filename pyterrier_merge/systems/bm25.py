"""BM25 over the collection."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field

from pyterrier_merge.systems.base import Bench, PlanningBench, Prepared, Step, System

if TYPE_CHECKING:
    from pyterrier_merge.retrieval.lexical.bm25 import BM25


class BM25System(System):
    """The lexical baseline; see :func:`pyterrier_merge.bm25`.

    Attributes:
        engine: ``pisa`` (no Java) or ``terrier``.
        k1: Saturation of term frequency.
        b: Length normalisation.
    """

    kind: Literal["bm25"] = "bm25"
    engine: Literal["pisa", "terrier"] = "pisa"
    k1: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 1.2
    b: Annotated[float, Field(ge=0, le=1)] = 0.75

    def plan(self, bench: PlanningBench) -> list[Step]:
        """Return the step that builds its index."""
        there = bench.if_cheap(lambda: self._lexical(bench).built())
        return [Step(what=f"{self.engine} index", kept=there, searching=True)]

    def prepare(self, bench: Bench) -> list[Prepared]:
        """Return BM25; its index is built at the first query."""
        lexical = self._lexical(bench)
        note = f"{lexical.name}, k1 {self.k1:g}, b {self.b:g}."
        return [Prepared(transformer=lexical, identity=lexical.fingerprint, notes=(note,))]

    def _lexical(self, bench: Bench) -> BM25:
        from pyterrier_merge.retrieval.lexical.bm25 import BM25

        return BM25(bench.collection, engine=self.engine, k1=self.k1, b=self.b, num_results=bench.num_results)
