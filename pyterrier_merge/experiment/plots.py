"""Figures of a run."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from pyterrier_merge.alpha_search import Sweep


def alpha_heatmap(sweep: Sweep, path: str | Path) -> None:
    """Draw the scores of a sweep over (alpha_lower, alpha_upper) and mark the chosen pair.

    Args:
        sweep: What :func:`pyterrier_merge.sweep` returned.
        path: A file whose ending says the format: ``.png``, ``.pdf``, ``.svg``.
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
    axes.set_title(f"{sweep.metric} on {sweep.on}", fontsize="medium")
    middle = (np.nanmax(values) + np.nanmin(values)) / 2
    for (row, column), score in np.ndenumerate(values):
        if not np.isnan(score):
            color = "white" if score < middle else "black"
            axes.text(column, row, f"{score:.4f}", ha="center", va="center", color=color)
    corner = (uppers.index(sweep.alpha_upper) - 0.5, lowers.index(sweep.alpha_lower) - 0.5)
    axes.add_patch(Rectangle(corner, 1, 1, fill=False, edgecolor="tab:red", linewidth=2.5))
    figure.colorbar(image, ax=axes)
    figure.savefig(path)
