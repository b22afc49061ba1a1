"""What all commands show alike: tables, errors of one line, and no library's remarks about itself."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import typer

if TYPE_CHECKING:
    import pandas as pd
    from rich.console import Console

logger = logging.getLogger(__name__)

_ANY_WIDTH = 10_000  # columns of text that no table needs


@contextmanager
def reported_errors() -> Iterator[None]:
    """Print what a user can mend as an error, without a traceback, and leave with exit status 1."""
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(name)s: %(message)s")
    warnings.filterwarnings("ignore", category=DeprecationWarning)
    warnings.filterwarnings("ignore", category=FutureWarning)
    try:
        yield
    except typer.Exit:  # which is a RuntimeError
        raise
    except (ValueError, OSError, RuntimeError, ImportError) as error:
        logger.debug("the command failed", exc_info=True)
        typer.secho(f"error: {error}".replace("overwrite=True", "--overwrite"), fg="red", err=True)
        raise typer.Exit(1) from error


def print_table(console: Console, title: str, table: pd.DataFrame) -> None:
    """Print a table under its title, numbers to the right, whole: one that is too wide is wrapped by the terminal."""
    from rich.markup import escape
    from rich.table import Table

    console.print(f"\n{escape(title)}", highlight=False)
    shown = Table()
    for number, column in enumerate(table.columns):
        shown.add_column(escape(str(column)), justify="right" if number else "left", no_wrap=True)
    for row in table.itertuples(index=False):
        shown.add_row(*(escape(str(value)) for value in row))
    shown.width = console.measure(shown, options=console.options.update(width=_ANY_WIDTH)).maximum
    console.print(shown, crop=False)  # in the console's width figures and marks would be cut off
