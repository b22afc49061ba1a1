"""Plot of a finished training, from its folder."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd

from pyterrier_merge.models.files import TRAINING, read_training
from pyterrier_merge.storage import user_path
from pyterrier_merge.training.curve_plot import CURVE, curve_plot

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def plot_training(folder: str | Path, path: str | Path | None = None) -> Figure:
    """Plot the loss of each step, and the dev measure if there was one, with a line at the chosen step.

    Args:
        folder: Folder returned by :func:`pyterrier_merge.train_lora` or :func:`pyterrier_merge.train_domain_model`.
        path: Output file; its extension decides the format: ``.png``, ``.pdf``, ``.svg``.

    Raises:
        FileNotFoundError: The folder is not that of a training: ``training.csv`` or ``training.json`` is missing.
    """
    made = user_path(folder)
    for name in (CURVE, TRAINING):
        if not (made / name).is_file():
            raise FileNotFoundError(f"{folder} is not a folder of a training: it has no {name}")
    told = read_training(made)
    measure = told.get("dev") or "dev"
    return curve_plot(pd.read_csv(made / CURVE), path, measure=measure, chosen=told.get("best_step"))
