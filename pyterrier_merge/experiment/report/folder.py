"""A comparison as files."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd

from pyterrier_merge.collections.reading.runs import write_run
from pyterrier_merge.experiment.bench import file_name
from pyterrier_merge.experiment.environment import environment
from pyterrier_merge.experiment.report.labels_plot import has_several_amounts, labels_plot
from pyterrier_merge.experiment.report.markdown import report_page
from pyterrier_merge.storage import finished_folder, user_path, write_file

if TYPE_CHECKING:
    from pyterrier_merge.experiment.comparison import Comparison
    from pyterrier_merge.systems.base import Figure

Place = Callable[[str], Path]  # from a file's name to where it is written


def save_comparison(comparison: Comparison, folder: Path, *, overwrite: bool = False) -> Path:
    """Write a comparison as a folder, which appears when it is whole."""
    folder = user_path(folder)
    with finished_folder(folder, overwrite=overwrite) as beside:
        (beside / "runs").mkdir()
        for name, runs in comparison.runs.items():
            for trial, run in enumerate(runs):
                stem = file_name(name, trial if len(runs) > 1 else None)
                write_run(run, beside / "runs" / f"{stem}.res.gz", stem)
        write_report(comparison, lambda name: beside / name)
    return folder


def write_report(
    comparison: Comparison,
    place: Place,
    *,
    tables: Mapping[str, pd.DataFrame] | None = None,
    figures: Mapping[str, Figure] | None = None,
) -> None:
    """Write the report, the tables as CSV, the LaTeX table, the pictures, and the versions and hardware.

    Args:
        comparison: What to write.
        place: Says where a file of some name goes.
        tables: Further tables, by name.
        figures: Further pictures, by name.
    """
    every = {"results": comparison.table, "per_query": comparison.per_query, "tests": comparison.tests}
    if len(comparison.by_trial):
        every["trials"] = comparison.by_trial
    write_files({**every, **(tables or {})}, {}, place)
    links = []
    if len(comparison.table):
        write_file(place("table.tex"), comparison.to_latex())
        own: dict[str, Figure] = {"means": comparison.plot}
        if has_several_amounts(comparison):
            own["labels"] = lambda path: labels_plot(comparison, path=path)
        pictures = {**own, **(figures or {})}
        write_files({}, pictures, place)
        links = [f"![{name}]({name}.png)" for name in pictures]
    links += ["[table.tex](table.tex)"] * len(links[:1])
    links += [f"[{name}.csv]({name}.csv)" for name in {**every, **(tables or {})}]
    write_file(place("report.md"), report_page(comparison, [*links, "[runs](runs) in TREC's format"]))
    write_file(place("environment.json"), json.dumps(environment(), indent=2) + "\n")


def write_files(tables: Mapping[str, pd.DataFrame], figures: Mapping[str, Figure], place: Place) -> None:
    """Write tables as CSV and pictures as PNG, by their names."""
    for name, table in tables.items():
        write_file(place(f"{name}.csv"), table.to_csv(index=False))
    for name, draw in figures.items():
        _draw(draw, place(f"{name}.png"))


def _draw(draw: Figure, file: Path) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    beside = file.with_name(f".{file.name}")
    try:
        draw(beside)
        beside.replace(file)
    finally:
        beside.unlink(missing_ok=True)
