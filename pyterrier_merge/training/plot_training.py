"""The picture of a training that is finished, from its folder."""

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
    """Draw the loss of each step, and the dev measure where there was one, with a line at the step that was kept.

    Args:
        folder: What :func:`pyterrier_merge.train_lora` or :func:`pyterrier_merge.train_domain_model` returned.
        path: A file to save it to; the ending says the format: ``.png``, ``.pdf``, ``.svg``.

    Raises:
        FileNotFoundError: It is not a folder of a training: ``training.csv`` or ``training.json`` is not there.
    """
    made = user_path(folder)
    for name in (CURVE, TRAINING):
        if not (made / name).is_file():
            raise FileNotFoundError(f"{folder} is not a folder of a training: it has no {name}")
    told = read_training(made)
    measure = told.get("dev") or "dev"
    return curve_plot(pd.read_csv(made / CURVE), path, measure=measure, chosen=told.get("best_step"))
