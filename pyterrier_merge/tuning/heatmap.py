"""The picture of a sweep: scores over (alpha_lower, alpha_upper)."""

from __future__ import annotations

import io
import textwrap
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from pyterrier_merge.storage import user_path

if TYPE_CHECKING:
    from matplotlib.figure import Figure

LEAST_WIDTH = 4.2  # inches, which the labels of the axes need
CHARACTERS = 11  # of the title, in an inch


def alpha_heatmap(
    table: pd.DataFrame, chosen: tuple[float, float], *, metric: str, on: str, path: str | Path | None = None
) -> Figure:
    """Draw the scores of a sweep over (alpha_lower, alpha_upper) and frame the chosen pair.

    Args:
        table: ``alpha_lower``, ``alpha_upper`` and a column of the metric's name.
        chosen: The pair to frame.
        metric: Name of the measure.
        on: What the scores are of, for the title.
        path: A file to save it to; the ending says the format: ``.png``, ``.pdf``, ``.svg``.
    """
    from matplotlib.patches import Rectangle

    from pyterrier_merge.pictures import Picture, drawable

    lowers = sorted(set(table["alpha_lower"]), reverse=True)
    uppers = sorted(set(table["alpha_upper"]))
    scores = table.pivot(index="alpha_lower", columns="alpha_upper", values=metric)
    values = scores.loc[lowers, uppers].to_numpy(dtype=float)
    rows, columns = values.shape
    width = max(LEAST_WIDTH, 2.4 + 0.95 * columns)
    figure = Picture(width, 1.7 + 0.6 * rows)
    axes = figure.add_subplot()
    image = axes.imshow(values, cmap="viridis", aspect="auto")
    axes.set_xticks(range(columns), [f"{alpha:g}" for alpha in uppers])
    axes.set_yticks(range(rows), [f"{alpha:g}" for alpha in lowers])
    axes.set_xlabel("alpha_upper (1 = the source's upper layers)")
    axes.set_ylabel("alpha_lower")
    [title], fonts = drawable(textwrap.fill(f"{metric} on {on}", int(width * CHARACTERS)))
    figure.suptitle(title, fontsize="medium", fontfamily=fonts, parse_math=False)  # a name may hold a $
    middle = (np.nanmax(values) + np.nanmin(values)) / 2
    for (row, column), score in np.ndenumerate(values):
        if not np.isnan(score):
            color = "white" if score < middle else "black"
            axes.text(column, row, f"{score:.4f}", ha="center", va="center", color=color)
    lower, upper = chosen
    corner = (uppers.index(upper) - 0.5, lowers.index(lower) - 0.5)
    axes.add_patch(Rectangle(corner, 1, 1, fill=False, edgecolor="tab:red", linewidth=2.5))
    figure.colorbar(image, ax=axes)
    if path is not None:
        figure.savefig(user_path(path))
    return figure


def as_svg(figure: Figure) -> str:
    """Return a figure as an SVG element, for HTML."""
    text = io.StringIO()
    figure.savefig(text, format="svg")
    return text.getvalue()[text.getvalue().index("<svg") :]
