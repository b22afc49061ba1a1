"""The rules of choosing, on values small enough to do by hand."""

import numpy as np
import pytest

from pyterrier_merge.tuning.rule import choose, require_rule

# Four queries, three merges that keep 0, .5 and 1 of the source. Means .5, .45 and .25.
VALUES = np.array([[0.6, 0.6, 0.2], [0.4, 0.2, 0.3], [0.6, 0.5, 0.3], [0.4, 0.5, 0.2]])
KEPT = np.array([0, 0.5, 1])


def test_the_best_has_the_highest_mean_and_of_equal_ones_more_of_the_source():
    assert choose(VALUES, KEPT) == 0
    assert choose(np.ones((4, 3)), KEPT) == 2
    assert choose(np.ones((4, 3)), np.array([1, 0, 1])) == 0


def test_one_standard_error_of_the_paired_difference():
    """The second merge is .05 behind; its differences 0, .2, .1, -.1 have the standard error .0645. The third is .25
    behind, with differences .4, .1, .3, .2 and the same standard error."""
    differences = VALUES[:, 0] - VALUES[:, 1]
    assert differences.std(ddof=1) / 2 == pytest.approx(0.0645, abs=1e-4)
    assert choose(VALUES, KEPT, "one-standard-error") == 1
    worse = VALUES - [[0, 0.02, 0]]  # .07 behind is more than .0645
    assert choose(worse, KEPT, "one-standard-error") == 0


def test_a_query_that_counts_twice_is_a_query_more():
    counts = np.array([1, 2, 0, 1])
    repeated = VALUES[[0, 1, 1, 3]]
    for rule in ("best", "one-standard-error"):
        assert choose(VALUES, KEPT, rule, counts) == choose(repeated, KEPT, rule)


def test_an_unknown_rule_is_refused():
    with pytest.raises(ValueError, match="found 'bst'"):
        require_rule("bst")
