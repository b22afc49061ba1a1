"""The command line: ``pyterrier-merge``."""

from __future__ import annotations

from typing import Annotated

import typer

from pyterrier_merge.cli.cache import cache
from pyterrier_merge.cli.check import check
from pyterrier_merge.cli.collections import collections
from pyterrier_merge.cli.merge import merge
from pyterrier_merge.cli.run import run
from pyterrier_merge.cli.sweep import sweep
from pyterrier_merge.cli.train_domain import train_domain
from pyterrier_merge.cli.train_lora import train_lora
from pyterrier_merge.version import __version__

__all__ = ["app"]

app = typer.Typer(no_args_is_help=True)
for command in (run, sweep, check, merge, train_lora, train_domain, collections, cache):
    app.command()(command)


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"pyterrier-merge {__version__}")
        raise typer.Exit


@app.callback()
def main(
    _version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """Domain-specific retrieval by model merging, in PyTerrier.

    Exit status: 0 on success; 1 after a failure, with the reason on standard error; 2 for wrong arguments, and from
    check for models that cannot be merged; 130 after Ctrl-C, 143 after SIGTERM. Progress bars and colours are shown
    only in a terminal.
    """
