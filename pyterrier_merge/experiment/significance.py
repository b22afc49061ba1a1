"""Paired tests of several systems against several baselines, corrected as one family."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

ROUNDING = 1e-12  # figures that differ by less are equal; a figure of a query is a fraction of small numbers
CORRECTIONS = ("holm", "bonferroni", "fdr_bh", "none")


def compare(
    per_query: pd.DataFrame, baselines: Sequence[str], *, correction: str = "holm", level: float = 0.05
) -> pd.DataFrame:
    """Compare every system with every baseline in every measure, by two-sided paired t-tests over the queries.

    ``pt.Experiment`` tests against one baseline and corrects within it; here all comparisons are one family.

    Args:
        per_query: Columns ``name``, ``qid``, ``measure``, ``value``, as ``pt.Experiment(perquery=True)`` returns them.
        baselines: Names of systems, each compared with all systems that come after it in this list or are not in it.
        correction: A method of ``statsmodels.stats.multitest.multipletests``, or ``none``.
        level: Corrected p-values below it are called significant.

    Returns:
        One row per comparison: ``system``, ``baseline``, ``measure``, ``difference`` (of means), ``low`` and ``high``
        (95 % confidence interval of the difference), ``effect_size`` (Cohen's d of the paired differences), ``wins``
        and ``losses`` (queries), ``p_value``, ``corrected_p``, ``significant``.

    Raises:
        ValueError: An unknown baseline or correction, fewer than two systems or queries, or systems that were not
            measured on the same queries.
    """
    names = list(dict.fromkeys(per_query["name"]))
    unknown = [baseline for baseline in baselines if baseline not in names]
    if unknown:
        raise ValueError(f"unknown baseline {unknown[0]!r}: the systems are {', '.join(map(repr, names))}")
    if correction not in CORRECTIONS:
        raise ValueError(f"unknown correction {correction!r}: choose one of {', '.join(CORRECTIONS)}")
    rows: list[dict[str, Any]] = []
    for measure, scores in per_query.groupby("measure", sort=False):
        table = scores.pivot(index="qid", columns="name", values="value")
        if len(table) < 2 or len(names) < 2:
            raise ValueError(f"{measure}: a paired test needs two queries and two systems, there are {table.shape}")
        if table.isna().to_numpy().any():
            raise ValueError(f"{measure}: the systems were not measured on the same queries")
        for position, baseline in enumerate(baselines):
            others = [name for name in names if name not in baselines[: position + 1]]
            rows.extend(
                {"system": name, "baseline": baseline, "measure": str(measure), **_paired(table[name], table[baseline])}
                for name in others
            )
    comparisons = pd.DataFrame(rows)
    comparisons["corrected_p"] = _correct(comparisons["p_value"].to_numpy(), correction)
    comparisons["significant"] = comparisons["corrected_p"] < level
    return comparisons


def _paired(system: pd.Series[float], baseline: pd.Series[float]) -> dict[str, float]:
    from scipy import stats

    differences = (system - baseline).to_numpy()
    differences = np.where(np.abs(differences) < ROUNDING, 0, differences)
    counts = {"wins": int((differences > 0).sum()), "losses": int((differences < 0).sum())}
    if np.ptp(differences) < ROUNDING:  # the same difference for every query: no variance to test against
        constant = float(differences[0])
        certain = {"difference": constant, "low": constant, "high": constant}
        return {
            **certain,
            "effect_size": 0.0 if constant == 0 else math.copysign(math.inf, constant),
            **counts,
            "p_value": float(constant == 0),
        }
    test = stats.ttest_rel(system, baseline)
    interval = test.confidence_interval(0.95)
    return {
        "difference": float(differences.mean()),
        "low": float(interval.low),
        "high": float(interval.high),
        "effect_size": float(differences.mean() / differences.std(ddof=1)),
        **counts,
        "p_value": float(test.pvalue),
    }


def _correct(p_values: np.ndarray, correction: str) -> np.ndarray:
    from statsmodels.stats.multitest import multipletests

    if correction == "none" or not len(p_values):
        return p_values
    corrected: np.ndarray = multipletests(p_values, method=correction)[1]
    return corrected
