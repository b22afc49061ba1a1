"""Checkpoints of a training: resuming after an interruption, and a folder that one training uses at a time."""

from __future__ import annotations

import fcntl
import json
import logging
import math
import os
import shutil
import zipfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from pyterrier_merge.training.processes import agreed, is_main, meet

logger = logging.getLogger(__name__)

WEIGHTS, STATE = "trained.safetensors", "trainer_state.json"
_NEEDED = (WEIGHTS, "optimizer.pt", "scheduler.pt", "rng_state*.pth", STATE)
_IDENTITY = "identity"


class DivergedError(RuntimeError):
    """A loss or a weight is not finite, and there is no measured state to return to."""


@dataclass(frozen=True, kw_only=True)
class Checkpoints:
    """The checkpoints that an interrupted training resumes from.

    Attributes:
        folder: Folder for checkpoints only; all other files in it may be deleted.
        identity: Fingerprint of the training; checkpoints of other trainings are deleted.
        every: Steps between checkpoints; a tenth of the training when None, but at most 200.
    """

    folder: Path
    identity: str
    every: int | None = None

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Wait for other trainings in this folder, lock it against new ones, and delete it at the end.

        After an error, the folder is kept if the next training can resume from it. Processes that train one model
        together share the folder.
        """
        handle = self._locked() if is_main() else None
        try:
            meet()
            yield
            meet()
            self._delete()
        except DivergedError:
            self._delete()
            raise
        except BaseException:
            if not any(self.folder.rglob("checkpoint-*")):
                self._delete()
            raise
        finally:
            if handle is not None:
                os.close(handle)

    def last(self) -> Path | None:
        """Return the last complete checkpoint of this training, if any; delete the files of other trainings."""
        return agreed(self._last() if is_main() else None)

    def best(self, step: int) -> Path:
        """Return the file for the state of a step that is the best so far."""
        return self.folder / f"best-{step}.safetensors"

    def keep_best(self, step: int) -> None:
        """Delete the saved states of other steps."""
        for other in self.folder.glob("best-*.safetensors"):
            if other != self.best(step):
                other.unlink()

    @contextmanager
    def writing(self, step: int) -> Iterator[None]:
        """Raise ``OSError`` if the state of a step cannot be written, and delete its incomplete checkpoint.

        safetensors and torch raise their own errors when a disk is full.
        """
        try:
            yield
        except (OSError, SafetensorError, RuntimeError) as error:
            shutil.rmtree(self.folder / f"checkpoint-{step}", ignore_errors=True)
            raise OSError(
                f"the checkpoint of step {step} could not be written into {self.folder} (is the disk full?): {error}; "
                "make room and start the same training again: it resumes from the previous checkpoint"
            ) from error

    def _locked(self) -> int:
        """Return a locked handle of the folder; wait if another process has locked it."""
        while True:
            self.folder.mkdir(parents=True, exist_ok=True)
            handle = os.open(self.folder, os.O_RDONLY)
            try:
                _lock(handle, self.folder)
                with suppress(FileNotFoundError):  # the previous training has deleted it
                    if os.path.samestat(os.fstat(handle), self.folder.stat()):
                        return handle
            except BaseException:
                os.close(handle)
                raise
            os.close(handle)

    def _delete(self) -> None:
        if is_main():
            shutil.rmtree(self.folder, ignore_errors=True)

    def _last(self) -> Path | None:
        identity = self.folder / _IDENTITY
        if not identity.is_file() or identity.read_text(encoding="utf-8") != self.identity:
            for path in self.folder.iterdir():
                shutil.rmtree(path) if path.is_dir() else path.unlink()
            identity.write_text(self.identity, encoding="utf-8")
        for checkpoint in sorted(self.folder.glob("checkpoint-*"), key=step_of, reverse=True):
            lacking = self._lacking(checkpoint)
            if not lacking:
                logger.info("resuming from %s", checkpoint)
                return checkpoint
            logger.warning("%s lacks a complete %s: it is skipped", checkpoint, ", ".join(lacking))
            shutil.rmtree(checkpoint)
        return None

    def _lacking(self, checkpoint: Path) -> list[str]:
        """Return the names of the files that a checkpoint lacks or that are incomplete."""
        lacking = [name for name in _NEEDED if not _whole(checkpoint, name)]
        if not lacking:
            step, _ = best_of(json.loads((checkpoint / STATE).read_text(encoding="utf-8"))["log_history"])
            if step >= 0 and not _whole(self.folder, self.best(step).name):
                lacking.append(self.best(step).name)
        return lacking


def best_of(history: Sequence[dict[str, Any]]) -> tuple[int, float]:
    """Return step and value of the best measurement (the first of equal ones); -1 and -inf without measurements."""
    measured = [(int(entry["step"]), entry["dev"]) for entry in history if "dev" in entry]
    return max(measured, key=lambda pair: (pair[1], -pair[0]), default=(-1, -math.inf))


def step_of(checkpoint: Path) -> int:
    """Return the step after which a checkpoint was written."""
    return int(checkpoint.name.rpartition("-")[2])


def _lock(handle: int, folder: Path) -> None:
    with suppress(OSError):  # some file systems have no locks
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            logger.warning("another process trains in %s: waiting for it", folder)
            fcntl.flock(handle, fcntl.LOCK_EX)


def _whole(checkpoint: Path, name: str) -> bool:
    """Return whether a checkpoint has a complete file; a kill or a full disk may truncate files."""
    for file in checkpoint.glob(name):
        try:
            if file.suffix == ".json":
                json.loads(file.read_text(encoding="utf-8"))
            elif file.suffix == ".safetensors":
                with safe_open(file, framework="pt"):
                    pass
            elif not zipfile.is_zipfile(file):
                return False
        except (ValueError, SafetensorError):
            return False
        return True
    return False
