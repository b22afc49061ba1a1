import numpy as np
import pandas as pd
import pytest
from scipy import stats

from pyterrier_merge.tuning.agreement import choose, documents_shares, lower_bounds


def kind(own, **gains):
    """200 queries on which the source scores ``own``; a merge gains ``gain`` on average, .1 more or less on each."""
    source = pd.Series(np.full(200, own))
    swing = np.tile([0.1, -0.1], 100)
    return pd.DataFrame({name: source + gain + swing for name, gain in gains.items()}), source


def chosen(**kinds):
    return choose(
        {name: values for name, (values, _) in kinds.items()}, {name: own for name, (_, own) in kinds.items()}
    )


def test_a_merge_that_gains_on_every_kind_is_chosen():
    """Shares of what is left: .05 / .5 and .04 / .4, so .1; they swing by .1 / .5 and .1 / .4, so by .225."""
    found = chosen(head=kind(0.5, near=0.0, far=0.05), crop=kind(0.6, near=0.0, far=0.04))
    assert found.chosen == "far"
    assert found.merges.loc["far", ["head", "crop", "gain"]].tolist() == pytest.approx([0.05, 0.04, 0.1])
    assert found.merges.loc["far", "low"] == pytest.approx(0.1 - 1.645 * 0.225 / 199**0.5, abs=0.002)
    assert found.merges["agreed"].tolist() == [False, True]
    assert found.labels == 0
    assert "far beats the source: head +0.0500 (source 0.5000, 200 items), crop +0.0400" in found.why
    assert "together +10.0% of what the source leaves to gain, at least +7." in found.why


def test_noise_chooses_the_source():
    rng = np.random.default_rng(0)
    source = pd.Series(rng.uniform(0, 0.8, size=300))
    kinds = {name: pd.DataFrame(rng.normal(0, 0.2, size=(300, 25))).add(source, axis=0) for name in ("head", "crop")}
    assert max(kinds["head"].mean()) > source.mean() + 0.015
    found = choose(kinds, dict.fromkeys(kinds, source))
    assert found.chosen is None
    assert not found.merges["agreed"].any()
    assert "no merge surely beats it on all kinds" in found.why


def test_kinds_that_disagree_choose_the_source():
    found = chosen(head=kind(0.5, one=0.1), title=kind(0.5, one=-0.01))
    assert found.chosen is None
    assert found.merges.loc["one", "low"] > 0  # together the kinds are for it
    assert "the nearest, one: head +0.1000" in found.why
    assert "title -0.0100" in found.why


def test_the_source_among_the_merges_is_not_the_nearest():
    values, source = kind(0.5, one=-0.01)
    values.insert(0, "(1, 1)", source)
    found = choose({"head": values, "crop": values}, {"head": source, "crop": source})
    assert found.chosen is None
    assert "the nearest, one: head -0.0100" in found.why


def test_a_kind_that_the_source_finds_already_is_not_used():
    heads, crops, names = kind(0.5, one=0.1), kind(0.5, one=0.1), kind(0.9, one=-0.01)
    assert chosen(head=heads, crop=crops, title=names).chosen == "one"
    found = chosen(head=heads, title=names)
    assert found.chosen is None
    assert "2 kinds of known items must agree, and fewer can be used" in found.why
    assert "Not used: title: the source scores 0.9000 on 200 items, above 0.85" in found.why
    assert found.kinds["used"].to_dict() == {"head": True, "title": False}


def test_items_that_bm25_finds_better_are_not_used():
    values, source = kind(0.5, one=0.1)
    kinds, sources = {"head": values, "crop": values}, {"head": source, "crop": source}
    assert choose(kinds, sources, {"head": 0.49, "crop": 0.5}).chosen == "one"
    found = choose(kinds, sources, {"head": 0.49, "crop": 0.51})
    assert found.chosen is None
    assert (
        "crop: BM25 scores 0.5100 on 200 items, the source 0.5000: they test word matching more than meaning"
        in found.why
    )


