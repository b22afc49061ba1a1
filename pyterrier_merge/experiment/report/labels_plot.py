"""The plot of a measure against the number of labelled queries that systems used."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import pandas as pd

from pyterrier_merge.experiment.bootstrap import mean_interval, values_of
from pyterrier_merge.experiment.report.plots import MARKERS
from pyterrier_merge.spelling import did_you_mean
from pyterrier_merge.storage import user_path

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from pyterrier_merge.experiment.comparison import Comparison


class Point(NamedTuple):
    """A system in the plot: labelled queries that a trial used, the mean and its interval."""

    labels: int
    mean: float
    low: float
    high: float


def has_several_amounts(comparison: Comparison) -> bool:
    """Return whether systems of one line used different numbers of labels."""
    amounts = defaultdict(set)
    for name, labels in zip(comparison.table["name"], comparison.table["labels"], strict=True):
        if name in comparison.lines:
            amounts[comparison.lines[name]].add(labels)
    return any(len(found) > 1 for found in amounts.values())


def labels_plot(
    comparison: Comparison,
    *others: Comparison,
    measure: str | None = None,
    total: int | None = None,
    path: str | Path | None = None,
) -> Figure:
    """Draw the mean of a measure against the labelled queries that each system used, with 95 % intervals.

    Systems that were trained on the same model, or chosen on samples of the same queries, make a line. Systems without
    labels are dashed horizontal lines. Systems with unknown labels are left out. Intervals are from a
    bootstrap over queries, and over trials if there are several.

    Args:
        comparison: The comparison.
        *others: Further comparisons on the same test queries, such as those of other fractions.
        measure: Name of a measure; the first when None.
        total: Total number of labelled queries, to show amounts also in percent.
        path: File to save it to (``.png``, ``.pdf``, ``.svg``).

    Raises:
        ValueError: No such measure, or no system is known to have used labels.
    """
    from pyterrier_merge.pictures import Picture, drawable, name_lines

    every = (comparison, *others)
    measure = measure or comparison.measures[0]
    for one in every:
        if measure not in one.measures:
            raise ValueError(f"no measure is named {measure!r}; {did_you_mean(measure, one.measures, 'there are')}")
    lines = _points(every, measure)
    amounts = sorted({point.labels for points in lines.values() for point in points if point.labels})
    if not amounts:
        raise ValueError("no system is known to have used labels, so there is nothing to draw them against")
    figure = Picture(6, 4)
    axes = figure.subplots()
    axes.set_xscale("log")
    names, fonts = drawable(*lines)
    for number, (name, points) in enumerate(zip(names, lines.values(), strict=True)):
        color, marker = f"C{number % 10}", MARKERS[number % len(MARKERS)]
        if all(point.labels == 0 for point in points):
            axes.axhline(points[0].mean, linestyle="--", linewidth=1, color=color, label=name)
            continue
        labels, means, lows, highs = zip(*sorted(points), strict=True)
        errors = [[m - low for m, low in zip(means, lows, strict=True)]]
        errors += [[high - m for m, high in zip(means, highs, strict=True)]]
        axes.errorbar(
            labels, means, yerr=errors, fmt="-", marker=marker, markersize=4, capsize=3, color=color, label=name
        )
    shown = [f"{amount:,}" + (f"\n{100 * amount / total:.3g} %" if total else "") for amount in amounts]
    axes.set_xticks(amounts, shown, parse_math=False)
    axes.minorticks_off()
    axes.set_xlabel("queries with labels", fontsize="small")
    axes.set_ylabel(measure, parse_math=False)
    axes.grid(linewidth=0.5, alpha=0.5)
    name_lines(axes, fonts)
    if path is not None:
        figure.savefig(user_path(path))
    return figure


def _points(comparisons: Sequence[Comparison], measure: str) -> dict[str, list[Point]]:
    """The points of each line; a system without a line is its own line.

    A point that another comparison has too is drawn once. Two systems of one comparison are never the same point.
    """
    found: dict[str, dict[int, Point]] = defaultdict(dict)
    for comparison in comparisons:
        own: set[tuple[str, int]] = set()
        for name, labels in zip(comparison.table["name"], comparison.table["labels"], strict=True):
            if pd.isna(labels):
                continue
            values = values_of(name, measure, comparison.per_query, comparison.per_trial)
            array = values.to_numpy()
            line = comparison.lines.get(name, name)
            line = name if (line, int(labels)) in own else line
            own.add((line, int(labels)))
            found[line].setdefault(int(labels), Point(int(labels), float(array.mean()), *mean_interval(array)))
    return {line: list(points.values()) for line, points in found.items()}
