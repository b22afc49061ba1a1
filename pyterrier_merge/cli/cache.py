"""``pyterrier-merge cache``: lists the cache, and deletes entries to make room."""

from __future__ import annotations

import sys
import time
from typing import Annotated

import pandas as pd
import typer

from pyterrier_merge.cli.console import AsJson, print_json, print_table, reported_errors

DAY = 24 * 60 * 60  # seconds


def cache(
    kinds: Annotated[
        list[str] | None, typer.Argument(metavar="[KIND]...", help="List each entry of these kinds, such as indexes.")
    ] = None,
    clean: Annotated[bool, typer.Option("--clean", help="Delete the entries of these kinds.")] = False,
    older_than: Annotated[
        float, typer.Option(metavar="DAYS", min=0, help="Only entries that have not changed for this number of days.")
    ] = 0,
    yes: Annotated[bool, typer.Option("--yes", help="Delete without a question.")] = False,
    as_json: AsJson = False,
) -> None:
    """List the cache: indexes, trained models, scores of sweeps. Or delete what is no longer needed.

    Deleted entries are made again when they are needed: indexes by encoding the collection, models by training.
    """
    from rich.console import Console

    with reported_errors():
        from pyterrier_merge.cache_entries import entries, remove
        from pyterrier_merge.storage import cache_folder, in_bytes

        if clean and not kinds:
            raise ValueError("--clean needs the kinds to delete, such as: pyterrier-merge cache indexes --clean")
        console, now = Console(stderr=as_json), time.time()
        found = [entry for entry in entries(*kinds or ()) if now - entry.changed >= older_than * DAY]
        table = pd.DataFrame(
            [(entry.kind, entry.path.name, entry.size, entry.changed) for entry in found],
            columns=["kind", "name", "size", "changed"],
        )
        if not kinds:
            grouped = table.groupby("kind", as_index=False)
            table = grouped.agg(entries=("name", "count"), size=("size", "sum"), changed=("changed", "max"))
        total = in_bytes(int(table["size"].sum()))
        shown = table.assign(
            size=table["size"].map(in_bytes), changed=pd.to_datetime(table["changed"], unit="s").dt.strftime("%Y-%m-%d")
        )
        if as_json:
            print_json(table)
        print_table(console, str(cache_folder()), shown)
        console.print(f"{len(found)} entries, {total}", markup=False, highlight=False)
        if clean and found and (yes or _confirmed(f"Delete these {len(found)} entries ({total})?", err=as_json)):
            for entry in found:
                remove(entry)
            console.print("deleted", markup=False, highlight=False)


def _confirmed(question: str, *, err: bool) -> bool:
    try:
        return typer.confirm(question, err=err)
    except typer.Abort as error:
        if sys.stdin.isatty():
            raise
        raise ValueError("nobody answered, so nothing was deleted: give --yes") from error
