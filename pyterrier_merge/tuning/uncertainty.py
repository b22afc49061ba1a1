"""The uncertainty of the choice of a merge: how good the best of many is on queries that did not choose it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd

from pyterrier_merge.tuning.rule import Rule, choose

RESAMPLES = 2_000
BLOCK = 200  # resamples in memory at a time
ROUNDING = 1e-12  # smaller differences count as 0


@dataclass(frozen=True)
class Uncertainty:
    """The uncertainty of a choice, from resampling the queries.

    The best of many merges looks better on the queries that chose it than it is (the winner's curse). Here each
    bootstrap sample of the queries chooses a merge, and the queries that are not in the sample measure it.

    Attributes:
        gain: Mean difference from the source on the queries left out.
        low: 2.5 % of the resamples have a lower gain. It is not a confidence bound: each gain is a mean over a third
            of the queries, so the range is wider than a 95 % confidence interval.
        high: 2.5 % of the resamples have a higher gain.
        p_value: One-sided p-value that the best merge is no better than the source, for the whole grid at once: a max-T
            test by random sign flips (Westfall and Young, 1993), which accounts for the choice among many.
        chosen: For each merge, the share of resamples that chose it.
        regret: For each merge, how much lower it scores than the merge chosen on all queries, on the queries left out
            (mean over resamples; negative if higher).
    """

    gain: float
    low: float
    high: float
    p_value: float
    chosen: np.ndarray
    regret: np.ndarray


def uncertainty(
    values: pd.DataFrame,
    source: pd.Series[float],
    best: int,
    *,
    kept: np.ndarray | None = None,
    rule: Rule = "best",
    seed: int = 0,
) -> Uncertainty:
    """Resample the queries of a sweep.

    Args:
        values: One row per query, one column per merge.
        source: The source's value for each of these queries.
        best: Position of the merge that was chosen on all queries.
        kept: The share of the source that each merge keeps: among equal merges, a sample chooses the one that keeps
            more, and then the earlier column.
        rule: The rule of each sample's choice.
        seed: Random seed of the resampling.

    Raises:
        ValueError: Fewer than two queries.
    """
    differences = values.sub(source, axis=0).to_numpy(dtype=float)
    differences = np.where(np.abs(differences) < ROUNDING, 0, differences)
    if len(differences) < 2:
        raise ValueError(f"resampling needs two queries at least, found {len(differences)}")
    generator = np.random.default_rng(seed)
    kept = np.zeros(differences.shape[1]) if kept is None else kept
    gains, chosen, regrets = [], np.zeros(differences.shape[1]), np.zeros(differences.shape[1])
    for _ in range(RESAMPLES):
        counts = np.bincount(generator.integers(0, len(differences), len(differences)), minlength=len(differences))
        out = counts == 0
        if not out.any():
            continue
        winner = choose(differences, kept, rule, counts)
        left_out = differences[out].mean(axis=0)
        gains.append(left_out[winner])
        chosen[winner] += 1
        regrets += left_out[best] - left_out
    low, high = np.quantile(gains, [0.025, 0.975])
    tested = _max_t(differences, generator)
    count = len(gains)
    return Uncertainty(float(np.mean(gains)), float(low), float(high), tested, chosen / count, regrets / count)


def _max_t(differences: np.ndarray, generator: np.random.Generator) -> float:
    """The p-value of the largest t statistic under random sign flips, query by query."""
    varied = differences[:, np.abs(differences).max(axis=0) > 0]
    if not varied.shape[1]:
        return 1.0
    squares = (varied**2).sum(axis=0)

    def largest(sums: np.ndarray) -> np.ndarray:
        means = sums / len(varied)
        variance = np.maximum(squares / len(varied) - means**2, ROUNDING * squares / len(varied))
        return np.asarray((means / np.sqrt(variance)).max(axis=-1))

    observed = largest(varied.sum(axis=0))
    as_large = 0
    for _ in range(RESAMPLES // BLOCK):
        signs = 2.0 * generator.integers(0, 2, size=(BLOCK, len(varied))) - 1
        as_large += int((largest(signs @ varied) >= observed * (1 - 1e-6 * np.sign(observed))).sum())
    return (as_large + 1) / (RESAMPLES // BLOCK * BLOCK + 1)