def test_each_kind_counts_alike_whatever_documents_it_has():
    """As shares heads gain .2 and crops .4, so .3 in all. Of 300 documents 100 have both items, and 200 a single one.

    An item of a kind with 200 of 300 documents counts 1.5 times, a half for each kind: swings of .15, and .3 for both.
    """
    head, source = kind(0.5, one=0.1)
    crop = head.set_axis(range(100, 300)) + 0.1
    shares = documents_shares(
        {"head": head - 0.5, "crop": crop - 0.5}, {"head": source, "crop": source.set_axis(range(100, 300))}
    )
    swing = np.tile([0.15, -0.15], 50)
    assert shares[:, 0] == pytest.approx(0.3 + np.concatenate([swing, 2 * swing, swing]))


def test_too_few_items_are_not_used():
    values, source = kind(0.5, one=0.1)
    found = choose(
        {"head": values, "crop": values[:99]}, {"head": source, "crop": source[:99]}, left_out={"title": "no titles"}
    )
    assert found.chosen is None
    assert "crop: 99 items are too few, 100 are needed" in found.why
    assert "title: no titles" in found.why


def test_of_merges_within_a_standard_error_the_nearest_to_the_source_is_chosen():
    """Two merges swing opposite ways: as shares, their difference has the standard error .4 / sqrt(199) = .0284."""
    for gain, expected in ((0.087, "near"), (0.085, "far")):  # .026 and .03 less, as shares
        values, source = kind(0.5, near=gain, far=0.1)
        values["near"] = 2 * values["near"].mean() - values["near"]
        found = choose({"head": values, "crop": values}, {"head": source, "crop": source})
        assert found.chosen == expected
        assert ("(nearer to the source than far" in found.why) == (expected == "near")


def test_of_merges_that_keep_as_much_of_the_source_the_better_is_chosen():
    values, source = kind(0.5, first=0.095, second=0.1)
    both = {"head": values, "crop": values}, {"head": source, "crop": source}
    found = choose(*both, kept=[0.5, 0.5])
    assert found.chosen == "second"
    assert "second beats the source: head" in found.why
    values["first"] = 2 * values["first"].mean() - values["first"]  # their difference now varies
    assert choose(*both, kept=[0.5, 0.5]).chosen == "second"
    assert choose(*both, kept=[0.75, 0.5]).chosen == "first"
    with pytest.raises(ValueError, match="there are 2 merges, and 1 shares of the source"):
        choose(*both, kept=[0.5])


def test_the_bounds_hold_for_all_merges_at_once():
    """The critical value of independent merges is that of Šidák: the .95 ** (1 / 20) quantile of the normal."""
    differences = np.random.default_rng(1).normal(size=(400, 20))
    means, errors = differences.mean(axis=0), differences.std(axis=0, ddof=1) / 20
    critical = (means - lower_bounds(differences)) / errors
    assert critical == pytest.approx(np.full(20, stats.norm.ppf(0.95 ** (1 / 20))), abs=0.12)


def test_a_merge_without_a_difference_has_its_mean_as_bound():
    assert lower_bounds(np.zeros((5, 2))).tolist() == [0, 0]
    mixed = np.column_stack([np.zeros(200), np.tile([0.0, 0.2], 100)])
    assert lower_bounds(mixed)[0] == 0


def test_where_no_kind_was_measured_the_source_is_kept_with_the_reasons():
    found = choose({}, {}, left_out={"head": "20 documents are too short", "title": "no titles"})
    assert found.chosen is None
    assert "and fewer can be used. Not used: head: 20 documents are too short. Not used: title: no titles." in found.why
    with pytest.raises(ValueError, match="nothing to choose on"):
        choose({}, {})


def test_kinds_have_the_same_merges():
    one, other = kind(0.5, a=0.1), kind(0.5, b=0.1)
    with pytest.raises(ValueError, match="the same merges"):
        chosen(head=one, crop=other)
