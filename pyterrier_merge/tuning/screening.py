"""Screening: measures all points of a sweep on a pool, and the best few on the whole collection."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from pyterrier_merge.evaluation import judged
from pyterrier_merge.tuning.measured import Measured, Measuring, said
from pyterrier_merge.tuning.score import ScoringTask

if TYPE_CHECKING:
    from pyterrier_merge.collections.base import TestCollection

CONFIRM = 3


@dataclass(frozen=True)
class Screening:
    """The results of the points of a sweep on a pool.

    Attributes:
        table: One row per point: the parameters, the mean on the ``pool``, and on the ``whole`` collection for points
            that were confirmed there.
        on: Description of the queries and documents of the pool.
        tau: Kendall's tau-b of the two means among the confirmed points; None if fewer than two differ.
    """

    table: pd.DataFrame
    on: str
    tau: float | None

    def describe(self) -> str:
        """Return one or two sentences: what was measured on the pool, and how well it agrees with the whole."""
        whole = self.table["whole"].notna().sum()
        agreed = "" if self.tau is None else f"; Kendall's tau of pool and collection is {self.tau:.2f} among them"
        return (
            f"{len(self.table)} merges were measured on a pool ({self.on}), and {whole} of them on the whole "
            f"collection{agreed}."
        )


def require_screen(screen: TestCollection, task: ScoringTask, confirm: int) -> None:
    """Raise ``ValueError`` if a pool does not have the same queries, or nothing would be confirmed."""
    if isinstance(confirm, bool) or not isinstance(confirm, int) or confirm < 1:
        raise ValueError(
            f"confirm is the number of merges measured on the whole collection, 1 at least; found {confirm!r}"
        )
    if task.split not in screen.splits:
        raise ValueError(f"the pool has no split {task.split!r}: make the pool from the split for the choice")
    theirs, _ = judged(screen.topics(task.split), screen.qrels(task.split))
    different = set(zip(theirs["qid"], theirs["query"], strict=True)) ^ set(
        zip(task.topics["qid"], task.topics["query"], strict=True)
    )
    if different:
        raise ValueError(
            f"the pool and the collection have different judged {task.split} queries, such as {min(different)[0]!r}: "
            "make the pool from the same queries"
        )


def confirmed(
    pooled: Measured, measuring: Measuring, screen: TestCollection, confirm: int
) -> tuple[Measured, Screening]:
    """Measure the best points of a pool, and the source, on the whole collection.

    Args:
        pooled: All points, measured on the pool.
        measuring: For measuring on the whole collection.
        screen: The pool.
        confirm: Number of points to confirm.
    """
    source, _ = measuring.space.ends
    leaders = [pooled.points[position] for position in pooled.leaders(confirm)]
    whole = measuring.of([*leaders, source], ends=False, domain=False)
    means = dict(zip(whole.recipes, whole.values.mean(), strict=True))
    table = pooled.table(measuring.space).assign(
        pool=pooled.values.mean().to_numpy(), whole=[means.get(recipe, np.nan) for recipe in pooled.recipes]
    )
    both = table.dropna(subset="whole")
    on = said(screen, measuring.task.split, len(pooled.values))
    return whole, Screening(table, on, _tau(both["pool"], both["whole"]))


def _tau(pool: pd.Series[float], whole: pd.Series[float]) -> float | None:
    from scipy.stats import kendalltau

    found = float(kendalltau(pool.round(12), whole.round(12)).statistic) if len(pool) > 1 else np.nan
    return None if np.isnan(found) else found
