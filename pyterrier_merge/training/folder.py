"""The folder that a training makes: finished or not there, and the same training never done twice."""

from __future__ import annotations

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
from pyterrier_merge.storage import finished_folder, refuse_existing
from pyterrier_merge.training.checkpoints import Checkpoints
from pyterrier_merge.training.curve_plot import CURVE
from pyterrier_merge.training.engine import Course
from pyterrier_merge.training.processes import is_main
from pyterrier_merge.version import __version__

logger = logging.getLogger(__name__)

CURVE_STEPS = 20  # steps that one point of the report's loss averages


@dataclass(frozen=True)
class Trained:
    """What a training has made.

    Attributes:
        save: Writes the model into a folder.
        report: What ``training.json`` is to say of it.
        course: How it went.
    """

    save: Callable[[Path], None]
    report: dict[str, Any]
    course: Course


def trained_folder(
    out: Path, identity: str, train: Callable[[Checkpoints], Trained], *, every: int, overwrite: bool
) -> Path:
    """Return the folder of a training, which is done where it is not there yet.

    Args:
        out: The folder to make.
        identity: Fingerprint of all that decides the model.
        train: Trains, going on from checkpoints.
        every: Steps between them.
        overwrite: Replace what exists at ``out``.

    Raises:
        ValueError: ``every`` is below 1, or ``out`` is to be overwritten and is the current folder.
        FileExistsError: Something else stands at ``out`` and ``overwrite`` is false.
    """
    if every < 1:
        raise ValueError(f"checkpoint_every must be at least 1, but is {every}")
    if trained_as(out) == identity:
        logger.info("%s holds this model already", out)
        return out
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
    return out


def _write(out: Path, identity: str, trained: Trained, *, overwrite: bool) -> None:
    report = {"fingerprint": identity} | trained.report | _facts(trained.course)
    try:
        with finished_folder(out, overwrite=overwrite) as building, writing_weights(out):
            with quiet_loading():
                trained.save(building)
            trained.course.curve.to_csv(building / CURVE, index=False)
            (building / TRAINING).write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    except FileExistsError:  # of another host, on a disk without locks
        if trained_as(out) != identity:
            raise


def trained_as(folder: Path) -> str | None:
    """Return the identity of the training that made a folder; None where no training did, or its report is damaged."""
    try:
        return read_training(folder).get("fingerprint")
    except ValueError:
        return None


def one_device(device: str | Sequence[str] | None) -> str:
    """Return the device of a training: ``cpu`` or ``cuda``.

    Raises:
        ValueError: A certain GPU, or several.
    """
    if device is None:
        return default_device()
    if device not in ("cpu", "cuda"):
        raise ValueError(
            f"a training's device is 'cpu' or 'cuda', found {device!r}: set CUDA_VISIBLE_DEVICES to choose a GPU, and "
            "start several processes with accelerate launch for several"
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
