"""The picture of a sweep: scores over (alpha_lower, alpha_upper)."""

from __future__ import annotations

import io
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from pyterrier_merge.storage import user_path

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from pyterrier_merge.tuning.sweep import Sweep


def alpha_heatmap(sweep: Sweep, path: str | Path | None = None) -> Figure:
    """Draw the scores of a sweep over (alpha_lower, alpha_upper) and frame the chosen pair.

    Args:
        sweep: What :func:`pyterrier_merge.sweep` returned.
        path: A file to save it to; the ending says the format: ``.png``, ``.pdf``, ``.svg``.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.patches import Rectangle

    lowers = sorted(set(sweep.table["alpha_lower"]), reverse=True)
    uppers = sorted(set(sweep.table["alpha_upper"]))
    scores = sweep.table.pivot(index="alpha_lower", columns="alpha_upper", values=sweep.metric)
    values = scores.loc[lowers, uppers].to_numpy(dtype=float)
    rows, columns = values.shape
    figure = Figure(figsize=(2.4 + 0.95 * columns, 1.7 + 0.6 * rows), dpi=150, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    image = axes.imshow(values, cmap="viridis", aspect="auto")
    axes.set_xticks(range(columns), [f"{alpha:g}" for alpha in uppers])
    axes.set_yticks(range(rows), [f"{alpha:g}" for alpha in lowers])
    axes.set_xlabel("alpha_upper (1 = the source's upper layers)")
    axes.set_ylabel("alpha_lower")
    axes.set_title(f"{sweep.metric} on {sweep.on}", fontsize="medium", parse_math=False)  # a name may hold a $
    middle = (np.nanmax(values) + np.nanmin(values)) / 2
    for (row, column), score in np.ndenumerate(values):
        if not np.isnan(score):
            color = "white" if score < middle else "black"
            axes.text(column, row, f"{score:.4f}", ha="center", va="center", color=color)
    corner = (uppers.index(sweep.alpha_upper) - 0.5, lowers.index(sweep.alpha_lower) - 0.5)
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
