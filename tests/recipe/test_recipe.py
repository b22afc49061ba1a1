import pickle

import numpy as np
import pytest

from pyterrier_merge import MergeRecipe, Segment


def recipe(*alphas, **settings):
    return MergeRecipe("source", "domain", tuple(Segment(alpha) for alpha in alphas), **settings)


def alphas_of(recipe, num_layers):
    return tuple(segment.alpha for segment in recipe.layer_segments(num_layers))


def test_halves_give_the_lower_layers_the_first_alpha():
    assert alphas_of(MergeRecipe.halves("s", "d", 0.5, 1), 6) == (0.5, 0.5, 0.5, 1, 1, 1)


def test_the_papers_boundary_is_after_layer_16_of_32():
    assert alphas_of(MergeRecipe.halves("s", "d", 0.75, 1), 32) == (0.75,) * 16 + (1,) * 16


def test_an_odd_middle_layer_belongs_to_the_upper_half():
    assert alphas_of(recipe(0, 1), 7) == (0, 0, 0, 1, 1, 1, 1)


def test_sizes_are_proportions():
    segments = (Segment(0, 1), Segment(0.5, 2), Segment(1, 1))
    assert alphas_of(MergeRecipe("s", "d", segments), 8) == (0, 0, 0.5, 0.5, 0.5, 0.5, 1, 1)


def test_one_segment_a_layer():
    assert alphas_of(recipe(0.1, 0.2, 0.3), 3) == (0.1, 0.2, 0.3)


def test_more_segments_than_layers_is_an_error():
    with pytest.raises(ValueError, match="3 segments do not fit 2 layers"):
        recipe(0, 0.5, 1).layer_segments(2)


@pytest.mark.parametrize(
    "alpha", [-0.01, 1.01, float("nan"), float("inf"), "half", "0.5", True, 10**400, [0.5], np.array([0.5, 0.5])]
)
def test_an_alpha_outside_the_bounds_is_named(alpha):
    with pytest.raises(ValueError, match="alpha_lower is the weight of the source model"):
        MergeRecipe.halves("s", "d", alpha, 1)


@pytest.mark.parametrize("size", [0, -1, 1.5, True])
def test_a_size_that_is_no_whole_number_is_an_error(size):
    with pytest.raises(ValueError, match="a segment's size is a whole number"):
        Segment(0.5, size)


def test_an_unknown_method_lists_the_known():
    with pytest.raises(ValueError, match=r"unknown merge method 'average'.*task_arithmetic"):
        recipe(0.5, method="average")


def test_several_domain_models_share_what_the_source_leaves():
    several = MergeRecipe("s", ["a", "b"], (Segment(0.5), Segment(0.5, domain_weights=(0.5, 0))))
    assert several.domains == ("a", "b")
    assert [segment.weights(2) for segment in several.segments] == [(0.5, 0.25, 0.25), (0.5, 0.5, 0)]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"domains": ()}, "at least one domain model"),
        ({"domains": ("a", "")}, "a model's name is empty"),
        ({"segments": ()}, "at least one segment"),
        ({"segments": (Segment(1, domain_weights=(1, 1)),)}, "gives 2 domain weights, the recipe has 1"),
        ({"segments": (Segment(1, domain_weights=(-1,)),)}, "add up to 0"),
        *(
            ({"segments": (Segment(0.3, domain_weights=(-0.3,)),), "method": method}, f"add up to 0, and {method}")
            for method in ("linear", "slerp", "nuslerp", "multislerp")
        ),
        ({"domains": ("d", "e"), "segments": (Segment(0.3, domain_weights=(-0.1, -0.2)),)}, "add up to 0"),  # 5e-17
        ({"segments": Segment(0.5)}, r"segments is a sequence such as .* found Segment\(alpha=0\.5\)"),
        ({"segments": (0.5,)}, r"segments is a sequence such as .* found \(0\.5,\)"),
        ({"segments": 0.5}, r"segments is a sequence such as .* found 0\.5"),
        ({"parameters": None}, "parameters is a mapping such as .* found None"),
        ({"embeddings": None, "method": "sce"}, r"embeddings is an alpha, or a Segment: Segment\(None\)"),
        ({"embeddings": float("nan")}, r"the weight of the source model, a number within \[0, 1\]; found nan"),
        ({"seed": 2.0}, "seed is a whole number, found 2.0"),
        ({"seed": True}, "seed is a whole number, found True"),
        ({"segments": (Segment(None),)}, "linear needs an alpha in every segment"),
        ({"embeddings": 2}, "embeddings is the weight of the source model"),
        ({"base": "b"}, "linear takes no base model"),
        ({"parameters": {"density": 0.5}}, "linear has no parameter 'density'; it has normalize"),
        ({"method": "karcher"}, "karcher takes no weights: give alpha None .* found 0.5"),
        ({"method": "ties"}, "alpha would change nothing"),
        ({"segments": (Segment(0.5, parts={"mlp": None}),)}, "linear needs an alpha in every segment"),
        ({"segments": (Segment(1, parts={"mlp": Segment(1, domain_weights=(-1,))}),)}, "add up to 0"),
        ({"segments": (Segment(1, parts={"mlp": Segment(1, domain_weights=(0, 1))}),)}, "gives 2 domain weights"),
        ({"embeddings": Segment(1, parts={"mlp": 0.5})}, "parts are parts of layers: embeddings has none"),
        ({"final_norm": Segment(1, parts={"mlp": 0.5})}, "parts are parts of layers: final_norm has none"),
    ],
)
def test_what_does_not_fit_is_said_when_the_recipe_is_made(settings, message):
    with pytest.raises(ValueError, match=message):
        MergeRecipe(**{"source": "s", "domains": "d", "segments": (Segment(0.5),), **settings})


