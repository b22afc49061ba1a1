"""Plot of a training: its loss and the measure during training."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd

from pyterrier_merge.storage import user_path

if TYPE_CHECKING:
    from matplotlib.figure import Figure

CURVE = "training.csv"  # file in the output folder of a training


def curve_plot(
    curve: pd.DataFrame | None,
    path: str | Path | None = None,
    *,
    measure: str = "dev",
    folds: pd.DataFrame | None = None,
    chosen: int | None = None,
) -> Figure:
    """Plot the loss of each step, and below it the dev measure or the curves of the folds; save it if given a path.

    Args:
        curve: Content of ``training.csv``: ``step``, ``loss``, ``dev``; None if no step was taken.
        path: Output file (``.png``, ``.pdf``, ``.svg``).
        measure: Name of the measure.
        folds: Curves of a cross-validation: ``step``, ``fold_1`` ... and ``mean``.
        chosen: The chosen step.
    """
    from pyterrier_merge.pictures import Picture

    measured = folds
    if measured is None and curve is not None and curve["dev"].notna().any():
        measured = curve[["step", "dev"]].dropna()
    panels = [part for part in ("loss", "measure") if (curve if part == "loss" else measured) is not None]
    figure = Picture(6, 2.4 * len(panels))
    for axes, part in zip(figure.subplots(len(panels), 1, squeeze=False)[:, 0], panels, strict=True):
        if part == "loss" and curve is not None:
            losses = curve[["step", "loss"]].dropna()
            axes.plot(losses["step"], losses["loss"], color="tab:gray")
        elif measured is not None:
            for name in measured.columns.drop("step"):
                whole = name in ("mean", "dev")
                axes.plot(measured["step"], measured[name], color="tab:blue", alpha=1 if whole else 0.3, marker=".")
        axes.set_ylabel(part if part == "loss" else measure, parse_math=False)
        axes.grid(linewidth=0.5, alpha=0.5)
        if chosen is not None:
            axes.axvline(chosen, color="tab:orange", linewidth=1)
    figure.supxlabel("step" if chosen is None else f"step (line: the chosen one, {chosen})", fontsize="small")
    if path is not None:
        figure.savefig(user_path(path))
    return figure
