"""The plot of a sweep over any space: sorted scores, and the chosen alphas over the layers."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from pyterrier_merge.storage import user_path
from pyterrier_merge.tuning.points import in_words

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from pyterrier_merge.recipe import MergeRecipe
    from pyterrier_merge.tuning.result import Sweep

WIDTH = 7.5  # inches


def score_plot(found: Sweep, path: str | Path | None = None) -> Figure:
    """Draw the means of all points from the best to the worst, and the chosen alphas from the lowest layer up.

    Args:
        found: The sweep.
        path: A file to save it to; its suffix gives the format: ``.png``, ``.pdf``, ``.svg``.
    """
    from pyterrier_merge.pictures import Picture

    figure = Picture(WIDTH, 3.6)
    left, right = figure.subplots(1, 2, width_ratios=(3, 2))
    _draw_scores(left, found)
    _draw_alphas(right, found.best.recipe)
    figure.entitle(f"{found.metric} on {found.on}: {in_words(found.point)}")
    if path is not None:
        figure.savefig(user_path(path))
    return figure


def _draw_scores(axes: Axes, found: Sweep) -> None:
    means = found.table[found.metric]
    ranks = means.rank(ascending=False, method="first")
    row = found.chosen_row
    axes.plot(ranks, means, ".", color="tab:blue")
    axes.plot(ranks.iloc[row], means.iloc[row], "o", color="tab:red", label="chosen")
    axes.axhline(float(found.source.mean()), color="black", linestyle="--", linewidth=1, label="source")
    if found.domain is not None:
        axes.axhline(float(found.domain.mean()), color="grey", linestyle=":", linewidth=1, label="domain")
    axes.set_xlabel(f"{len(means)} merges, the best first")
    axes.set_ylabel(found.metric, parse_math=False)
    axes.legend(fontsize="small")


def _draw_alphas(axes: Axes, recipe: MergeRecipe) -> None:
    """Draw a step for each segment, and a line for each part of layers."""
    total, low = sum(segment.size for segment in recipe.segments), 0.0
    edges, lines = [0.0], dict[str, list[float]]()
    for segment in recipe.segments:
        low += segment.size / total
        edges.append(low)
        named = dict(segment.parts) or {"alpha": segment}
        for name, own in named.items():
            lines.setdefault(name, []).append(own.alpha or 0.0)
    for style, (name, alphas) in zip(("-", "--", ":", "-."), lines.items(), strict=False):
        if len(alphas) == len(recipe.segments):
            axes.stairs(alphas, edges, baseline=None, linewidth=2, linestyle=style, label=name)
    axes.set_ylim(-0.05, 1.05)
    axes.set_xlim(0, 1)
    axes.set_xticks([0, 1], ["lowest", "highest layer"])
    axes.set_ylabel("alpha (1 = the source)")
    if len(lines) > 1:
        axes.legend(fontsize="small")
