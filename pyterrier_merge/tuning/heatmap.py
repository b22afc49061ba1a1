"""The heat map of a sweep: scores over (alpha_lower, alpha_upper)."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from pyterrier_merge.storage import user_path

if TYPE_CHECKING:
    from matplotlib.figure import Figure

LEAST_WIDTH = 4.2  # inches, needed for the axis labels
MOST_CELLS = 3  # cells of a grid per measured cell; a search leaves more of them empty


def alpha_heatmap(
    table: pd.DataFrame, chosen: tuple[float, float], *, metric: str, on: str, path: str | Path | None = None
) -> Figure:
    """Draw the scores of a sweep over two alphas and frame the chosen pair.

    Args:
        table: Two alphas, which are its first two columns, and a column of the metric's name.
        chosen: The pair to frame.
        metric: Name of the measure.
        on: Description of the queries and documents, for the title.
        path: A file to save it to; its suffix gives the format: ``.png``, ``.pdf``, ``.svg``.
    """
    from matplotlib.patches import Rectangle

    from pyterrier_merge.pictures import Picture

    down, across = table.columns[:2]
    lowers = sorted(set(table[down]), reverse=True)
    uppers = sorted(set(table[across]))
    scores = table.pivot(index=down, columns=across, values=metric)
    values = scores.loc[lowers, uppers].to_numpy(dtype=float)
    rows, columns = values.shape
    width = max(LEAST_WIDTH, 2.4 + 0.95 * columns)
    figure = Picture(width, 1.7 + 0.6 * rows)
    axes = figure.add_subplot()
    image = axes.imshow(values, cmap="viridis", aspect="auto")
    axes.set_xticks(range(columns), [f"{alpha:g}" for alpha in uppers])
    axes.set_yticks(range(rows), [f"{alpha:g}" for alpha in lowers])
    axes.set_xlabel(f"{across} (1 = the source's upper layers)" if across == "alpha_upper" else across)
    axes.set_ylabel(down)
    figure.entitle(f"{metric} on {on}")
    middle = (np.nanmax(values) + np.nanmin(values)) / 2
    for (row, column), score in np.ndenumerate(values):
        if not np.isnan(score):
            color = "white" if score < middle else "black"
            axes.text(column, row, f"{score:.4f}", ha="center", va="center", color=color)
    lower, upper = chosen
    corner = (uppers.index(upper) - 0.5, lowers.index(lower) - 0.5)
    axes.add_patch(Rectangle(corner, 1, 1, fill=False, edgecolor="tab:red", linewidth=2.5, clip_on=False))
    ends = sorted({float(np.nanmin(values)), float(np.nanmax(values))})
    figure.colorbar(image, ax=axes, ticks=ends, format="%.4f")  # cells show the values; many ticks are too wide
    if path is not None:
        figure.savefig(user_path(path))
    return figure


def is_grid(points: pd.DataFrame) -> bool:
    """Whether a table of points has two numeric parameters, with most of their combinations measured."""
    if points.shape[1] != 2 or not all(map(pd.api.types.is_numeric_dtype, points.dtypes)):
        return False
    rows, columns = (points[name].nunique() for name in points)
    return rows * columns <= MOST_CELLS * len(points)
