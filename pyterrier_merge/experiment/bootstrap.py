"""The variation of means over trials with other queries and other trials: a two-way bootstrap."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import pandas as pd

RESAMPLES = 2_000


def mean_interval(
    values: np.ndarray, *, level: float = 0.95, resamples: int = RESAMPLES, seed: int = 0
) -> tuple[float, float]:
    """Return the percentile interval of the mean under a two-way bootstrap.

    Each resample draws as many trials and as many queries as there are, with replacement and independently, and takes
    the mean over all pairs of a drawn trial and a drawn query. With one trial, only queries are drawn.

    Args:
        values: ``(trials, queries)``.
        level: Share of the resamples that lie within.
        resamples: Number of resamples.
        seed: Random seed of the draw.
    """
    trials, queries = values.shape
    generator = np.random.default_rng(seed)
    drawn_trials = generator.multinomial(trials, np.full(trials, 1 / trials), size=resamples)
    drawn_queries = generator.multinomial(queries, np.full(queries, 1 / queries), size=resamples)
    means = ((drawn_trials @ values) * drawn_queries).sum(axis=1) / values.size
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def values_of(name: str, measure: str, per_query: pd.DataFrame, per_trial: pd.DataFrame) -> pd.DataFrame:
    """Return a system's values: one row per trial, one column per query.

    Args:
        name: Name of the system.
        measure: Name of the measure.
        per_query: ``name``, ``qid``, ``measure``, ``value``.
        per_trial: The same with ``trial``, for systems with several trials.
    """
    own = per_trial[(per_trial["name"] == name) & (per_trial["measure"] == measure)]
    if own.empty:
        own = per_query[(per_query["name"] == name) & (per_query["measure"] == measure)].assign(trial=1)
    return own.pivot(index="trial", columns="qid", values="value")


def trial_notes(
    measure: str, baselines: Sequence[str], per_query: pd.DataFrame, per_trial: pd.DataFrame
) -> Iterator[str]:
    """Yield a sentence for each system with several trials: mean, standard deviation, and intervals.

    Differences from a baseline with the same number of trials are taken trial by trial.
    """
    for name in dict.fromkeys(per_trial["name"]):
        own = values_of(name, measure, per_query, per_trial)
        means = own.mean(axis=1)
        said = [_interval(own.to_numpy(), sign="")]
        for baseline in baselines:
            other = values_of(baseline, measure, per_query, per_trial)[own.columns]
            if baseline != name and len(other) in (1, len(own)):
                said.append(f"minus {baseline} {_interval(own.to_numpy() - other.to_numpy(), sign='+')}")
        yield (
            f"{name}: {measure} over {len(own)} trials, standard deviation {means.std():.4f}: {'; '.join(said)}. "
            f"Intervals: 95 %, percentiles of {RESAMPLES:,} resamples of both queries and trials (two-way bootstrap)."
        )


def _interval(values: np.ndarray, *, sign: str) -> str:
    low, high = mean_interval(values)
    return f"{values.mean():{sign}.4f} ({low:{sign}.4f} to {high:{sign}.4f})"
