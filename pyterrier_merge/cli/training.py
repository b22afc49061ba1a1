"""Shared parts of the training commands: collections, settings, and the report of a training."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeVar

import typer

from pyterrier_merge.cli.assignments import read_assignments
from pyterrier_merge.spelling import did_you_mean

if TYPE_CHECKING:
    from pyterrier_merge.collections.base import TestCollection
    from pyterrier_merge.training.settings import TrainingSettings

    Settings = TypeVar("Settings", bound=TrainingSettings)

SetOption = Annotated[
    list[str] | None, typer.Option("--set", metavar="NAME=VALUE", help="A setting, such as steps=200. Repeatable.")
]
DeviceOption = Annotated[str | None, typer.Option(help="cpu or cuda; a GPU if there is one.")]
OverwriteOption = Annotated[bool, typer.Option("--overwrite", help="Replace another training in OUT.")]
QuietOption = Annotated[bool, typer.Option("--quiet", help="No progress bar.")]

STOPPED = "the last checkpoint is kept beside OUT; give the same command again to go on from it"


def read_collection(name: str) -> TestCollection:
    """Return the collection of that name, or the one in that folder."""
    from pyterrier_merge.collections import get_collection
    from pyterrier_merge.storage import user_path

    folder = user_path(name)
    return get_collection("local", path=folder) if folder.is_dir() else get_collection(name)


def read_settings(kind: type[Settings], texts: Sequence[str]) -> Settings:
    """Make settings from ``NAME=VALUE``; commas separate the items of a list.

    Raises:
        ValueError: An unknown name, or a value that does not fit.
    """
    from pydantic import ValidationError

    given = read_assignments("--set", texts, "rank=8")
    names = [name for name in kind.model_fields if name != "objective"]
    if unknown := [name for name in given if name not in names]:
        raise ValueError(f"--set {unknown[0]}: no such setting; {did_you_mean(unknown[0], names)}")
    if isinstance(targets := given.get("target_modules"), str):
        given["target_modules"] = targets.split(",")
    try:
        return kind(**given)
    except ValidationError as error:
        first = error.errors()[0]
        name = "".join(f"{part}: " for part in first["loc"][:1])
        message = first["msg"].removeprefix("Value error, ")
        found = f", found {first['input']!r}" if name else ""
        raise ValueError(f"--set {name}{message}{found}") from error


def tell_trained(folder: Path) -> None:
    """Print the folder of a trained model, and a summary of its training."""
    from pyterrier_merge.models.files import read_training
    from pyterrier_merge.training.curve_plot import CURVE
    from pyterrier_merge.training.processes import is_main

    if not is_main():
        return
    report = read_training(folder)
    loss = report["loss"]
    went = f"loss {loss[0]:.3f} -> {loss[-1]:.3f}, " if loss else ""
    typer.echo(f"model: {folder}  ({went}{report['seconds']:.0f} s of steps; {CURVE} has each)")
    if report.get("best_step") is not None:
        typer.echo(f"best: step {report['best_step']} by {report['dev']}")
    if report.get("diverged_at") is not None:
        typer.echo(f"diverged at step {report['diverged_at']}: lower --set learning_rate=...")
