"""A plot of how far apart two models are."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from pyterrier_merge.merging.verdict import UNRELATED
from pyterrier_merge.storage import user_path

if TYPE_CHECKING:
    from pyterrier_merge.merging.compatibility import Compatibility


def distance_plot(report: Compatibility, path: str | Path) -> None:
    """Draw how far a domain model is from the source, layer by layer: relative distance above, cosine below.

    Args:
        report: What :func:`pyterrier_merge.merging.compatibility.check_compatible` returned; weights are read.
        path: A file; its suffix gives the format: ``.png``, ``.pdf``, ``.svg``.

    Raises:
        ValueError: There are no distances, because the pair cannot be merged.
    """
    from matplotlib.ticker import MaxNLocator

    from pyterrier_merge.pictures import Picture, drawable

    layers = [distance for distance in report.distances if distance.layer is not None]
    if not layers:
        raise ValueError(f"no distances to draw: {'; '.join(report.verdict().reasons)}")
    numbers = [distance.layer for distance in layers]
    figure = Picture(6.4, 5)
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
    [title], fonts = drawable(f"{report.verdict().summary}\nsource {names[0]}\ndomain {names[1]}")
    figure.suptitle(title, fontsize="small", fontfamily=fonts, parse_math=False)
    figure.savefig(user_path(path))
