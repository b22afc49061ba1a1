"""The cost of a plan's steps: documents to encode, memory, disk, and time from a rate measured here."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from itertools import islice
from typing import TYPE_CHECKING, Any

import pandas as pd
from more_itertools import chunked

from pyterrier_merge.experiment.planning import PlanBench
from pyterrier_merge.precision import default_device, resolve_dtype
from pyterrier_merge.storage import in_bytes
from pyterrier_merge.systems.base import Step

if TYPE_CHECKING:
    from pyterrier_merge.encoding.encoders import E5Encoder

SAMPLE, SECONDS = 512, 3.0  # maximum documents and seconds for measuring a rate
NOT_KNOWN = "not known"
COLUMNS = ("system", "step", "done", "documents to encode", "memory", "disk", "time")


class Estimates:
    """The work of some systems on one collection; vectors that several systems need count once.

    Attributes:
        table: One row for each system and kind of step.
        documents: Maximum number of documents to encode in total; None if unknown.
        total: Description of the total of all rows.
        seconds: Time for encoding all documents on one worker; None if unknown.
        rates: A sentence for each rate that was measured or given.
    """

    def __init__(self, bench: PlanBench, order: Sequence[str], *, rate: float | None = None) -> None:
        """Compute the estimates.

        Args:
            bench: The bench that gives the steps.
            order: Names of the systems, in the order in which they are prepared.
            rate: Documents per second that a worker encodes; when None, measured if the models are small and on this
                machine.
        """
        self.rates: list[str] = [] if rate is None else [f"Rate: {rate:g} documents a second, as given."]
        self._given = rate
        self._bench = bench
        self._at_most = False
        self._made: dict[Any, str] = {}
        self._measured: dict[E5Encoder, float | None] = {}
        self._sums: list[tuple[int | None, int | None, float | None]] = []
        rows = []
        for name in order:
            kinds: dict[str, list[Step]] = {}
            for step in bench.steps(name):
                kinds.setdefault(step.what, []).append(step)
            rows += [(name, what, *self._cells(name, steps)) for what, steps in kinds.items()]
        self.table = pd.DataFrame(rows, columns=list(COLUMNS))
        self.documents, disk, self.seconds = (_sum(column) for column in zip((0, 0, 0.0), *self._sums, strict=True))
        count = "an unknown number of" if self.documents is None else f"{'at most ' * self._at_most}{self.documents:,}"
        self.total = f"{count} documents to encode, disk {in_bytes(disk)}, time {in_time(self.seconds)}"

    def _cells(self, name: str, steps: Sequence[Step]) -> tuple[str, ...]:
        done = answer([step.kept for step in steps])
        searched = self._bench.kept(name)
        needed = [step for step in steps if not step.kept and not (step.searching and searched)]
        new, elsewhere = self._not_made_before(name, needed)
        encoder = next((step.encoder for step in new if step.encoder), None)
        if encoder is None:
            if any(step.documents is None for step in new):
                self._sums.append((None, None, None))
                return done, *[NOT_KNOWN] * 4
            return done, f"0 (as for {elsewhere})" if elsewhere else "-", "-", "-", "-"
        documents = _sum([step.documents for step in new])
        facts = self._bench.facts(encoder.model)
        stored = _sum([step.documents for step in new if step.stored])
        disk = None if stored is None or not facts.dimension else 4 * facts.dimension * stored
        rate = self._rate(encoder) if documents else None
        seconds = documents / rate if documents is not None and rate else None
        self._sums.append((documents, disk, seconds))
        shown = NOT_KNOWN if documents is None else f"{documents:,}"
        if documents and len(new) > 1:
            shown += f" ({len(new)} x {documents // len(new):,})"
        if documents and any(step.at_most or step.kept is None for step in new):
            shown, self._at_most = f"at most {shown}", True
        return done, shown, self._memory(encoder), in_bytes(disk), in_time(seconds)

    def _not_made_before(self, name: str, steps: Sequence[Step]) -> tuple[list[Step], str]:
        """The steps whose vectors no earlier step makes, and a system that makes the others."""
        new, elsewhere = [], ""
        for step in steps:
            key = (step.encoder, step.over or id(step.encoder)) if step.encoder else id(step)
            if key not in self._made:
                new.append(step)
                self._made[key] = name
            else:
                elsewhere = self._made[key]
        return new, elsewhere

    def _memory(self, encoder: E5Encoder) -> str:
        parameters = self._bench.facts(encoder.model).parameters
        device = encoder.device or default_device()
        itemsize = resolve_dtype(encoder.dtype, device if isinstance(device, str) else device[0]).itemsize
        return in_bytes(parameters and parameters * itemsize)

    def _rate(self, encoder: E5Encoder) -> float | None:
        """Documents per second; a merge is as fast as its source."""
        if self._given is not None:
            return self._given
        from pyterrier_merge.encoding.encoders import E5Encoder

        source = E5Encoder(encoder.model, **encoder.settings())
        if source not in self._measured:
            self._measured[source] = self._bench.if_cheap(lambda: self._measure(source), encoder.model)
        return self._measured[source]

    def _measure(self, encoder: E5Encoder) -> float:
        texts = [doc["text"] for doc in islice(self._bench.collection.corpus_iter(), SAMPLE)]
        encoder.encode_docs(texts[:1])  # loads the model
        started, done = time.monotonic(), 0
        for some in chunked(texts, 64):
            encoder.encode_docs(some)
            done += len(some)
            if (seconds := time.monotonic() - started) > SECONDS:
                break
        rate = done / max(seconds, 1e-6)
        self.rates.append(
            f"Rate: {rate:,.0f} documents a second with {encoder.model}, measured just now on {done} documents of "
            f"{self._bench.collection.name}; those of merges are taken to be that of their source."
        )
        return rate


def answer(kept: Sequence[bool | None]) -> str:
    """Return ``yes``, ``no``, ``4 of 9`` or ``not known``."""
    if None in kept:
        return NOT_KNOWN
    return {len(kept): "yes", 0: "no"}.get(sum(map(bool, kept)), f"{sum(map(bool, kept))} of {len(kept)}")


def _sum(values: Iterable[Any]) -> Any:
    found = list(values)
    return None if None in found else sum(found)


def in_time(seconds: float | None) -> str:
    """Return a time with a unit: ``12 min``."""
    if seconds is None:
        return NOT_KNOWN
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6_000 else f"{seconds / 3_600:.1f} h"
