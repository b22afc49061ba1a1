"""Output that all commands share: tables, one-line errors, and no log messages of other libraries."""

from __future__ import annotations

import json
import logging
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pyterrier_merge.cli.stopping import stoppable

if TYPE_CHECKING:
    import pandas as pd
    from rich.console import Console

logger = logging.getLogger(__name__)

AsJson = Annotated[bool, typer.Option("--json", help="Print the result as JSON; other output goes to standard error.")]

_ANY_WIDTH = 10_000  # columns of text, more than any table needs


@contextmanager
def reported_errors(
    reworded: Callable[[str], str] = str, *, stopped: str = "nothing was written; give the same command again"
) -> Iterator[None]:
    """Print errors that a user can correct without a traceback, and exit with status 1.

    Ctrl-C exits with status 130, SIGTERM with 143.

    Args:
        reworded: Rewrites arguments in errors and warnings in this command's form.
        stopped: The state after Ctrl-C, and how to continue.
    """
    warnings.filterwarnings("ignore", category=DeprecationWarning)
    warnings.filterwarnings("ignore", category=FutureWarning)
    shown = logging.StreamHandler()
    shown.setFormatter(_Reworded(reworded))
    logging.basicConfig(level=logging.WARNING, handlers=[shown])
    try:
        with stoppable(stopped):
            yield
    except typer.Exit:  # a subclass of RuntimeError
        raise
    except (ValueError, OSError, RuntimeError, ImportError) as error:
        logger.debug("the command failed", exc_info=True)
        typer.secho(reworded(f"error: {error}"), fg="red", err=True)
        raise typer.Exit(1) from error


class _Reworded(logging.Formatter):
    def __init__(self, reworded: Callable[[str], str]) -> None:
        super().__init__("%(levelname)s %(name)s: %(message)s")
        self._reworded = reworded

    def format(self, record: logging.LogRecord) -> str:
        return self._reworded(super().format(record))


def print_json(result: Any) -> None:
    """Print a result to standard output; frames become lists of rows."""
    typer.echo(json.dumps(result, indent=1, ensure_ascii=False, default=_rows))


def _rows(frame: pd.DataFrame) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = json.loads(frame.to_json(orient="records", double_precision=15))  # NaN becomes null
    return rows


def print_table(console: Console, title: str, table: pd.DataFrame) -> None:
    """Print a whole table under its title, numbers right-aligned; the terminal wraps a table that is too wide."""
    from rich.markup import escape
    from rich.table import Table

    console.print(f"\n{escape(title)}", highlight=False)
    shown = Table()
    for number, column in enumerate(table.columns):
        shown.add_column(escape(str(column)), justify="right" if number else "left", no_wrap=True)
    for row in table.itertuples(index=False):
        shown.add_row(*(escape(str(value)) for value in row))
    shown.width = console.measure(shown, options=console.options.update(width=_ANY_WIDTH)).maximum
    console.print(shown, crop=False)  # cropping would cut off figures and marks
