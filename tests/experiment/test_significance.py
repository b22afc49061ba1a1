import numpy as np
import pandas as pd
import pytest
from scipy import stats

from pyterrier_merge.experiment.significance import TestPlan, paired_tests


def frame(**systems):
    return pd.DataFrame(
        [
            {"name": name, "qid": f"q{number}", "measure": "nDCG@10", "value": value}
            for name, values in systems.items()
            for number, value in enumerate(values)
        ]
    )


def test_one_comparison_by_hand():
    """Differences .1 .2 .3 .4: mean .25, s .1291, t = .25 / (.1291 / 2) = 3.873, 3 degrees of freedom: p = .0305."""
    row = paired_tests(
        frame(base=[0.5, 0.4, 0.3, 0.2], new=[0.6, 0.6, 0.6, 0.6]), ["base"], TestPlan(correction="none")
    ).iloc[0]
    assert (row["system"], row["baseline"], row["wins"], row["losses"]) == ("new", "base", 4, 0)
    assert row["difference"] == pytest.approx(0.25)
    assert row["effect_size"] == pytest.approx(0.25 / 0.12910, rel=1e-4)
    assert row["p_value"] == pytest.approx(0.03047, abs=1e-4)
    half_width = 3.18245 * 0.12910 / 2  # the 97.5 % quantile of t with 3 degrees of freedom
    assert (row["low"], row["high"]) == (
        pytest.approx(0.25 - half_width, abs=1e-4),
        pytest.approx(0.25 + half_width, abs=1e-4),
    )
    assert row["significant"]


def test_all_comparisons_are_one_family():
    rng = np.random.default_rng(0)
    base = rng.uniform(size=40)
    systems = {"bm25": base, "source": base + rng.normal(0.02, 0.1, 40), "merged": base + rng.normal(0.04, 0.1, 40)}
    table = paired_tests(frame(**systems), ["bm25", "source"])
    assert list(zip(table["system"], table["baseline"], strict=True)) == [
        ("source", "bm25"),
        ("merged", "bm25"),
        ("merged", "source"),
    ]
    order = table["p_value"].sort_values().index  # Holm: the smallest times 3, the next times 2, never decreasing
    by_hand, highest = {}, 0.0
    for rank, row in enumerate(order):
        highest = max(highest, min(1.0, table["p_value"][row] * (3 - rank)))
        by_hand[row] = highest
    assert table["corrected_p"].to_dict() == pytest.approx(by_hand)


def test_equal_systems_do_not_differ():
    row = paired_tests(frame(base=[0.1, 0.2], same=[0.1, 0.2]), ["base"]).iloc[0]
    assert (row["p_value"], row["difference"], row["effect_size"], row["significant"]) == (1.0, 0.0, 0.0, False)


def test_a_gain_that_is_constant_but_for_rounding_is_constant():
    """.3 - .2, .4 - .3 and .2 - .1 differ in their last bits: a variance of 1e-33 is none to test against."""
    row = paired_tests(frame(base=[0.2, 0.3, 0.1], new=[0.3, 0.4, 0.2]), ["base"]).iloc[0]
    assert (row["effect_size"], row["p_value"], row["wins"]) == (np.inf, 0.0, 3)
    assert row["low"] == row["high"] == row["difference"] == pytest.approx(0.1)
    row = paired_tests(frame(base=[0.3, 0.5, 0.7], same=[0.1 + 0.2, 0.5, 0.7]), ["base"]).iloc[0]
    assert (row["effect_size"], row["p_value"], row["wins"], row["losses"]) == (0.0, 1.0, 0, 0)


def test_bad_input_is_named():
    scores = frame(base=[0.1, 0.2], new=[0.3, 0.4])
    with pytest.raises(ValueError, match=r"unknown baseline 'bse': did you mean 'base'\? the systems are base, new"):
        paired_tests(scores, ["bse"])
    with pytest.raises(ValueError, match="unknown correction 'tukey'"):
        TestPlan(correction="tukey")
    with pytest.raises(ValueError, match="needs two queries and two systems"):
        paired_tests(frame(base=[0.1], new=[0.3]), ["base"])
    with pytest.raises(ValueError, match="needs two queries and two systems"):
        paired_tests(frame(base=[0.1, 0.2]), ["base"])
    with pytest.raises(ValueError, match="not measured on the same queries"):
        paired_tests(scores.iloc[:-1], ["base"])


