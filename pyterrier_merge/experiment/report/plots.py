"""Plots of a comparison."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from pyterrier_merge.storage import user_path

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from pyterrier_merge.experiment.comparison import Comparison

PANELS = 3  # side by side
LONGEST_NAME = 30  # characters above a panel
MARKERS = "os^Dv<>P*X"  # distinguish systems also without colour
DRAWN_DIGITS = 2  # drawn digits of a difference between -1 and 1, on two inches


def means_plot(comparison: Comparison, path: str | Path | None = None) -> Figure:
    """Draw the mean of each system, one panel per measure, with the 95 % confidence interval of each mean (t).

    Intervals of two systems may overlap although a paired test finds a difference: the test compares query by query.
    """
    from pyterrier_merge.pictures import Picture, drawable

    names = list(comparison.table["name"])
    figure = Picture(1.6 + 2.4 * len(comparison.measures), 1.3 + 0.32 * len(names))
    panels = figure.subplots(1, len(comparison.measures), sharey=True, squeeze=False)[0]
    places = np.arange(len(names))[::-1]
    for axes, measure in zip(panels, comparison.measures, strict=True):
        means, half = _means(comparison, measure, names)
        axes.errorbar(means, places, xerr=half, fmt="o", markersize=4, capsize=3, color="tab:blue")
        axes.set_title(measure, fontsize="medium", parse_math=False)
        axes.grid(axis="x", linewidth=0.5, alpha=0.5)
        axes.margins(y=0.5 / max(1, len(names)))
    shown, fonts = drawable(*names)
    panels[0].set_yticks(places, shown, fontfamily=fonts, parse_math=False)
    what = f"mean over {len(comparison.topics):,} queries, 95 % confidence interval of each mean"
    figure.supxlabel(f"{what}; to compare two systems see the paired tests", fontsize="small")
    if path is not None:
        figure.savefig(user_path(path))
    return figure


def differences_plot(comparison: Comparison, baseline: str, path: str | Path | None = None) -> Figure:
    """Draw the difference of each query from a baseline, one panel per system, the largest gain first.

    Args:
        comparison: The comparison.
        baseline: Name of a system that others were tested against.
        path: File to save it to.
    """
    from pyterrier_merge.pictures import Picture, drawable

    measure, tests = comparison.measures[0], comparison.tests
    rows = tests[(tests["measure"] == measure) & (tests["baseline"] == baseline)].to_dict("records")
    wide = comparison.by_query()
    across = min(PANELS, len(rows))
    down = -(-len(rows) // across)
    width, height = 1.2 + 2.6 * across, 0.9 + 2.1 * down
    figure = Picture(width, height)
    figure.set_layout_engine(None)  # not needed for panels of equal size, and slower than drawing
    figure.subplots_adjust(0.9 / width, 0.6 / height, 1 - 0.1 / width, 1 - 0.3 / height, wspace=0.18, hspace=0.25)
    panels = list(figure.subplots(down, across, sharex=True, sharey=True, squeeze=False).flat)
    names, fonts = drawable(*(_short(row["system"]) for row in rows))
    [against], own = drawable(f"{measure}, difference from {_short(baseline)}")
    for axes, row, name in zip(panels, rows, names, strict=False):
        _sorted_bars(axes, (wide[row["system"]] - wide[baseline]).to_numpy())
        axes.set_title(name, fontsize="medium", fontfamily=fonts, parse_math=False)
        counts = f"{row['wins']:,} better, {row['losses']:,} worse"
        axes.text(0.97, 0.97, counts, transform=axes.transAxes, ha="right", va="top", fontsize="small")
    for axes in panels[len(rows) :]:
        axes.remove()
    figure.supylabel(against, fontsize="small", fontfamily=own, parse_math=False)
    figure.supxlabel(f"the {len(comparison.topics):,} queries, sorted by difference", fontsize="small")
    if path is not None:
        figure.savefig(user_path(path))
    return figure


def cost_plot(comparison: Comparison, path: str | Path | None = None) -> Figure:
    """Draw the mean of the first measure, with its 95 % interval, against the time of a search.

    Time is wall-clock milliseconds per query, with all queries searched at once, without the building of an index.
    """
    from matplotlib.ticker import LogFormatter

    from pyterrier_merge.pictures import Picture, drawable, name_lines

    measure = comparison.measures[0]
    means, half = _means(comparison, measure, list(comparison.seconds))
    figure = Picture(6, 4)
    axes = figure.subplots()
    axes.set_xscale("log")
    names, fonts = drawable(*map(_short, comparison.seconds))
    for number, (name, (system, seconds)) in enumerate(zip(names, comparison.seconds.items(), strict=True)):
        axes.errorbar(
            1000 * seconds, means[system], yerr=half[system], fmt=MARKERS[number % len(MARKERS)],
            markersize=5, capsize=3, color=f"C{number % 10}", label=name,
        )  # fmt: skip
    axes.xaxis.set_major_formatter(LogFormatter())
    axes.xaxis.set_minor_formatter(LogFormatter())
    axes.set_xlabel("milliseconds for each query, all queries at once", fontsize="small")
    axes.set_ylabel(measure, parse_math=False)
    axes.grid(linewidth=0.5, alpha=0.5)
    name_lines(axes, fonts)
    if path is not None:
        figure.savefig(user_path(path))
    return figure


def _means(comparison: Comparison, measure: str, names: list[str]) -> tuple[pd.Series[float], pd.Series[float]]:
    """Return the mean of each system, and half of its 95 % confidence interval (t)."""
    from scipy import stats

    values = comparison.per_query[comparison.per_query["measure"] == measure].groupby("name")["value"]
    means, counts, deviations = (getattr(values, kind)().loc[names] for kind in ("mean", "count", "std"))
    return means, stats.t.ppf(0.975, np.maximum(counts - 1, 1)) * deviations.fillna(0) / np.sqrt(counts)


def _short(name: str) -> str:
    """A name that fits above a panel."""
    return name if len(name) <= LONGEST_NAME else f"{name[: LONGEST_NAME - 1]}…"


def _sorted_bars(axes: Axes, differences: np.ndarray) -> None:
    """Bars without gaps; neighbours of equal height are one bar, so that thousands of queries give a small file."""
    heights, counts = np.unique(np.round(differences, DRAWN_DIGITS), return_counts=True)
    edges = np.concatenate([[0], np.cumsum(counts[::-1])])
    axes.stairs(heights[::-1], edges, fill=True, color="tab:blue")
    axes.axhline(0, linewidth=0.8, color="black")
    axes.grid(axis="y", linewidth=0.5, alpha=0.5)
    axes.set_xlim(0, len(differences))
    axes.locator_params(axis="x", integer=True, nbins=4)
