"""Pictures of a comparison."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from pyterrier_merge.storage import user_path

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from pyterrier_merge.experiment.comparison import Comparison


def means_plot(comparison: Comparison, path: str | Path | None = None) -> Figure:
    """Draw the mean of each system, one panel a measure, with the 95 % confidence interval of each mean (t).

    Intervals of two systems may overlap where a paired test finds a difference: the test compares query by query.
    """
    from scipy import stats

    from pyterrier_merge.pictures import Picture, drawable

    names = list(comparison.table["name"])
    figure = Picture(1.6 + 2.4 * len(comparison.measures), 1.3 + 0.32 * len(names))
    panels = figure.subplots(1, len(comparison.measures), sharey=True, squeeze=False)[0]
    places = np.arange(len(names))[::-1]
    for axes, measure in zip(panels, comparison.measures, strict=True):
        values = comparison.per_query[comparison.per_query["measure"] == measure].groupby("name")["value"]
        means, counts, deviations = (getattr(values, kind)().loc[names] for kind in ("mean", "count", "std"))
        half = stats.t.ppf(0.975, np.maximum(counts - 1, 1)) * deviations.fillna(0) / np.sqrt(counts)
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
