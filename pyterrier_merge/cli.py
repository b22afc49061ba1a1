"""The command line: ``pyterrier-merge``."""

from __future__ import annotations

import logging
import time
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pyterrier_merge.version import __version__

if TYPE_CHECKING:
    import pandas as pd
    from rich.console import Console

app = typer.Typer(
    help="Domain-specific retrieval by model merging, in PyTerrier.", no_args_is_help=True, add_completion=False
)


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"pyterrier-merge {__version__}")
        raise typer.Exit


@app.callback()
def main(
    _version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Print the version and leave.")
    ] = False,
) -> None:
    """Domain-specific retrieval by model merging, in PyTerrier."""


@app.command()
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
    _calm_logging()
    try:
        from pyterrier_merge.experiment.run import run_experiment
        from pyterrier_merge.experiment.spec import read_spec

        experiment = read_spec(spec)
        folder = out or Path("runs") / experiment.name

        def show(title: str, table: pd.DataFrame) -> None:
            _print_table(console, f"{title}  [{time.monotonic() - started:.0f} s]", table)

        run_experiment(experiment, folder, overwrite=overwrite, show=show, verbose=not quiet)
    except (ValueError, OSError, RuntimeError, ImportError) as error:
        logging.getLogger(__name__).debug("the experiment failed", exc_info=True)
        typer.secho(f"error: {error}", fg="red", err=True)
        raise typer.Exit(1) from error
    console.print(
        f"report: {folder / 'report.md'}  (figures, tests, TREC runs and the alpha heat map lie beside it)",
        highlight=False,
    )


def _print_table(console: Console, title: str, table: pd.DataFrame) -> None:
    from rich.markup import escape
    from rich.table import Table

    console.print(f"\n{escape(title)}", highlight=False)
    shown = Table()
    for number, column in enumerate(table.columns):
        shown.add_column(escape(str(column)), justify="right" if number else "left", no_wrap=True)
    for row in table.itertuples(index=False):
        shown.add_row(*(escape(str(value)) for value in row))
    console.print(shown)


def _calm_logging() -> None:
    """Libraries' warnings about themselves do not belong between a user and the table."""
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(name)s: %(message)s")
    warnings.filterwarnings("ignore", category=DeprecationWarning)
    warnings.filterwarnings("ignore", category=FutureWarning)


if __name__ == "__main__":
    app()
