"""The folder of one run: its spec, the files it made, and TREC runs with notes on how they were made."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pandas as pd

from pyterrier_merge.collections.reading.runs import read_kept_run, write_run
from pyterrier_merge.experiment.bench import SECONDS, UnusableStoreError
from pyterrier_merge.experiment.environment import environment
from pyterrier_merge.storage import user_path, write_file

MANIFEST = "manifest.json"
SPEC = "spec.json"


def require_alone(folder: Path, used: Collection[Path]) -> None:
    """Raise ``FileExistsError`` if an earlier run would remain next to a new one that has other folders."""
    if others := _others(folder, used):
        raise FileExistsError(
            f"{others[0]} holds the run of other collections; choose another folder (--out), or say --overwrite, which "
            "deletes it"
        )


def make_way(folder: Path, used: Collection[Path]) -> None:
    """Delete the earlier runs that would remain next to a new one that has other folders."""
    for other in _others(folder, used):
        run = RunFolder(other, {}, overwrite=True)
        with run.writing():
            run.remove()


def _others(folder: Path, used: Collection[Path]) -> list[Path]:
    """Folders of runs that are not used: ``folder`` itself, for one collection, or those of several within it."""
    inner = [file.parent for file in folder.glob(f"*/{SPEC}") if len(_read_json(file).get("collection", ())) > 1]
    found = [*([folder] if (folder / SPEC).is_file() else []), *sorted(inner)]
    return [path for path in found if path not in used]


class RunFolder:
    """A folder that belongs to one spec and stores each TREC run with a note on how it was made.

    ``manifest.json`` lists the files that experiments wrote. Other files in the folder, such as a reader's notes, are
    never touched.

    Attributes:
        path: The folder.
        spec: What is run, as JSON writes it.
    """

    def __init__(self, path: str | Path, spec: dict[str, Any], *, overwrite: bool = False) -> None:
        """Use the folder for a spec; the spec is written into it with the first results.

        Args:
            path: The folder, created if it is missing.
            spec: What is run, as JSON writes it.
            overwrite: Use a folder that belongs to another spec; its runs are kept if they are still valid.

        Raises:
            FileExistsError: The folder belongs to another spec and ``overwrite`` is false, or it is a file.
        """
        self.path = user_path(path)
        if self.path.exists() and not self.path.is_dir():
            raise FileExistsError(f"{self.path} is a file: name a folder for the run (--out)")
        self._own: set[str] = set()
        self.spec = spec
        found = _read_json(self.path / SPEC)
        if found and found != spec and not overwrite:
            differing = [name for name in {**spec, **found} if found.get(name) != spec.get(name)]
            raise FileExistsError(
                f"{self.path} holds the run of another spec (it differs in {', '.join(differing)}); choose another "
                "folder (--out), or say --overwrite: what is still right is used again"
            )

    def require_writable(self) -> None:
        """Raise ``OSError`` if no file can be created in the folder; a missing folder is not created."""
        nearest = next(path for path in (self.path.absolute(), *self.path.absolute().parents) if path.exists())
        with self.writing(), tempfile.TemporaryFile(dir=nearest):
            pass

    @contextmanager
    def writing(self) -> Iterator[None]:
        """Add the folder's name to errors of writing into it."""
        try:
            yield
        except OSError as error:
            reason = error.strerror or error
            advice = "make room there, or name another folder (--out)"
            raise UnusableStoreError(f"cannot write into the run folder {self.path}: {reason}; {advice}") from error

    def results(self, name: str, key: str, search: Callable[[], pd.DataFrame]) -> pd.DataFrame:
        """Return the results of a system: those stored under the same key, else those of ``search``, which are stored.

        Args:
            name: Name of the file, ``runs/<name>.res.gz``; ``runs/<name>.json`` records how it was made.
            key: A fingerprint of everything that the results depend on.
            search: Returns the results.

        Returns:
            Columns ``qid``, ``docno``, ``rank`` (from 0) and ``score``.

        Raises:
            OSError: The folder cannot be written to.
            ValueError: A qid or docno is empty or contains white space.
            RuntimeError: The stored results are damaged.
        """
        file, note = self.file(f"runs/{name}.res.gz"), self.file(f"runs/{name}.json")
        results = None if self._holds(name, key) else search()
        with self.writing():
            self.claim()
            if results is not None:
                self.note()
                self._keep(name, key, results)
        return _read_kept(file, note)

    def _keep(self, name: str, key: str, results: pd.DataFrame) -> None:
        file, note = (self.path / f"runs/{name}{ending}" for ending in (".res.gz", ".json"))
        file.parent.mkdir(parents=True, exist_ok=True)
        note.unlink(missing_ok=True)  # until the new note is written, the file is invalid
        beside = file.with_name(f".{os.getpid()}.{file.name}")
        try:
            write_run(results, beside, name)
            beside.replace(file)
        finally:
            beside.unlink(missing_ok=True)
        about = {"key": key, "results": len(results), SECONDS: results.attrs.get(SECONDS), **environment()}
        write_file(note, json.dumps(about, indent=2) + "\n")

    def kept(self, name: str, key: str) -> pd.DataFrame | None:
        """Return the results stored under the key, without writing anything; None if there are none."""
        if not self._holds(name, key):
            return None
        return _read_kept(self.path / f"runs/{name}.res.gz", self.path / f"runs/{name}.json")

    def _holds(self, name: str, key: str) -> bool:
        file, note = (self.path / f"runs/{name}{ending}" for ending in (".res.gz", ".json"))
        return file.is_file() and _read_json(note).get("key") == key

    def file(self, name: str) -> Path:
        """Return the path for a file of this run, and record it for the manifest."""
        self._own.add(name)
        return self.path / name

    def note(self) -> None:
        """Write the manifest with all files made so far."""
        self._note(set(self._made()) | self._own)

    def finish(self, *, whole: bool = True) -> None:
        """Delete files that an earlier run made and this one did not, and write the manifest.

        Args:
            whole: All systems of the spec were searched; otherwise stored runs of the other systems are kept.
        """
        stale = {name for name in set(self._made()) - self._own if whole or not name.startswith("runs/")}
        kept = set(self._made()) - stale
        self._delete(stale)
        self._note(self._own | kept)

    def claim(self) -> None:
        """Write the spec if it is missing: a run that fails before its first results does not claim the folder.

        Deletes the tables of the previous spec, which would otherwise remain next to this one's until it ends.
        """
        file = self.path / SPEC
        if _read_json(file) != self.spec:
            self._delete({name for name in self._made() if not name.startswith("runs/")})
            write_file(file, json.dumps(self.spec, indent=2) + "\n")

    def remove(self) -> None:
        """Delete everything that experiments made here."""
        self._delete({*self._made(), SPEC, MANIFEST})
        for folder in (self.path / "runs", self.path):
            if folder.is_dir() and not any(folder.iterdir()):
                folder.rmdir()

    def _note(self, files: set[str]) -> None:
        write_file(self.path / MANIFEST, json.dumps({"files": sorted(files)}, indent=1) + "\n")

    def _made(self) -> list[str]:
        return list(_read_json(self.path / MANIFEST).get("files", ()))

    def _delete(self, names: set[str]) -> None:
        for name in names:
            (self.path / name).unlink(missing_ok=True)


def _read_kept(file: Path, note: Path) -> pd.DataFrame:
    about = _read_json(note)
    results = read_kept_run(file, about.get("results"))
    results.attrs[SECONDS] = about.get(SECONDS)
    return results


def _read_json(file: Path) -> dict[str, Any]:
    try:
        return dict(json.loads(file.read_text(encoding="utf-8"))) if file.is_file() else {}
    except (ValueError, TypeError) as error:
        raise RuntimeError(f"{file} is damaged: delete it to make its results again") from error