def test_a_method_without_weights_takes_segments_without_alpha_and_segments_that_keep_the_source():
    karcher = MergeRecipe.halves("s", "d", None, 1, method="karcher")
    assert [segment.weights(1) for segment in karcher.segments] == [None, (1, 0)]


def test_recipes_are_values():
    settings = {"method": "ties", "parameters": {"normalize": False, "density": 0.5}, "embeddings": 0.5}
    one, same = recipe(0.5, 1, **settings), recipe(0.5, 1, **settings)
    assert one == same
    assert hash(one) == hash(same)
    assert pickle.loads(pickle.dumps(one)) == one
    assert one != recipe(0.5, 1, **{**settings, "parameters": {"normalize": False, "density": 0.4}})
    with pytest.raises(AttributeError):
        one.method = "linear"


def test_a_recipe_prints_what_was_said_and_reads_back():
    one = recipe(0.5, 1, method="ties", parameters={"normalize": False})
    assert repr(one) == (
        "MergeRecipe(source='source', domains=('domain',), segments=(Segment(alpha=0.5), Segment(alpha=1.0)), "
        "method='ties', parameters=(('normalize', False),))"
    )
    assert eval(repr(one), {"MergeRecipe": MergeRecipe, "Segment": Segment}) == one  # noqa: S307 (our own repr)
    assert str(one) == "source + domain (ties; 0.5, 1)"


def test_with_alphas_keeps_sizes_and_everything_else():
    three = MergeRecipe("s", "d", (Segment(1, 2), Segment(1, 1), Segment(1, 3)), method="slerp")
    other = three.with_alphas(0, 0.5, 1)
    assert [(segment.alpha, segment.size) for segment in other.segments] == [(0, 2), (0.5, 1), (1, 3)]
    assert other.method == "slerp"
    with pytest.raises(ValueError, match="3 segments, found 2 alphas"):
        three.with_alphas(0, 1)


def test_parts_of_layers_are_values():
    one = Segment(0.5, parts={"attention": 0.25, "mlp": Segment(1, domain_weights=(0.5,))})
    assert one == Segment(0.5, parts=(("attention", Segment(0.25)), ("mlp", Segment(1, domain_weights=(0.5,)))))
    assert hash(one) == hash(pickle.loads(pickle.dumps(one)))
    assert one != Segment(0.5, parts={"mlp": Segment(1, domain_weights=(0.5,)), "attention": 0.25})  # the first counts
    assert one not in (Segment(0.5), Segment(0.5, parts={"attention": 0.25}))
    assert eval(repr(one), {"Segment": Segment}) == one  # noqa: S307 (our own repr)
    assert str(one) == "0.5 (attention 0.25, mlp 1:0.5)"
    assert repr(Segment(0.5, parts={})) == "Segment(alpha=0.5)"
    words = {"attention": 0.25, "feed_forward": 0.75}
    assert Segment(0.5, parts=words) == Segment(0.5, parts=dict(reversed(words.items())))  # no tensor is in both
    assert [Segment(1, parts={"mlp": alpha}).keeps_source for alpha in (1, 0.5)] == [True, False]


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        (0.5, r"parts are a mapping such as \{'attention': 0.5\}; found 0.5"),
        ("mlp", "parts are a mapping"),
        ({"": 0.5}, "a part is 'attention', 'feed_forward', or a piece of tensors' names; found ''"),
        ({"*": 0.5}, "what belongs to no part takes the segment's own alpha"),
        ({3: 0.5}, "found 3"),
        (
            {"mlp": 1.5},
            r"the alpha of part 'mlp' is the weight of the source model, a number within \[0, 1\]; found 1.5",
        ),
        ({"mlp": "half"}, "the alpha of part 'mlp'"),
        ((("mlp", 0.5), ("mlp", 0.25)), "part 'mlp' is given twice"),
        ({"mlp": Segment(0.5, 2)}, "part 'mlp' has its segment's size and cannot have parts"),
        ({"mlp": Segment(0.5, parts={"down_proj": 1})}, "cannot have parts"),
    ],
)
def test_parts_that_are_none_are_named(parts, message):
    with pytest.raises(ValueError, match=message):
        Segment(0.5, parts=parts)


def test_with_alphas_keeps_parts():
    one = MergeRecipe("s", "d", (Segment(1, 2, parts={"attention": 0.5}), Segment(1)))
    assert one.with_alphas(0, 0.5).segments == (Segment(0, 2, parts={"attention": 0.5}), Segment(0.5))


@pytest.mark.parametrize(
    ("method", "given", "read"),
    [
        ("linear", {"normalize": "no"}, {"normalize": False}),
        ("linear", {"normalize": 0}, {"normalize": False}),
        ("ties", {"normalize": "off", "density": "0.5"}, {"normalize": False, "density": 0.5}),
        ("task_arithmetic", {"density": [np.float32(0.5)]}, {"density": (0.5,)}),
    ],
)
def test_parameters_are_what_mergekit_takes_them_for(method, given, read):
    one = recipe(0.5, 1, method=method, parameters=given)
    assert dict(one.parameters) == read
    assert [type(value) for value in dict(one.parameters).values()] == [type(read[name]) for name in sorted(read)]
    assert one == recipe(0.5, 1, method=method, parameters=read)
