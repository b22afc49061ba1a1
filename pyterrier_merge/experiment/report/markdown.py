"""A comparison in Markdown: the table, and the whole report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import PurePath
from types import MappingProxyType
from typing import TYPE_CHECKING

import pandas as pd

from pyterrier_merge.experiment.report.marks import explained, marked_table, p_shown

if TYPE_CHECKING:
    from pyterrier_merge.experiment.comparison import Comparison

_NOTHING: Mapping[str, str] = MappingProxyType({})


def table_with_legend(comparison: Comparison) -> str:
    """Return the table, best figures in bold, with a legend."""
    return f"{pipe_table(marked_table(comparison, bold=('**', '**')))}\n\n{explained(comparison)}\n"


def report_page(comparison: Comparison, *, pictures: Sequence[str] = (), files: Mapping[str, str] = _NOTHING) -> str:
    """Return the report: verdict, table, tests with intervals, methods, and links to files.

    Args:
        comparison: The comparison.
        pictures: Names of plot files next to the report.
        files: Further files and folders next to it, and the text of the link to each.
    """
    lines = [f"# {comparison.title}", "", comparison.verdict(), "", table_with_legend(comparison)]
    if len(comparison.by_trial):
        lines += ["## Trials", "", pipe_table(trials_table(comparison)), ""]
    if len(comparison.tests):
        lines += ["## Tests", "", pipe_table(tests_table(comparison)), "", tests_explained(comparison), ""]
    lines += ["## How it was done", "", *(f"- {note}" for note in all_notes(comparison))]
    links = [f"![{PurePath(name).stem}]({name})" for name in pictures]
    links += [f"[{said}]({name})" for name, said in files.items()]
    if links:
        lines += ["", "## Files", "", *(f"- {link}" for link in links)]
    return "\n".join([*lines, ""])


def all_notes(comparison: Comparison) -> list[str]:
    """Return notes on the collection and the systems, one or more sentences each."""
    twins = comparison.same.items()
    return [
        *comparison.notes,
        *(f"{name} has the same results as {other} and counts once in the tests." for name, other in twins),
    ]


def tests_explained(comparison: Comparison) -> str:
    """Return the meaning of the columns of the tests."""
    return (
        f"difference: of the means, system minus baseline. low, high: {comparison.plan.describe_intervals()}. "
        "effect_size: Cohen's d of the paired differences. wins, losses: queries. direction: 1 where the system is "
        "better by what the test looks at."
    )


def tests_table(comparison: Comparison) -> pd.DataFrame:
    """Return the tests as text."""
    tests = _formatted(comparison.tests, ("difference", "low", "high"), "{:+.4f}")
    tests = _formatted(tests, ("effect_size",), "{:+.3f}")
    return tests.assign(**{column: tests[column].map(p_shown) for column in ("p_value", "corrected_p")})


def trials_table(comparison: Comparison) -> pd.DataFrame:
    """Return the means of each trial as text, and their standard deviations below them."""
    frames = []
    for name, own in comparison.by_trial.groupby("name", sort=False):
        spread = comparison.spread[comparison.spread["name"] == name]
        frames += [own, spread.assign(trial="standard deviation", label="")]
    return _formatted(pd.concat(frames, ignore_index=True), comparison.measures, "{:.4f}")


def pipe_table(table: pd.DataFrame) -> str:
    """Return a frame of text as a Markdown table."""
    text: str = table.map(lambda cell: str(cell).replace("|", "\\|")).to_markdown(index=False, disable_numparse=True)
    return text


def _formatted(frame: pd.DataFrame, columns: Sequence[str], pattern: str) -> pd.DataFrame:
    return frame.assign(**{column: frame[column].map(pattern.format) for column in columns})
