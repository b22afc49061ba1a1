"""A comparison as files."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from pyterrier_merge.collections.reading.runs import write_run
from pyterrier_merge.experiment.environment import environment
from pyterrier_merge.experiment.report.labels_plot import has_several_amounts, labels_plot
from pyterrier_merge.experiment.report.markdown import report_page
from pyterrier_merge.experiment.report.marks import letters
from pyterrier_merge.experiment.report.page import html_page
from pyterrier_merge.experiment.report.plots import cost_plot, differences_plot
from pyterrier_merge.experiment.report.svg import draw_picture
from pyterrier_merge.experiment.system_names import file_name
from pyterrier_merge.storage import finished_folder, user_path, write_file

if TYPE_CHECKING:
    from pyterrier_merge.experiment.comparison import Comparison
    from pyterrier_merge.systems.base import Figure

Place = Callable[[str], Path]  # from a file's name to its path


def save_comparison(comparison: Comparison, folder: Path, *, overwrite: bool = False) -> Path:
    """Write a comparison as a folder, which appears only when it is complete."""
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
    spec: Mapping[str, Any] | None = None,
) -> None:
    """Write the report, the tables as CSV, the LaTeX table, the plots, and the versions and hardware.

    Args:
        comparison: The comparison.
        place: Returns the path for a file's name.
        tables: Further tables, by name.
        figures: Further plots, by name.
        spec: The experiment's file in JSON form; None for a comparison without one.
    """
    every = {"results": comparison.table, "per_query": comparison.per_query, "tests": comparison.tests}
    if len(comparison.by_trial):
        every["trials"] = comparison.by_trial
    every |= tables or {}
    files = {f"{name}.csv": f"{name}.csv" for name in every} | {"runs": "runs in TREC's format"}
    pictures: dict[str, Figure] = {}
    if len(comparison.table):
        write_file(place("table.tex"), comparison.to_latex())
        files = {"table.tex": "table.tex", **files}
        pictures = {**own_pictures(comparison), **(figures or {})}
    drawn = write_files(every, pictures, place)
    made_with = environment()
    write_file(place("environment.json"), json.dumps(made_with, indent=2) + "\n")
    page = html_page(comparison, pictures=drawn, files=files, made_with=made_with, spec=spec)
    write_file(place("report.html"), page)
    files = {"report.html": "report.html, the same with single queries", **files}
    markdown = report_page(comparison, pictures=[f"{name}.png" for name in pictures], files=files)
    write_file(place("report.md"), markdown)


def own_pictures(comparison: Comparison) -> dict[str, Figure]:
    """Return a comparison's own plots, by name: ``differences-a`` has the differences from baseline a."""
    pictures: dict[str, Figure] = {"means": comparison.plot}
    tested = set(comparison.tests.loc[comparison.tests["measure"] == comparison.measures[0], "baseline"])
    for name, letter in letters(comparison).items():
        if name in tested:
            pictures[f"differences-{letter}"] = partial(differences_plot, comparison, name)
    if len(comparison.seconds) > 1:
        pictures["cost"] = partial(cost_plot, comparison)
    if has_several_amounts(comparison):
        pictures["labels"] = lambda path: labels_plot(comparison, path=path)
    return pictures


def write_files(tables: Mapping[str, pd.DataFrame], pictures: Mapping[str, Figure], place: Place) -> dict[str, str]:
    """Write tables as CSV and plots as PNG, by their names; return the plots as SVG."""
    for name, table in tables.items():
        write_file(place(f"{name}.csv"), table.to_csv(index=False))
    return {name: draw_picture(draw, place(f"{name}.png")) for name, draw in pictures.items()}
