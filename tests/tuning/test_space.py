"""Spaces: their points, and the recipe of each, worked out by hand."""

import pickle
from dataclasses import replace

import pytest

from pyterrier_merge import MergeRecipe, Segment, Space
from pyterrier_merge.tuning.measured import source_share
from pyterrier_merge.tuning.points import in_words
from pyterrier_merge.tuning.space import interpolated

MODELS = MergeRecipe.halves("source", "domain", 0.5, 0.5)
TWO = MergeRecipe.halves("source", ["a", "b"], 0.5, 0.5)


def segments(space, models=MODELS, **point):
    return space.recipe(models, point).segments


def test_values_make_every_pair():
    points = [tuple(point.values()) for point in Space.halves([0, 1]).points()]
    assert points == [(0, 0), (0, 1), (1, 0), (1, 1)]


def test_points_are_taken_as_they_are_once_each():
    by_name = {"alpha_upper": 1, "alpha_lower": 0.5}
    points = Space.halves([(0.5, 1), [0.25, 1], by_name]).points()
    assert points == [{"alpha_lower": 0.5, "alpha_upper": 1}, {"alpha_lower": 0.25, "alpha_upper": 1}]


@pytest.mark.parametrize(
    ("grid", "message"),
    [
        ([], "is empty"),
        ([0.5, (0.5, 1)], "not both"),
        ([0.5, 1.5], r"alpha_lower .*within \[0, 1\]; found 1.5"),
        (["a"], "found 'a'"),
        ([(0.5, 1, 1)], r"a point has 2 numbers \(alpha_lower, alpha_upper\); found \(0.5, 1, 1\)"),
        ([{"alpha_lowr": 1, "alpha_upper": 1}], "no parameter 'alpha_lowr'; did you mean 'alpha_lower'"),
        ([{"alpha_lower": 1}], "lacks alpha_upper"),
    ],
)
def test_a_bad_grid_is_refused(grid, message):
    with pytest.raises(ValueError, match=message):
        Space.halves(grid)


def test_what_a_point_of_each_shape_stands_for():
    halves = segments(Space.halves(), alpha_lower=0.25, alpha_upper=1)
    assert halves == (Segment(0.25), Segment(1))
    three = segments(Space.segments(3), alpha_1=0, alpha_2=0.5, alpha_3=1)
    assert three == (Segment(0), Segment(0.5), Segment(1))
    layers = segments(Space.layers(4), layer_1=0, layer_2=0.5, layer_3=1, layer_4=1)
    assert [segment.alpha for segment in layers] == [0, 0.5, 1, 1]
    [parts] = segments(Space.parts(), attention=0, feed_forward=0.5)
    assert parts == Segment(0.25, parts={"attention": 0, "feed_forward": 0.5})
    assert Space.segments(2) == Space.halves()


def test_a_profile_is_a_line_between_its_knots():
    assert interpolated([0, 1], 5) == [0, 0.25, 0.5, 0.75, 1]
    assert interpolated([0, 1, 0.5], 5) == [0, 0.5, 1, 0.75, 0.5]
    found = segments(Space.profile(2, layers=3), knot_1=0.5, knot_2=1)
    assert [segment.alpha for segment in found] == [0.5, 0.75, 1]
    with pytest.raises(ValueError, match="3 knots do not fit 2 layers"):
        segments(Space.profile(3, layers=2), knot_1=1, knot_2=1, knot_3=1)
    with pytest.raises(ValueError, match="needs the number of the model's layers"):
        segments(Space.profile(2), knot_1=1, knot_2=1)


def test_segments_of_the_recipe_keep_their_sizes_and_parts():
    models = MergeRecipe("source", "domain", (Segment(0.5, 3, parts={"attention": 0.75}), Segment(0.5, 1)))
    found = segments(Space.halves(), models, alpha_lower=0, alpha_upper=1)
    assert found == (Segment(0, 3, parts={"attention": 0.75}), Segment(1, 1))
    two = replace(models, domains=("one", "other"))
    first, second = segments(Space.halves().with_shares(2), two, alpha_lower=0, alpha_upper=1, share_1=0.25)
    assert (first.size, first.domain_weights, first.parts) == (3, (0.25, 0.75), found[0].parts)
    assert (second.size, second.domain_weights) == (1, (0, 0))


