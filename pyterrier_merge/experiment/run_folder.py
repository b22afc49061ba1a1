"""The folder of one run: the spec it belongs to, and TREC runs that are kept with what made them."""

from __future__ import annotations

import csv
import gzip
import json
import os
import re
import zlib
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pandas as pd

from pyterrier_merge.experiment.environment import environment
from pyterrier_merge.experiment.spec import ExperimentSpec
from pyterrier_merge.storage import user_path, write_file

_TREC_COLUMNS = ["qid", "iter", "docno", "rank", "score", "name"]
_MADE = (
    "report.md", "results.csv", "per_query.csv", "tests.csv", "sweep.csv", "sweep.png", "tensors.csv",
    "environment.json", "runs/*.res.gz", "runs/*.json",
)  # fmt: skip


def require_plain(kind: str, names: Iterable[str]) -> None:
    """Raise ``ValueError`` where a name cannot stand in a TREC run, whose fields white space ends."""
    for name in names:
        if not name or re.search(r"\s", name):
            raise ValueError(
                f"{kind} {name!r} cannot stand in a TREC run: expected a name without white space; mend the collection"
            )


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
        self.path = user_path(path)
        self._own: set[Path] = set()
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

        Raises:
            ValueError: A qid or docno is empty or holds white space.
            RuntimeError: What was kept is damaged.
        """
        file, note = self.file(f"runs/{name}.res.gz"), self.file(f"runs/{name}.json")
        known = file.is_file() and _read_json(note).get("key") == key
        results = None if known else search()
        self._claim()
        if results is not None:
            file.parent.mkdir(parents=True, exist_ok=True)
            note.unlink(missing_ok=True)  # from here to the new note the file is nobody's
            beside = file.with_name(f".{os.getpid()}.{file.name}")
            _write_run(results.assign(iter="Q0", name=name), beside)
            beside.replace(file)
            write_file(note, json.dumps({"key": key, "results": len(results), **environment()}, indent=2) + "\n")
        return _read_run(file, _read_json(note).get("results"))

    def file(self, name: str) -> Path:
        """Return where this run writes a file of its own, which :meth:`leave_own_files` leaves."""
        self._own.add(self.path / name)
        return self.path / name

    def leave_own_files(self, *, runs: bool = True) -> None:
        """Delete tables, plots and, where ``runs`` is true, TREC runs that an earlier run made and this one did not.

        What experiments do not write, such as a reader's notes, stays.
        """
        for pattern in _MADE:
            if runs or not pattern.startswith("runs/"):
                for file in set(self.path.glob(pattern)) - self._own:
                    file.unlink()

    def _claim(self) -> None:
        """Write the spec where it is not there: a run that fails before its first results takes no folder.

        The tables of the spec before go, for they would stand beside this one's until it ends.
        """
        file = self.path / "spec.json"
        if _read_json(file) != self._spec:
            self.leave_own_files(runs=False)
            write_file(file, json.dumps(self._spec, indent=2) + "\n")


def _write_run(results: pd.DataFrame, file: Path) -> None:
    """Write lines that other tools read: pandas and PyTerrier would put names with quotes between quotes."""
    for kind in ("qid", "docno"):
        require_plain(kind, results[kind].drop_duplicates())
    results[_TREC_COLUMNS].to_csv(file, sep=" ", header=False, index=False, quoting=csv.QUOTE_NONE)


def _read_run(file: Path, count: int | None) -> pd.DataFrame:
    """Read what ``_write_run`` wrote; ``count`` is how many results that were, None where nobody noted it."""
    types: dict[str, Any] = {"qid": str, "docno": str, "rank": int, "score": float}
    plain: dict[str, Any] = {"quoting": csv.QUOTE_NONE, "keep_default_na": False}  # "NA" is a docno too
    mend = "delete it, and the system is searched again"
    try:
        run = pd.read_csv(file, sep=" ", names=_TREC_COLUMNS, dtype=types, **plain).drop(columns="iter")
    except (ValueError, EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise RuntimeError(f"{file} is damaged ({error}): {mend}") from error
    if count not in (None, len(run)):
        raise RuntimeError(f"{file} is damaged ({len(run)} of {count} results are there): {mend}")
    return run


def _read_json(file: Path) -> dict[str, Any]:
    try:
        return dict(json.loads(file.read_text(encoding="utf-8"))) if file.is_file() else {}
    except (ValueError, TypeError) as error:
        raise RuntimeError(f"{file} is damaged: delete it, and what it belongs to is made again") from error
