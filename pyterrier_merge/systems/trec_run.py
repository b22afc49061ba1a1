"""An existing run file in TREC's format."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import pandas as pd

from pyterrier_merge.fingerprint import fingerprint, fingerprint_rows
from pyterrier_merge.storage import user_path
from pyterrier_merge.systems.base import Bench, PlanningBench, Prepared, Step, System
from pyterrier_merge.systems.given import KeptResults, compared_with_collection


class TrecRunSystem(System):
    """Results from a file: ``qid Q0 docno rank score name`` per line; ``.gz`` and ``.bz2`` are also read.

    The file is checked against the collection: its queries and documents must be the collection's.

    Attributes:
        file: Path of the file.
    """

    kind: Literal["trec_run"] = "trec_run"
    file: Path

    def check(self, bench: Bench) -> None:  # noqa: ARG002 (of every kind)
        """Check that the file exists and can be read."""
        if not user_path(self.file).is_file():
            raise ValueError(f"file: no run file {self.file}")
        self._read()

    def plan(self, bench: PlanningBench) -> list[Step]:
        """Return the step that compares its names with the collection's, which is always repeated."""
        return [Step(what="comparison with the collection", kept=bench.if_cheap(lambda: True, reads_all=True))]

    def prepare(self, bench: Bench) -> list[Prepared]:
        """Read and check the file."""
        run = self._read()
        notes = (f"Run file {self.file.name}.", *compared_with_collection(run, bench, self.file.name))
        identity = fingerprint(["run", fingerprint_rows(run)])  # of what was read: the file may change meanwhile
        return [Prepared(transformer=KeptResults(run), identity=identity, labels=None, notes=notes)]

    def _read(self) -> pd.DataFrame:
        from pyterrier_merge.collections.reading.runs import read_run

        return read_run(user_path(self.file))
