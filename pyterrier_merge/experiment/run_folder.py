"""The folder of one run: the spec it belongs to, and TREC runs that are kept with what made them."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pyterrier as pt

from pyterrier_merge.experiment.environment import environment
from pyterrier_merge.experiment.spec import ExperimentSpec
from pyterrier_merge.storage import write_file

_TREC_COLUMNS = ["qid", "iter", "docno", "rank", "score", "name"]


class RunFolder:
    """A folder that belongs to one spec and keeps each TREC run beside a note of what made it.

    Attributes:
        path: The folder.
    """

    def __init__(self, path: str | Path, spec: ExperimentSpec, *, overwrite: bool = False) -> None:
        """Take the folder for a spec; the spec is written into it with the first results.

        Args:
            path: Made where it is missing.
            spec: What is run.
            overwrite: Take a folder that belongs to another spec; its runs stay where they are still right.

        Raises:
            FileExistsError: The folder belongs to another spec and ``overwrite`` is false.
        """
        self.path = Path(path)
        self._spec = wanted = spec.model_dump(mode="json")
        found = _read_json(self.path / "spec.json")
        if found and found != wanted and not overwrite:
            differing = [name for name in wanted if found.get(name) != wanted[name]]
            raise FileExistsError(
                f"{self.path} holds the run of another spec (it differs in {', '.join(differing) or 'its fields'}); "
                "choose another folder (--out), or say --overwrite: what is still right is used again"
            )

    def results(self, name: str, key: str, search: Callable[[], pd.DataFrame]) -> pd.DataFrame:
        """Return the results of a system: those kept under the same key, else those of ``search``, which are then kept.

        Args:
            name: Of the file, ``runs/<name>.res.gz``; ``runs/<name>.json`` says what it was made with.
            key: A fingerprint of all that the results depend on.
            search: Makes the results.

        Returns:
            Columns ``qid``, ``docno``, ``rank`` (from 0), ``score``, ``name``.
        """
        file, note = self.path / "runs" / f"{name}.res.gz", self.path / "runs" / f"{name}.json"
        if not file.is_file() or _read_json(note).get("key") != key:
            results = search()
            self._claim()
            file.parent.mkdir(parents=True, exist_ok=True)
            note.unlink(missing_ok=True)  # from here to the new note the file is nobody's
            beside = file.with_name(f".{os.getpid()}.{file.name}")
            pt.io.write_results(results, str(beside), run_name=name)
            beside.replace(file)
            write_file(note, json.dumps({"key": key, **environment()}, indent=2) + "\n")
        self._claim()  # all results of an overwritten spec may be right for this one
        types: dict[str, Any] = {"qid": str, "docno": str, "rank": int, "score": float}
        kept = pd.read_csv(
            file, sep=" ", names=_TREC_COLUMNS, dtype=types, keep_default_na=False
        )  # "NA" is a docno too
        return kept.drop(columns="iter")

    def _claim(self) -> None:
        """Write the spec where it is not there: a run that fails before its first results takes no folder."""
        file = self.path / "spec.json"
        if _read_json(file) != self._spec:
            write_file(file, json.dumps(self._spec, indent=2) + "\n")


def _read_json(file: Path) -> dict[str, Any]:
    return dict(json.loads(file.read_text(encoding="utf-8"))) if file.is_file() else {}
