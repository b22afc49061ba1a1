import numpy as np
import pandas as pd
import pytest

from pyterrier_merge.experiment.significance import compare


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
    row = compare(frame(base=[0.5, 0.4, 0.3, 0.2], new=[0.6, 0.6, 0.6, 0.6]), ["base"], correction="none").iloc[0]
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
    table = compare(frame(**systems), ["bm25", "source"])
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
    row = compare(frame(base=[0.1, 0.2], same=[0.1, 0.2]), ["base"]).iloc[0]
    assert (row["p_value"], row["difference"], row["effect_size"], row["significant"]) == (1.0, 0.0, 0.0, False)


def test_a_gain_that_is_constant_but_for_rounding_is_constant():
    """.3 - .2, .4 - .3 and .2 - .1 differ in their last bits: a variance of 1e-33 is none to test against."""
    row = compare(frame(base=[0.2, 0.3, 0.1], new=[0.3, 0.4, 0.2]), ["base"]).iloc[0]
    assert (row["effect_size"], row["p_value"], row["wins"]) == (np.inf, 0.0, 3)
    assert row["low"] == row["high"] == row["difference"] == pytest.approx(0.1)
    row = compare(frame(base=[0.3, 0.5, 0.7], same=[0.1 + 0.2, 0.5, 0.7]), ["base"]).iloc[0]
    assert (row["effect_size"], row["p_value"], row["wins"], row["losses"]) == (0.0, 1.0, 0, 0)


def test_bad_input_is_named():
    scores = frame(base=[0.1, 0.2], new=[0.3, 0.4])
    with pytest.raises(ValueError, match="unknown baseline 'bse': the systems are 'base', 'new'"):
        compare(scores, ["bse"])
    with pytest.raises(ValueError, match="unknown correction 'tukey'"):
        compare(scores, ["base"], correction="tukey")
    with pytest.raises(ValueError, match="needs two queries and two systems"):
        compare(frame(base=[0.1], new=[0.3]), ["base"])
    with pytest.raises(ValueError, match="needs two queries and two systems"):
        compare(frame(base=[0.1, 0.2]), ["base"])
    with pytest.raises(ValueError, match="not measured on the same queries"):
        compare(scores.iloc[:-1], ["base"])
