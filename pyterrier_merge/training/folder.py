"""The output folder of a training: it exists only when complete, and an equal training is not run again."""

from __future__ import annotations

import gc
import json
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from more_itertools import chunked

from pyterrier_merge.models import quiet_loading
from pyterrier_merge.models.files import TRAINING, read_training
from pyterrier_merge.models.weights import writing_weights
from pyterrier_merge.precision import default_device
from pyterrier_merge.storage import finished_folder, is_foreign, refuse_existing
from pyterrier_merge.training.checkpoints import Checkpoints
from pyterrier_merge.training.curve_plot import CURVE
from pyterrier_merge.training.engine import Course
from pyterrier_merge.training.processes import is_main
from pyterrier_merge.version import __version__

logger = logging.getLogger(__name__)

CURVE_STEPS = 20  # steps averaged for each loss in the report


@dataclass(frozen=True)
class Trained:
    """The result of a training, before it is saved.

    Attributes:
        save: Writes the model into a folder.
        report: Fields of ``training.json``.
        course: Curve and best step.
    """

    save: Callable[[Path], None]
    report: dict[str, Any]
    course: Course


def trained_folder(
    out: Path, identity: str, train: Callable[[Checkpoints], Trained], *, every: int | None, overwrite: bool
) -> Path:
    """Run a training, unless its finished folder already exists, and return the folder.

    Args:
        out: Output folder.
        identity: Fingerprint of everything that decides the model.
        train: Trains the model; resumes from the checkpoints.
        every: Steps between checkpoints; a tenth of the training when None, but at most 200.
        overwrite: Replace another training at ``out``.

    Raises:
        ValueError: ``every`` is below 1, or ``out`` is to be overwritten and is the current folder.
        FileExistsError: ``out`` exists with other content and ``overwrite`` is false, or is not a training's folder.
    """
    if every is not None and every < 1:
        raise ValueError(f"checkpoint_every must be at least 1, but is {every}")
    if trained_as(out) == identity:
        logger.info("%s already holds this model", out)
        return out
    if is_foreign(out, TRAINING):
        raise FileExistsError(
            f"{out} does not hold a training ({TRAINING}) and is not overwritten: give another folder"
        )
    if out.exists() and not overwrite:
        raise FileExistsError(
            f"{out} exists and is not the model of this training ({identity}); choose another folder, delete it, or "
            "pass overwrite=True"
        )
    refuse_existing(out, overwrite=overwrite)
    checkpoints = Checkpoints(folder=out.with_name(f".{out.name}.progress"), identity=identity, every=every)
    with checkpoints.alone():
        if trained_as(out) == identity:
            logger.info("another process has trained %s in the meantime", out)
            return out
        trained = train(checkpoints)
        if is_main():
            _write(out, identity, trained, overwrite=overwrite)
    del trained
    gc.collect()  # the trainer's reference cycles hold the model, and memory may hold only one
    return out


def _write(out: Path, identity: str, trained: Trained, *, overwrite: bool) -> None:
    report = {"fingerprint": identity} | trained.report | _facts(trained.course)
    try:
        with finished_folder(out, overwrite=overwrite) as building, writing_weights(out):
            with quiet_loading():
                trained.save(building)
            trained.course.curve.to_csv(building / CURVE, index=False)
            (building / TRAINING).write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    except FileExistsError:  # written by another host, on a file system without locks
        if trained_as(out) != identity:
            raise


def trained_as(folder: Path) -> str | None:
    """Return the identity of the training that made a folder; None without a readable training report."""
    try:
        return read_training(folder).get("fingerprint")
    except ValueError:
        return None


def one_device(device: str | Sequence[str] | None) -> str:
    """Return the device of a training: ``cpu`` or ``cuda``.

    Raises:
        ValueError: The device is a specific GPU, or several GPUs.
    """
    if device is None:
        return default_device()
    if device not in ("cpu", "cuda"):
        raise ValueError(
            f"the device of a training is 'cpu' or 'cuda', found {device!r}: set CUDA_VISIBLE_DEVICES to choose a GPU; "
            "for several GPUs, start several processes with accelerate launch"
        )
    return device


def _facts(course: Course) -> dict[str, Any]:
    steps = course.curve[np.isfinite(course.curve["loss"])]
    return {
        "versions": {
            "pyterrier_merge": __version__,
            "torch": torch.__version__,
            "transformers": transformers.__version__,
        },
        "tokens": int(steps["tokens"].sum()),
        "seconds": round(float(steps["seconds"].sum()), 1),
        "loss": [round(sum(losses) / len(losses), 4) for losses in chunked(steps["loss"], CURVE_STEPS)],
    }
