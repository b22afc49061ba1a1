import numpy as np
import pandas as pd
import pytest
from scipy import stats

from pyterrier_merge.tuning.uncertainty import uncertainty


def test_the_best_of_many_equal_merges_does_not_look_better_than_the_source():
    """Forty merges that differ from the source by noise: the best seems to gain, and on left-out queries does not."""
    rng = np.random.default_rng(0)
    source = pd.Series(rng.uniform(size=100))
    values = pd.DataFrame(rng.normal(0, 0.1, size=(100, 40))).add(source, axis=0)
    best = int(values.mean().argmax())
    found = uncertainty(values, source, best)
    assert values[best].mean() - source.mean() > 0.015
    assert abs(found.gain) < 0.008
    assert found.p_value > 0.05
    assert found.chosen.sum() == pytest.approx(1)
    assert found.regret[best] == 0


def test_a_real_gain_is_found():
    rng = np.random.default_rng(1)
    source = pd.Series(rng.uniform(size=200))
    gains = np.array([0.0, 0.08, 0.02])
    values = pd.DataFrame(rng.normal(0, 0.1, size=(200, 3)) + gains).add(source, axis=0)
    found = uncertainty(values, source, 1)
    gain = values[1].mean() - source.mean()
    assert found.chosen[1] > 0.99
    assert found.gain == pytest.approx(gain, abs=0.002)  # nothing is lost where the choice is plain
    assert found.low < gain < found.high
    assert found.p_value < 0.001


def test_a_single_merge_has_the_p_value_of_a_sign_flip_test():
    rng = np.random.default_rng(2)
    differences = rng.normal(0.02, 0.1, size=60)
    found = uncertainty(pd.DataFrame({"merge": differences}), pd.Series(np.zeros(60)), 0)
    by_scipy = stats.permutation_test(
        (differences,), np.mean, permutation_type="samples", alternative="greater", n_resamples=9999, rng=0
    )
    assert found.p_value == pytest.approx(by_scipy.pvalue, abs=0.02)


@pytest.mark.parametrize(("gain", "queries"), [(0.37, 6), (0.3, 7)])
def test_equal_differences_have_the_p_value_of_all_signs_alike(gain, queries):
    found = uncertainty(pd.DataFrame({"merge": np.full(queries, gain)}), pd.Series(np.zeros(queries)), 0)
    assert found.p_value == pytest.approx(0.5**queries, abs=0.012 * 0.5 ** (queries / 2 - 2))


def test_a_merge_that_is_the_source_has_nothing_to_find():
    source = pd.Series([0.1, 0.4, 0.3])
    found = uncertainty(pd.DataFrame({"same": source}), source, 0)
    assert (found.gain, found.low, found.high, found.p_value) == (0, 0, 0, 1)


def test_of_equal_merges_the_earlier_is_chosen():
    source = pd.Series(np.zeros(20))
    values = pd.DataFrame({"first": np.full(20, 0.1), "second": np.full(20, 0.1)})
    assert uncertainty(values, source, 0).chosen.tolist() == [1, 0]


def test_one_query_is_too_few():
    with pytest.raises(ValueError, match="two queries at least, found 1"):
        uncertainty(pd.DataFrame({"merge": [0.1]}), pd.Series([0.2]), 0)
