"""``pyterrier-merge check``: can these two models be merged?"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from pyterrier_merge.cli.console import reported_errors

_FIGURES = (".png", ".pdf", ".svg")


def check(
    source: Annotated[str, typer.Argument(help="The retrieval model: a folder, package:NAME/FOLDER, or a hub id.")],
    domain: Annotated[str, typer.Argument(help="The domain model to merge into it, named in the same way.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print the report as JSON.")] = False,
    plot: Annotated[
        Path | None, typer.Option(help="Draw the distances layer by layer into this file (.png, .pdf, .svg).")
    ] = None,
    distances: Annotated[
        bool, typer.Option("--distances/--no-distances", help="Read the weights and measure how far apart they are.")
    ] = True,
    quiet: Annotated[bool, typer.Option("--quiet", help="No progress bar.")] = False,
) -> None:
    """Report whether two models can be merged, and what differs. Exit status 2: they cannot be merged."""
    with reported_errors():
        from pyterrier_merge.storage import user_path

        if plot is not None:
            plot = user_path(plot)
            _require_figure(plot, distances)
        from pyterrier_merge.merging.compatibility import check_compatible
        from pyterrier_merge.models import locate_model

        folders = [locate_model(name) for name in (source, domain)]
        try:
            report = check_compatible(*folders, verbose=False if quiet else None)
        except ValueError as error:  # quantised, damaged, of an architecture without a stack of layers
            typer.secho(f"cannot be merged: {error}", fg="red", err=True)
            raise typer.Exit(2) from error
        typer.echo(
            json.dumps(report.to_dict(distances=distances), indent=2, ensure_ascii=False)
            if as_json
            else report.text(distances=distances).rstrip()
        )
        mergeable = report.verdict(distances=distances).mergeable
        if plot is not None and mergeable:
            from pyterrier_merge.merging.distance_plot import distance_plot

            distance_plot(report, plot)
        elif plot is not None:
            typer.secho(f"no plot in {plot}: the distances of models that cannot be merged are not measured", err=True)
    if not mergeable:
        raise typer.Exit(2)


def _require_figure(plot: Path, distances: bool) -> None:
    if not distances:
        raise ValueError("--plot draws the distances: leave --no-distances out")
    if plot.suffix not in _FIGURES:
        raise ValueError(f"--plot takes a file that ends in {', '.join(_FIGURES)}; found {plot}")
    if not plot.resolve().parent.is_dir():
        raise FileNotFoundError(f"--plot: there is no folder {plot.resolve().parent}")
