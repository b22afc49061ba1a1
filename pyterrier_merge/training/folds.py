"""Cross-validation of a LoRA training: how many steps to take, where there are no labels to spare for a dev set."""

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
    """What the folds say.

    Attributes:
        curve: ``step``, a column ``fold_1`` ... for each fold, and ``mean``: the measure on the fold's held-out
            queries, at the steps that every fold reached. Step 0 is the source.
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

    Each fold takes all ``steps``: nothing stops it early, so that every fold has a value at every step. Curves are kept
    in ``root`` as soon as a fold ends, and adapters of the folds are deleted then.

    Args:
        source: What is trained.
        pairs: The whole sample.
        collection: Its documents are searched for the held-out queries: a pool is enough.
        root: Where the curves are kept; of this cross-validation alone.
        settings: Of the trainings; ``seed`` also decides who is in which fold.
        split: The split of ``collection`` that the queries belong to.
        folds: Their number.
        metric: What is measured, over 100 results of each query.
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
    """Return what the kept curves of all folds say; None where one is not there yet."""
    files = [root / f"fold-{number}.csv" for number in range(1, folds + 1)]
    if not all(file.is_file() for file in files):
        return None
    curves = {f"fold_{n}": pd.read_csv(file, index_col="step")["dev"].dropna() for n, file in enumerate(files, 1)}
    curve = pd.DataFrame(curves).dropna()  # a fold that diverged has no value from there on
    curve = curve.assign(mean=curve.mean(axis=1)).reset_index()
    best = int(curve["mean"].round(12).to_numpy().argmax())
    return CrossValidation(curve, int(curve["step"].iloc[best]))
