"""Figures of a run and of a pair of models."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from pyterrier_merge.merging.verdict import UNRELATED
from pyterrier_merge.storage import user_path

if TYPE_CHECKING:
    from pyterrier_merge.alpha_search import Sweep
    from pyterrier_merge.merging.compatibility import Compatibility


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
    axes.set_title(f"{sweep.metric} on {sweep.on}", fontsize="medium", parse_math=False)  # a name may hold a $
    middle = (np.nanmax(values) + np.nanmin(values)) / 2
    for (row, column), score in np.ndenumerate(values):
        if not np.isnan(score):
            color = "white" if score < middle else "black"
            axes.text(column, row, f"{score:.4f}", ha="center", va="center", color=color)
    corner = (uppers.index(sweep.alpha_upper) - 0.5, lowers.index(sweep.alpha_lower) - 0.5)
    axes.add_patch(Rectangle(corner, 1, 1, fill=False, edgecolor="tab:red", linewidth=2.5))
    figure.colorbar(image, ax=axes)
    figure.savefig(user_path(path))


def distance_plot(report: Compatibility, path: str | Path) -> None:
    """Draw how far a domain model lies from the source, layer by layer: relative distance above, cosine below.

    Args:
        report: What :func:`pyterrier_merge.merging.compatibility.check_compatible` returned; weights are read.
        path: A file whose ending says the format: ``.png``, ``.pdf``, ``.svg``.

    Raises:
        ValueError: There are no distances, for the pair cannot be merged.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    layers = [distance for distance in report.distances if distance.layer is not None]
    if not layers:
        raise ValueError(f"no distances to draw: {'; '.join(report.verdict().reasons)}")
    numbers = [distance.layer for distance in layers]
    figure = Figure(figsize=(6.4, 5), dpi=150, layout="constrained")
    FigureCanvasAgg(figure)
    above, below = figure.subplots(2, 1, sharex=True)
    above.bar(numbers, [distance.relative for distance in layers], color="tab:blue", label="layers")
    for distance, style in zip((d for d in report.distances if d.layer is None), ("--", ":"), strict=False):
        above.axhline(distance.relative, color="black", linestyle=style, linewidth=1, label=distance.place)
    above.set_ylabel("|domain - source| / |source|")
    above.set_ylim(0, 1.3 * max([*(d.relative for d in report.distances), 1e-6]))  # room for the legend
    above.legend(fontsize="small", loc="upper left", ncols=3)
    cosines = [np.nan if distance.cosine is None else distance.cosine for distance in layers]
    below.plot(numbers, cosines, marker="o", markersize=4, color="tab:blue", label="weight matrices of the layers")
    below.axhline(UNRELATED, color="tab:red", linestyle="--", linewidth=1, label=f"{UNRELATED:g}: unrelated below")
    below.set_ylim(min(-0.05, np.nanmin(cosines) - 0.05), 1.05)
    below.set_ylabel("cosine")
    below.set_xlabel("layer (from 0)")
    below.xaxis.set_major_locator(MaxNLocator(integer=True))
    below.legend(fontsize="small", loc="center right")
    names = [str(Path(*checkpoint.folder.parts[-2:])) for checkpoint in (report.source, report.domain)]
    title = f"{report.verdict().summary}\nsource {names[0]}\ndomain {names[1]}"
    figure.suptitle(title, fontsize="small", parse_math=False)
    figure.savefig(user_path(path))
