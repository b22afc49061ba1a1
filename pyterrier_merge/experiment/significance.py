"""Paired tests of several systems against several baselines, with correction for multiple tests."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, get_args

import numpy as np
import pandas as pd

from pyterrier_merge.spelling import did_you_mean

DIGITS = 12  # of differences, so that those that differ only by rounding are equal and have the same rank
RESAMPLES = 9_999  # random sign flips; the smallest p-value is 2 / (RESAMPLES + 1)
BATCH = 500  # resamples in memory at a time
Test = Literal["t", "randomization", "wilcoxon"]
Correction = Literal["holm", "bonferroni", "fdr_bh", "none"]
Family = Literal["all", "measure"]
CORRECTIONS: Mapping[str, str] = {"holm": "Holm", "bonferroni": "Bonferroni", "fdr_bh": "Benjamini-Hochberg"}
TESTS: Mapping[str, str] = {
    "t": "paired t-test",
    "randomization": "paired randomization test",
    "wilcoxon": "Wilcoxon signed-rank test",
}


@dataclass(frozen=True, kw_only=True)
class TestPlan:
    """The plan of the tests of systems against the baselines.

    Attributes:
        test: ``t``; ``randomization`` (9,999 random flips of the signs of the differences, seeded); or ``wilcoxon``.
        correction: A method of ``statsmodels.stats.multitest.multipletests``, or ``none``.
        family: Which p-values are corrected together: ``all`` of the table, or those of each ``measure`` against each
            baseline, as ``pt.Experiment`` does it.
        level: Corrected p-values below it are significant; ``1 - level`` is the level of the intervals.
        simultaneous: Widen the intervals so that all of a family hold together (Bonferroni).
        seed: Of the randomization test.
    """

    __test__ = False  # pytest would collect it

    test: Test = "t"
    correction: Correction = "holm"
    family: Family = "all"
    level: float = 0.05
    simultaneous: bool = False
    seed: int = 0

    def __post_init__(self) -> None:
        for name, kinds in (("test", Test), ("correction", Correction), ("family", Family)):
            value, known = getattr(self, name), get_args(kinds)
            if value not in known:
                raise ValueError(f"unknown {name} {value!r}: {did_you_mean(value, known, 'choose one of')}")
        if not 0 < self.level < 1:
            raise ValueError(f"level must lie between 0 and 1, found {self.level!r}")

    def describe(self, comparisons: pd.DataFrame) -> str:
        """Return a part of a sentence that names the test, the correction and the number of p-values it covers."""
        test = f"two-sided {TESTS[self.test]} over the queries"
        if self.correction == "none":
            return f"{test}, p-values not corrected, p < {self.level:g}"
        sizes = sorted(set(_families(comparisons, self.family).value_counts()))
        covers = " or ".join(f"{size:,}" for size in sizes) or "0"
        each = "" if self.family == "all" else " of each measure and baseline"
        if covers == "1":
            return f"{test}, one comparison{each}, so nothing is corrected, p < {self.level:g}"
        return (
            f"{test}, {CORRECTIONS[self.correction]}-corrected over the {covers} comparisons{each}, p < {self.level:g}"
        )

    def corrects(self, comparisons: pd.DataFrame) -> pd.Series[bool]:
        """Return whether each p-value is corrected: not if it is alone in its family."""
        return (_sizes(_families(comparisons, self.family)) > 1) & (self.correction != "none")

    def describe_intervals(self) -> str:
        """Return a part of a sentence that names the level of the intervals and whether they are corrected."""
        how = "simultaneous (Bonferroni) over the family" if self.simultaneous else "each on its own, not corrected"
        return f"{100 * (1 - self.level):g}% confidence intervals of the mean difference by the t distribution, {how}"


DEFAULT_PLAN = TestPlan()


def paired_tests(per_query: pd.DataFrame, baselines: Sequence[str], plan: TestPlan = DEFAULT_PLAN) -> pd.DataFrame:
    """Compare every system with every baseline in every measure by two-sided paired tests over the queries.

    Args:
        per_query: Columns ``name``, ``qid``, ``measure``, ``value``, as ``pt.Experiment(perquery=True)`` returns them.
        baselines: Names of systems, each compared with all systems that come after it in this list or are not in it.
        plan: Test, correction, family and level.

    Returns:
        One row per comparison: ``system``, ``baseline``, ``measure``, ``difference`` (of means), ``low`` and ``high``
        (confidence interval of the difference), ``effect_size`` (Cohen's d of the paired differences), ``wins`` and
        ``losses`` (queries), ``p_value``, ``corrected_p``, ``significant``, and ``direction``: 1 if the system is
        better in the test's statistic (the mean; for ``wilcoxon`` the sum of signed ranks), -1 if it is worse.

    Raises:
        ValueError: A baseline is unknown, there are fewer than two systems or queries, or systems were not measured on
            the same queries.
    """
    names = list(dict.fromkeys(per_query["name"]))
    if unknown := [baseline for baseline in baselines if baseline not in names]:
        raise ValueError(f"unknown baseline {unknown[0]!r}: {did_you_mean(unknown[0], names, 'the systems are')}")
    rows: list[dict[str, Any]] = []
    differences: list[np.ndarray] = []
    for measure, scores in per_query.groupby("measure", sort=False):
        table = scores.pivot(index="qid", columns="name", values="value")
        if len(table) < 2 or len(names) < 2:
            raise ValueError(f"{measure}: a paired test needs two queries and two systems, found {table.shape}")
        if table.isna().to_numpy().any():
            raise ValueError(f"{measure}: the systems were not measured on the same queries")
        for position, baseline in enumerate(baselines):
            for name in (name for name in names if name not in baselines[: position + 1]):
                rows.append({"system": name, "baseline": baseline, "measure": str(measure)})
                difference = (table[name] - table[baseline]).to_numpy(dtype=float)
                differences.append(np.round(difference, DIGITS) + 0.0)  # no -0.0
    comparisons = pd.DataFrame(rows, columns=["system", "baseline", "measure"])
    family = _families(comparisons, plan.family)
    found = [
        _tested(difference, plan, plan.level / (size if plan.simultaneous else 1))
        for difference, size in zip(differences, _sizes(family), strict=True)
    ]
    columns = ("difference", "low", "high", "effect_size", "wins", "losses", "p_value", "direction")
    comparisons = pd.concat([comparisons, pd.DataFrame(found, columns=columns)], axis=1)
    comparisons["corrected_p"] = comparisons.groupby(family, sort=False)["p_value"].transform(_corrected, plan)
    comparisons["significant"] = comparisons["corrected_p"] < plan.level
    return comparisons


def _families(comparisons: pd.DataFrame, family: Family) -> pd.Series[Any]:
    """The number of the family that each comparison belongs to."""
    if family == "all" or comparisons.empty:
        numbers = np.zeros(len(comparisons), dtype=int)
    else:
        numbers = comparisons.groupby(["measure", "baseline"], sort=False).ngroup().to_numpy()
    return pd.Series(numbers, index=comparisons.index)


def _sizes(family: pd.Series[Any]) -> pd.Series[int]:
    return family.groupby(family).transform("size")


def _tested(differences: np.ndarray, plan: TestPlan, alpha: float) -> dict[str, float]:
    mean = float(differences.mean())
    wins, losses = int((differences > 0).sum()), int((differences < 0).sum())
    if np.ptp(differences) == 0:  # the t distribution needs a variance
        spread = {"low": mean, "high": mean, "effect_size": 0.0 if mean == 0 else math.copysign(math.inf, mean)}
    else:
        spread = _spread(differences, alpha)
    tested = {"p_value": _p_value(differences, plan), "direction": _direction(differences, plan)}
    return {"difference": mean, **spread, "wins": wins, "losses": losses, **tested}


def _spread(differences: np.ndarray, alpha: float) -> dict[str, float]:
    from scipy import stats

    interval = stats.ttest_1samp(differences, 0).confidence_interval(1 - alpha)
    effect = float(differences.mean() / differences.std(ddof=1))
    return {"low": float(interval.low), "high": float(interval.high), "effect_size": effect}


def _direction(differences: np.ndarray, plan: TestPlan) -> int:
    from scipy import stats

    if plan.test != "wilcoxon":
        return int(np.sign(differences.sum()))
    changed = differences[differences != 0]
    return int(np.sign((np.sign(changed) * stats.rankdata(np.abs(changed))).sum()))


def _p_value(differences: np.ndarray, plan: TestPlan) -> float:
    from scipy import stats

    if not differences.any():
        return 1.0
    if plan.test == "wilcoxon":
        return float(stats.wilcoxon(differences).pvalue)
    if plan.test == "randomization":
        flips = partial(stats.permutation_test, permutation_type="samples", vectorized=True)  # of signs
        return float(flips((differences,), np.mean, n_resamples=RESAMPLES, batch=BATCH, rng=plan.seed).pvalue)
    if np.ptp(differences) == 0:
        return 0.0
    return float(stats.ttest_1samp(differences, 0).pvalue)


def _corrected(p_values: pd.Series[float], plan: TestPlan) -> pd.Series[float]:
    from statsmodels.stats.multitest import multipletests

    if plan.correction == "none" or p_values.empty:
        return p_values
    return pd.Series(multipletests(p_values.to_numpy(), method=plan.correction)[1], index=p_values.index)
