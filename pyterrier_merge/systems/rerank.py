"""Re-ranking: the first results of another system, scored by an encoder."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

import pandas as pd
import pyterrier as pt
from pydantic import BeforeValidator, SerializationInfo, field_serializer

from pyterrier_merge.collections.pool import documents_alone
from pyterrier_merge.fingerprint import fingerprint
from pyterrier_merge.retrieval.dense.pipeline import dense_index
from pyterrier_merge.schematic import labelled
from pyterrier_merge.systems import system_of
from pyterrier_merge.systems.base import (
    Bench,
    PlanningBench,
    Prepared,
    Step,
    System,
    all_labels,
    all_trials,
    most_trials,
    shared_trials,
)
from pyterrier_merge.systems.choosing import require_not_by_folds
from pyterrier_merge.systems.settings import EncoderSettings, Positive

if TYPE_CHECKING:
    from pyterrier_merge.encoding.encoders import E5Encoder


def _named_or_section(given: Any) -> Any:
    if isinstance(given, str):
        return given
    found = system_of(given)
    if not isinstance(found, EncoderSettings):
        raise ValueError(  # noqa: TRY004 (pydantic's)
            f"a system of kind {getattr(found, 'kind', None)} has no encoder; give one of kind encoder, merged or lora"
        )
    return found


class RerankSystem(System):
    """Scores the first results of one system by the vectors of an encoder.

    Attributes:
        first: Name of the first stage.
        by: The scorer: the name of a system of kind ``encoder`` or ``merged``, whose index of the whole collection is
            used; or a section of such a kind, which encodes and stores only the results of the first stage, for
            collections that are too large to encode.
        depth: Number of results of the first stage that are scored; the others are dropped. All when left out.
    """

    kind: Literal["rerank"] = "rerank"
    first: str
    by: Annotated[str | System, BeforeValidator(_named_or_section)]
    depth: Positive | None = None

    @field_serializer("by")
    def _by_as_written(self, by: str | System, info: SerializationInfo) -> Any:
        """Write ``by`` directly: pydantic tries a system as text first, and warns about sections with several forms."""
        return by if isinstance(by, str) else by.model_dump(mode=info.mode)

    def models(self) -> tuple[str, ...]:
        """Return the models of its own encoder."""
        return () if isinstance(self.by, str) else self.by.models()

    def uses(self) -> tuple[str, ...]:
        """Return the first stage, and the encoder's system or the systems that it builds on."""
        return (self.first, *((self.by,) if isinstance(self.by, str) else self.by.uses()))

    def num_trials(self, of: Callable[[str], int]) -> int:
        """Return the number of trials of the first stage and of the encoder."""
        by = (self.by, of(self.by)) if isinstance(self.by, str) else ("by", self.by.num_trials(of))
        return most_trials([(self.first, of(self.first)), by])

    def check(self, bench: Bench) -> None:
        """Check the depth, and its own encoder."""
        if self._depth(bench) > bench.num_results:
            raise ValueError(
                f"depth: {self.depth} results are to be scored, and systems have {bench.num_results} "
                f"(num_results); give a depth of {bench.num_results} or less"
            )
        if isinstance(self.by, str):
            require_not_by_folds(bench, [self.by], "by")
        elif self.by.by_folds(bench.by_folds):
            raise ValueError("by: alphas that are chosen by folds give no single encoder: choose them on other queries")
        else:
            self.by.check(bench)

    def plan(self, bench: PlanningBench) -> list[Step]:
        """Return the step that builds the encoder's index, or encodes the first results."""
        if isinstance(self.by, str):
            return [step for step in bench.steps(self.by) if step.searching]
        queries = bench.queries(bench.split)
        bounds = [bench.documents, None if queries is None else self._depth(bench) * queries]
        ranked = min((bound for bound in bounds if bound is not None), default=None)
        found = []
        for step in self.by.plan(bench):
            first = replace(step, what="vectors of the first results", documents=ranked, at_most=True, over="")
            found.append(first if step.searching else step)
        return found

    def _depth(self, bench: Bench) -> int:
        return bench.num_results if self.depth is None else self.depth

    def prepare(self, bench: Bench) -> list[Prepared]:
        """Return one pipeline for each trial; documents are encoded at the first query."""
        by = all_trials(bench, self.by) if isinstance(self.by, str) else ("by", self.by.prepare(bench))
        trials = shared_trials([all_trials(bench, self.first), by])
        return [self._prepared(bench, first, encoder) for first, encoder in trials]

    def _prepared(self, bench: Bench, first: Prepared, by: Prepared) -> Prepared:
        named = isinstance(self.by, str)
        if by.encoder is None:
            what = repr(self.by) if named else f"a system of kind {getattr(self.by, 'kind', None)}"
            raise ValueError(
                f"by: the encoder of {what} is not known; give a system of kind encoder or merged, which compare takes "
                "from read_system({'kind': 'encoder', 'model': ...})"
            )
        whose = f"the vectors of {self.by}" if named else "vectors of its own"
        depth = self._depth(bench)
        note = f"The first {depth} results of {self.first}, scored by {whose}."
        known = Prepared(transformer=by.transformer, identity=by.identity) if named else by  # it has its own row
        return replace(
            known,
            transformer=Rerank(first.transformer, by.encoder, bench, depth=depth, whole=named),
            identity=fingerprint(["rerank", first.identity, by.identity, depth]),
            encoder=None,
            labels=all_labels([first, by]),
            notes=(note, *known.notes),
        )


class Rerank(pt.Transformer):
    """Scores the first results of a stage.

    Args:
        first: The first stage, from topics to results.
        encoder: The encoder of queries and documents.
        bench: The bench with the collection.
        depth: Number of results of the first stage that are scored.
        whole: Use the index of the whole collection; otherwise an index of only the results.
    """

    schematic: ClassVar = labelled("Rerank")

    def __init__(self, first: pt.Transformer, encoder: E5Encoder, bench: Bench, *, depth: int, whole: bool) -> None:
        self.first = first
        self.encoder = encoder
        self.bench = bench
        self.depth = depth
        self.whole = whole
        self._loaded: E5Encoder | None = None

    def ready(self) -> None:
        """Build the index of the whole collection if it is used and missing, with the model of the search."""
        if self.whole:
            self._loaded = copy.copy(self.encoder)
            dense_index(self._loaded, self.bench.collection, verbose=self.bench.verbose)

    def transform(self, inp: pd.DataFrame) -> pd.DataFrame:
        """Return ``qid``, ``query``, ``docno``, ``score`` and ``rank``."""
        found, encoder = self.first.transform(inp), self._loaded or copy.copy(self.encoder)
        self._loaded = None  # a copy releases its weights after this call
        asked = found.loc[found["rank"] < self.depth, ["qid", "query", "docno"]].reset_index(drop=True)
        if asked.empty:
            return asked.assign(score=0.0, rank=0)
        collection = self.bench.collection
        if not self.whole:
            collection = documents_alone(collection, set(asked["docno"]))
        index = dense_index(encoder, collection, verbose=self.bench.verbose)
        scored: pd.DataFrame = (encoder.query_encoder() >> index.scorer(drop_query_vec=True)).transform(asked)
        return scored