def several_measures():
    rng = np.random.default_rng(1)
    frames = []
    for measure in ("nDCG@10", "AP"):
        base = rng.uniform(size=30)
        systems = {"a": base, "b": base + rng.normal(0.03, 0.1, 30), "c": base + rng.normal(0.05, 0.1, 30)}
        frames.append(frame(**systems).assign(measure=measure))
    return pd.concat(frames)


def test_a_family_of_one_measure_is_corrected_as_pt_experiment_corrects_it():
    """``pt.Experiment`` corrects the p-values of each measure against one baseline together."""
    from statsmodels.stats.multitest import multipletests

    found = paired_tests(several_measures(), ["a", "b"], TestPlan(family="measure"))
    for (_, _), own in found.groupby(["measure", "baseline"]):
        assert own["corrected_p"].tolist() == pytest.approx(multipletests(own["p_value"], method="holm")[1])
    assert found.groupby(["measure", "baseline"]).size().tolist() == [2, 1, 2, 1]
    every = paired_tests(several_measures(), ["a", "b"])
    assert every["corrected_p"].tolist() == pytest.approx(multipletests(every["p_value"], method="holm")[1])
    assert (every["corrected_p"] >= found["corrected_p"] - 1e-15).all()


def test_the_plan_says_what_was_corrected_together():
    found = paired_tests(several_measures(), ["a"])
    assert TestPlan().describe(found) == (
        "two-sided paired t-test over the queries, Holm-corrected over the 4 comparisons, p < 0.05"
    )
    assert "queries, one comparison, so nothing is corrected, p < 0.05" in TestPlan().describe(found[:1])
    assert "Benjamini-Hochberg-corrected over" in TestPlan(correction="fdr_bh").describe(found)
    assert "over the 2 comparisons of each measure and baseline" in TestPlan(family="measure").describe(found)
    assert "p-values not corrected" in TestPlan(correction="none").describe(found)
    assert "not corrected" in TestPlan().describe_intervals()
    assert "99% confidence intervals" in TestPlan(level=0.01).describe_intervals()
    assert "99.5% confidence intervals" in TestPlan(level=0.005).describe_intervals()


def test_simultaneous_intervals_are_those_of_a_level_divided_by_the_size_of_the_family():
    plain = paired_tests(several_measures(), ["a"], TestPlan(level=0.05 / 4))
    wide = paired_tests(several_measures(), ["a"], TestPlan(simultaneous=True))
    assert wide["low"].tolist() == pytest.approx(plain["low"].tolist())
    assert (wide["high"] > paired_tests(several_measures(), ["a"])["high"]).all()


def test_the_randomization_test_counts_sign_flips():
    """Six gains of .1: of the 64 ways to flip signs, 2 have a mean as far from 0, so p = 2 / 64, exactly."""
    scores = frame(base=[0.1] * 6, new=[0.2] * 6)
    found = paired_tests(scores, ["base"], TestPlan(test="randomization", correction="none"))
    assert found["p_value"].item() == pytest.approx(2 / 64)


def test_the_wilcoxon_test_reads_ranks():
    """Eight gains of different sizes: the smallest sum of ranks that there is, p = 2 / 256."""
    scores = frame(base=[0.0] * 8, new=[0.01 * number for number in range(1, 9)])
    found = paired_tests(scores, ["base"], TestPlan(test="wilcoxon", correction="none"))
    assert found["p_value"].item() == pytest.approx(2 / 256)


def test_differences_that_are_equal_but_for_rounding_have_the_same_rank():
    """.4 - .3, .3 - .2 and .7 - .8 are all .1 far from 0, so their signed ranks are 2, 2 and -2; and .2 has rank 4."""
    scores = frame(base=[0.3, 0.2, 0.8, 0.1], new=[0.4, 0.3, 0.7, 0.3])
    found = paired_tests(scores, ["base"], TestPlan(test="wilcoxon", correction="none"))
    assert found["p_value"].item() == stats.wilcoxon([1, 1, -1, 2]).pvalue


@pytest.mark.parametrize("test", ["t", "randomization", "wilcoxon"])
def test_no_test_finds_a_difference_where_there_is_none(test):
    found = paired_tests(frame(base=[0.1, 0.2, 0.4], new=[0.1, 0.2, 0.4]), ["base"], TestPlan(test=test))
    assert found["p_value"].item() == 1


@pytest.mark.parametrize("change", [{"test": "z"}, {"family": "system"}, {"level": 0}, {"level": 1.0}])
def test_a_plan_names_what_is_wrong(change):
    with pytest.raises(ValueError, match=next(iter(change))):
        TestPlan(**change)
