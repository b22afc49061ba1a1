"""``pyterrier-merge train-domain``: trains a domain model on a collection's documents."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from pyterrier_merge.advice import in_settings
from pyterrier_merge.cli.console import reported_errors
from pyterrier_merge.cli.training import (
    STOPPED,
    DeviceOption,
    OverwriteOption,
    QuietOption,
    SetOption,
    read_collection,
    read_settings,
    tell_trained,
)


def train_domain(
    base: Annotated[str, typer.Argument(help="The model to train further: a folder, package:NAME/FOLDER, a hub id.")],
    collection: Annotated[str, typer.Argument(help="The collection to learn from: its name, or a folder.")],
    out: Annotated[Path, typer.Argument(help="The folder to write.")],
    objective: Annotated[
        str, typer.Option(help="masked (encoders), causal (decoders) or known-items (retrieval models).")
    ] = "masked",
    settings: SetOption = None,
    device: DeviceOption = None,
    overwrite: OverwriteOption = False,
    quiet: QuietOption = False,
) -> None:
    """Train a domain model on a collection's documents, without labels; resumes a stopped training."""
    with reported_errors(in_settings, stopped=STOPPED):
        from pyterrier_merge.spelling import did_you_mean
        from pyterrier_merge.storage import user_path
        from pyterrier_merge.training.domain import train_domain_model
        from pyterrier_merge.training.settings import OBJECTIVES

        if objective not in OBJECTIVES:
            raise ValueError(f"--objective {objective}: {did_you_mean(objective, OBJECTIVES, 'choose one of')}")
        told = read_settings(OBJECTIVES[objective], settings or ())
        folder = train_domain_model(
            read_collection(collection), base, user_path(out),
            settings=told, device=device, overwrite=overwrite, verbose=False if quiet else None,
        )  # fmt: skip
        tell_trained(folder)