@pytest.mark.parametrize(
    "space", [Space.halves(), Space.segments(3), Space.layers(4), Space.parts(), Space.profile(3, layers=4)]
)
def test_the_ends_are_the_source_and_the_domain_model(space):
    source, domain = (space.recipe(MODELS, end) for end in space.ends)
    assert source.keeps_source
    assert {part.alpha for segment in domain.segments for part in segment.each} == {0}
    assert (source_share(source), source_share(domain)) == (1, 0)
    assert pickle.loads(pickle.dumps(space)) == space


def test_a_setting_belongs_to_the_methods_that_have_it():
    space = Space.halves([0.5]).with_methods("linear", "ties", density=[0.2, 0.8])
    assert [(point["method"], point.get("density")) for point in space.points()] == [
        ("linear", None),
        ("ties", 0.2),
        ("ties", 0.8),
    ]
    models = MergeRecipe.halves("source", "domain", 0.5, 0.5, method="ties", parameters={"normalize": False})
    linear, ties, _ = (space.recipe(models, point) for point in space.points())
    assert (linear.method, dict(linear.parameters)) == ("linear", {"normalize": False})
    assert (ties.method, dict(ties.parameters)) == ("ties", {"density": 0.2, "normalize": False})


def test_whole_numbers_of_a_setting_are_a_range():
    space = Space.halves([0.5]).with_methods("ties", density=[0, 1], normalize=[False])
    assert space.values["density"] == (0.0, 1.0)
    assert all(isinstance(value, float) for value in space.values["density"])
    finer = space.around(space.points()[0], space.points())
    assert finer.values["density"] == (0, 0.5)
    assert space.values["normalize"] == (False,)


@pytest.mark.parametrize(
    ("methods", "settings", "message"),
    [
        (["linaer"], {}, "unknown merge method 'linaer': did you mean 'linear'"),
        (["karcher"], {}, "karcher takes no weights"),
        (["ties"], {"densty": [0.5]}, "no method has the parameter 'densty': did you mean 'density'"),
        (["ties"], {"density": []}, "no values of 'density'"),
        (["ties"], {"density": [[0.2, 0.5]]}, "values of 'density' are numbers, booleans or text"),
    ],
)
def test_bad_methods_are_refused(methods, settings, message):
    with pytest.raises(ValueError, match=message):
        Space.halves().with_methods(*methods, **settings)


def test_domain_models_share_what_the_source_leaves():
    space = Space.segments(1, [0.5]).with_shares(2, [0, 0.25])
    found = [segments(space, TWO, **point) for point in space.points()]
    assert found == [(Segment(0.5, domain_weights=(0, 0.5)),), (Segment(0.5, domain_weights=(0.125, 0.375)),)]
    three = Space.segments(1, [0]).with_shares(3, [0, 0.5, 1])
    shares = [(point["share_1"], point["share_2"]) for point in three.points()]
    assert shares == [(0, 0), (0, 0.5), (0, 1), (0.5, 0), (0.5, 0.5), (1, 0)]  # none above 1 in all
    assert segments(space, TWO, **space.ends[1]) == (Segment(0, domain_weights=(0.5, 0.5)),)
    with pytest.raises(ValueError, match="shares among 2 domain models, the recipe has 1"):
        segments(space, **space.points()[0])
    with pytest.raises(ValueError, match="add up to more than 1"):
        three.point({"alpha_1": 0, "share_1": 0.75, "share_2": 0.5})


def test_a_grid_that_is_too_large_is_refused_and_can_be_searched():
    with pytest.raises(ValueError, match=r"15,625 points of 6 parameters, more than 1,000: .* or search the space"):
        Space.layers(6).points()


def test_the_finer_grid_is_half_way_to_the_neighbours():
    space = Space.halves([0, 0.5, 1])
    best = {"alpha_lower": 0.5, "alpha_upper": 1.0}
    finer = space.around(best, space.points())
    assert finer.values == {"alpha_lower": (0.25, 0.5, 0.75), "alpha_upper": (0.75, 1)}
    methods = Space.segments(1, [0, 1]).with_methods("linear", "slerp")
    found = methods.around({"alpha_1": 1.0, "method": "slerp"}, methods.points())
    assert found.values == {"alpha_1": (0.5, 1), "method": ("slerp",)}


def test_points_in_words():
    assert in_words({"alpha_lower": 0.5, "alpha_upper": 1.0}) == "(0.5, 1)"
    assert in_words({"attention": 0.5, "method": "ties"}) == "(attention 0.5, method ties)"
