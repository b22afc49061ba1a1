"""``pyterrier-merge collections``: lists the test collections."""

from __future__ import annotations

from pyterrier_merge.cli.console import AsJson, print_json, reported_errors


@reported_errors()
def collections(as_json: AsJson = False) -> None:
    """List the test collections: description, size, measures, and source of each."""
    from rich import box
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    from pyterrier_merge.collections.catalogue import catalogue

    console = Console()
    table = catalogue()
    if as_json:
        print_json(table)
        return
    halves = (["name", "language", "documents", "queries", "measures", "download"], ["name", "what", "from", "licence"])
    for columns in halves:  # too wide for one table
        shown = Table(box=box.SIMPLE, show_edge=False)
        for column in columns:
            number = column in ("documents", "download")
            fixed = number or column in ("name", "queries", "measures")
            shown.add_column(column, justify="right" if number else "left", no_wrap=fixed, overflow="fold")
        for row in table[columns].to_dict("records"):
            lines = {column: row[column].replace(", ", "\n") for column in ("queries", "measures") if column in row}
            shown.add_row(*(escape(cell) for cell in (row | lines).values()))
        console.print(shown, "", highlight=False)
