"""Cross-validation of a LoRA training: chooses the number of steps if no labels can be spared for a dev set."""

from __future__ import annotations

import logging
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd

from pyterrier_merge.collections.some_queries import with_queries
from pyterrier_merge.storage import write_file
from pyterrier_merge.training.curve_plot import CURVE
from pyterrier_merge.training.fold_queries import split_into_folds
from pyterrier_merge.training.lora import train_lora
from pyterrier_merge.training.settings import LoRATraining

if TYPE_CHECKING:
    from ir_measures.measures import Measure

    from pyterrier_merge.collections.base import TestCollection
    from pyterrier_merge.encoding.encoders import E5Encoder
    from pyterrier_merge.training.training_pairs import TrainingPairs

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class CrossValidation:
    """The result of a cross-validation.

    Attributes:
        curve: ``step``, a column ``fold_1`` ... for each fold, and ``mean``: the measure on the fold's held-out
            queries, at the steps that all folds reached. Step 0 is the source.
        best_step: The first step with the highest mean.
    """

    curve: pd.DataFrame
    best_step: int


def cross_validate(
    source: E5Encoder,
    pairs: TrainingPairs,
    collection: TestCollection,
    root: Path,
    settings: LoRATraining,
    *,
    split: str,
    folds: int,
    metric: Measure,
    verbose: bool | None = None,
) -> CrossValidation:
    """Train on all folds but one, measure on that one every ``evaluate_every`` steps, and average over the folds.

    Each fold takes all ``steps`` without early stopping, so that every fold has a value at every step. When a fold
    ends, its curve is saved in ``root`` and its adapter is deleted.

    Args:
        source: The encoder to train.
        pairs: The whole sample.
        collection: Its documents are searched with the held-out queries: a pool is enough.
        root: Folder of the curves, for this cross-validation only.
        settings: Settings of the trainings; ``seed`` also decides the division into folds.
        split: The split of ``collection`` that the queries belong to.
        folds: Number of folds.
        metric: The measure, over 100 results per query.
        verbose: Show progress bars; in terminals and notebooks when None.

    Raises:
        ValueError: See :func:`~pyterrier_merge.training.fold_queries.split_into_folds`.
    """
    told = settings.model_copy(update={"patience": None})
    for number, held in enumerate(split_into_folds(pairs, folds, seed=settings.seed), 1):
        file, out = root / f"fold-{number}.csv", root / f"fold-{number}"
        if not file.is_file():
            rest = pairs.only([qid for qid in pairs.queries["qid"] if qid not in set(held)])
            dev = with_queries(collection, split, held)
            train_lora(source, rest, out, told, dev=dev, split=split, metric=metric, verbose=verbose)
            write_file(file, (out / CURVE).read_text(encoding="utf-8"))
        shutil.rmtree(out, ignore_errors=True)
    found = kept_folds(root, folds)
    assert found is not None  # noqa: S101 (for the type checker)
    logger.info("%s: step %d of %d is the best over %d folds", pairs.name, found.best_step, settings.steps, folds)
    return found


def kept_folds(root: Path, folds: int) -> CrossValidation | None:
    """Return the result of the saved curves of all folds; None if a curve is missing."""
    files = [root / f"fold-{number}.csv" for number in range(1, folds + 1)]
    if not all(file.is_file() for file in files):
        return None
    curves = {f"fold_{n}": pd.read_csv(file, index_col="step")["dev"].dropna() for n, file in enumerate(files, 1)}
    curve = pd.DataFrame(curves).dropna()  # a fold that diverged has no later values
    curve = curve.assign(mean=curve.mean(axis=1)).reset_index()
    best = int(curve["mean"].round(12).to_numpy().argmax())
    return CrossValidation(curve, int(curve["step"].iloc[best]))
