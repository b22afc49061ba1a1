"""Intervals over queries and trials."""

import numpy as np
import pandas as pd
import pytest

from pyterrier_merge.experiment.bootstrap import mean_interval, trial_notes


def by_hand(values, seed, resamples=4000):
    """The same bootstrap by indices, one resample after the other."""
    generator = np.random.default_rng(seed)
    trials, queries = values.shape
    means = []
    for _ in range(resamples):
        rows, columns = generator.integers(trials, size=trials), generator.integers(queries, size=queries)
        means.append(values[np.ix_(rows, columns)].mean())
    return np.quantile(means, [0.025, 0.975])


def test_queries_and_trials_are_both_drawn():
    generator = np.random.default_rng(0)
    values = generator.random((5, 40)) + generator.normal(0, 0.3, (5, 1))  # trials differ a great deal
    found = mean_interval(values, resamples=4000)
    assert found == pytest.approx(by_hand(values, 1), abs=0.02)
    alone = mean_interval(values.mean(axis=0, keepdims=True), resamples=4000)  # as if the trials were all there are
    assert alone == pytest.approx(by_hand(values.mean(axis=0, keepdims=True), 1), abs=0.01)
    assert found[1] - found[0] > 2 * (alone[1] - alone[0])


def test_values_that_do_not_differ_have_no_width():
    assert mean_interval(np.full((3, 4), 0.25)) == pytest.approx((0.25, 0.25))


def test_trials_are_compared_with_the_same_trial_of_a_baseline():
    rows = [
        (name, trial, qid, "AP", value + 0.1 * trial)
        for name, value in (("merged", 0.2), ("LoRA", 0.3))
        for trial in (1, 2)
        for qid in "ab"
    ]
    per_trial = pd.DataFrame(rows, columns=["name", "trial", "qid", "measure", "value"])
    source = pd.DataFrame({"name": "source", "qid": ["a", "b"], "measure": "AP", "value": 0.05})
    averaged = per_trial.groupby(["name", "qid", "measure"])["value"].mean().reset_index()
    merged, lora = trial_notes("AP", ["source", "merged"], pd.concat([source, averaged]), per_trial)
    assert merged.startswith("merged: AP over 2 trials, standard deviation 0.0707: 0.3500 (0.3000 to 0.4000); minus ")
    assert "minus source +0.3000 (+0.2500 to +0.3500)." in merged
    assert "minus merged +0.1000 (+0.1000 to +0.1000)." in lora  # trial by trial, which do not differ
    assert lora.endswith("2,000 resamples of both queries and trials (two-way bootstrap).")
