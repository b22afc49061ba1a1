"""``pyterrier-merge run``: an experiment from a file."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pyterrier_merge.advice import in_fields
from pyterrier_merge.cli.console import print_table, reported_errors

if TYPE_CHECKING:
    import pandas as pd

_STOPPED = (
    "finished steps are kept (searches in the run folder; in the cache indexes up to their last shard, training up to "
    "its last checkpoint, each pair of alphas); give the same command again to go on"
)


def run(
    spec: Annotated[Path, typer.Argument(help="A YAML file, such as experiments/demo.yaml.")],
    out: Annotated[
        Path | None,
        typer.Option(help="The run folder; runs/NAME when not given. A folder with finished steps is continued."),
    ] = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Take a folder that holds the run of another spec.")
    ] = False,
    quiet: Annotated[bool, typer.Option("--quiet", help="No progress bars.")] = False,
) -> None:
    """Run an experiment: BM25, the source model and its merge, compared with significance tests."""
    from rich.console import Console

    console = Console()
    started = time.monotonic()
    with reported_errors(in_fields, stopped=_STOPPED):
        from pyterrier_merge.experiment.run import run_experiment
        from pyterrier_merge.experiment.spec import read_spec

        experiment = read_spec(spec)
        folder = out or Path("runs") / experiment.name

        def show(title: str, table: pd.DataFrame) -> None:
            print_table(console, f"{title}  [{time.monotonic() - started:.0f} s]", table)

        run_experiment(experiment, folder, overwrite=overwrite, show=show, verbose=not quiet)
    console.print(
        f"report: {folder / 'report.md'}  (figures, tests and TREC runs lie beside it)",
        highlight=False,
    )
