import pickle
import shutil

import numpy as np
import pytest
import torch

from pyterrier_merge import MergeRecipe, Segment
from pyterrier_merge.fingerprint import fingerprint
from pyterrier_merge.methods import blend, get_method
from pyterrier_merge.models import fingerprint_model


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
        ({"mlp": Segment(0.5, 2)}, "part 'mlp' is of its segment's size and has no parts of its own"),
        ({"mlp": Segment(0.5, parts={"down_proj": 1})}, "has no parts of its own"),
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
def test_parameters_are_what_mergekit_takes_them_for(method, given, read, named):
    one = recipe(0.5, 1, method=method, parameters=given)
    assert dict(one.parameters) == read
    assert [type(value) for value in dict(one.parameters).values()] == [type(read[name]) for name in sorted(read)]
    assert named(0.5, 1, method=method, parameters=given) == named(0.5, 1, method=method, parameters=read)


@pytest.fixture
def named(bert_retriever, bert_language_model):
    def fingerprint(*alphas, source=bert_retriever, domains=bert_language_model, **settings):
        return MergeRecipe(source, domains, tuple(map(Segment, alphas)), **settings).fingerprint

    return fingerprint


def test_fingerprint_follows_content_and_weights_not_names(named, bert_retriever, tmp_path):
    copy = shutil.copytree(bert_retriever, tmp_path / "copy")
    half = named(0.5, 1)
    assert half == named(0.5, 1, source=copy)
    assert half not in (named(0.25, 1), named(1, 0.5))
    config = copy / "config.json"
    config.write_text(config.read_text().replace('"hidden_dropout_prob": 0.1', '"hidden_dropout_prob": 0.2'))
    assert half != named(0.5, 1, source=copy)


def test_fingerprint_is_the_same_for_segments_that_cover_the_layers_alike(named, bert_retriever, bert_language_model):
    four = named(0.5, 0.5, 1, 1)  # the model has four layers
    assert named(0.5, 1) == four
    sized = MergeRecipe(bert_retriever, bert_language_model, (Segment(0.5, 16), Segment(1, 16)))
    assert sized.fingerprint == four
    assert named(0.5, 1, final_norm=1) == four


def test_fingerprint_follows_everything_that_changes_the_weights(named, mistral_language_model):
    plain = {"method": "task_arithmetic"}
    random = {"method": "dare_linear", "parameters": {"density": 0.5}}
    prints = [
        named(0.5, 1),
        named(0.5, 1, embeddings=0.5),
        named(0.5, 1, final_norm=0.5),
        named(0.5, 1, **plain),
        named(0.5, 1, **plain, parameters={"lambda": 0.5}),
        named(0.5, 1, **plain, base=mistral_language_model),
        named(0.5, 1, **random),
        named(0.5, 1, **random, seed=1),
    ]
    assert len(set(prints)) == len(prints)
    assert named(0.5, 1, seed=1) == named(0.5, 1)  # linear draws nothing at random


def test_the_fingerprint_of_a_merge_without_parts_is_by_weights_layer_by_layer(
    named, bert_retriever, bert_language_model
):
    content = {
        "layers": [[(0.5, 0.5)], [(0.5, 0.5)], None, None],
        "embeddings": [[(0.25, 0.75)]],
        "final_norm": [None],
        "head": [None],
        "source": fingerprint_model(bert_retriever),
        "domains": [fingerprint_model(bert_language_model)],
        "base": None,
        "method": "linear",
        "parameters": [],
    }
    assert named(0.5, 1, embeddings=0.25) == fingerprint(content)


def test_fingerprint_follows_parts_where_they_make_a_difference(named, bert_retriever, bert_language_model):
    def of(alpha, **parts):
        return MergeRecipe(bert_retriever, bert_language_model, (Segment(alpha, parts=parts),)).fingerprint

    prints = [
        of(0.5),
        of(0.5, attention=0.25),
        of(0.5, attention=0.75),
        of(0.5, feed_forward=0.25),
        of(0.25, attention=0.5, feed_forward=0.5),
        of(1, attention=0.5),
        of(0.5, attention=0.25, feed_forward=0.75),
        of(0.5, query=0.5, attention=0.25),  # the first part is the segment's own, and counts before the second
    ]
    assert len(set(prints)) == len(prints)
    assert of(0.5, attention=0.5, feed_forward=0.5) == of(0.5) == named(0.5)
    assert of(0.5, attention=0.25, feed_forward=0.5) == of(0.5, attention=0.25)
    assert of(1, attention=1) == fingerprint_model(bert_retriever)


def test_a_merge_that_keeps_the_source_has_the_sources_fingerprint(named, bert_retriever):
    assert named(1, 1) == fingerprint_model(bert_retriever)
    assert named(1, 1, method="slerp") == fingerprint_model(bert_retriever)
    assert named(1, 1, embeddings=0.5) != fingerprint_model(bert_retriever)


def test_fingerprint_knows_a_domain_model_from_a_base(named, bert_language_model, mistral_language_model):
    both = named(None, method="sce", domains=(bert_language_model, mistral_language_model))
    assert both != named(None, method="sce", base=mistral_language_model)


@pytest.mark.parametrize(
    ("method", "said", "unsaid"),
    [
        ("linear", {"normalize": True}, {}),
        ("task_arithmetic", {"lambda": 1, "density": [1.0], "rescale": False}, {}),
        ("ties", {"lambda": 2, "density": [0.5, 0.5]}, {"lambda": 2.0, "density": 0.5}),
        ("della_linear", {"epsilon": [0.15, 0.15], "density": 0.5}, {"density": [0.5, 0.5]}),
    ],
)
def test_fingerprint_takes_what_goes_without_saying_as_unsaid(
    method, said, unsaid, named, bert_retriever, bert_language_model, mistral_language_model
):
    both = (bert_language_model,) * (1 if method in ("linear", "task_arithmetic") else 2)
    explicit, short = ({"method": method, "parameters": given, "domains": both} for given in (said, unsaid))
    assert named(0.5, 1, **explicit) == named(0.5, 1, **short)
    generator = torch.Generator().manual_seed(0)
    tensors = [torch.randn(64, 64, generator=generator) for _ in range(1 + len(both))]
    weights = Segment(0.5).weights(len(both))
    merged = [blend(tensors, get_method(method), weights, parameters=dict(given), name="t") for given in (said, unsaid)]
    assert torch.equal(*merged)


@pytest.mark.parametrize("normalize", [True, False])
@pytest.mark.parametrize("method", ["task_arithmetic", "ties", "breadcrumbs", "dare_linear"])
def test_fingerprint_knows_where_the_source_as_base_makes_no_difference(
    method, normalize, bert_retriever, bert_language_model
):
    domains, kind = (bert_language_model,) * 2, get_method(method)
    parameters = {"density": 0.5, "normalize": normalize}
    tensors = [torch.randn(60, 60, generator=torch.Generator().manual_seed(seed)) for seed in range(3)]

    def print_of(segment, base):
        return MergeRecipe(
            bert_retriever, domains, (segment,), method=method, parameters=parameters, base=base
        ).fingerprint

    def merge_of(segment, base):
        return blend(tensors, kind, segment.weights(2), base=base, parameters=parameters)

    plain = Segment(0.4)
    for segment in (plain, Segment(0.7, domain_weights=(0.3, 0.3))):
        for base, tensor in ((None, None), (bert_retriever, tensors[0])):
            same = torch.equal(merge_of(segment, tensor), merge_of(plain, None))
            assert same or (base and (normalize or kind.random))
            if not (base and normalize):  # ties' bits are equal then, too; fingerprints do not look that closely
                assert (print_of(segment, base) == print_of(plain, None)) == same
            elif not same:
                assert print_of(segment, base) != print_of(plain, None)


@pytest.mark.parametrize("normalize", [True, False])
def test_fingerprint_knows_scales_that_make_no_difference_to_the_bit(normalize, bert_retriever, bert_language_model):
    def print_of(*weights):
        segment = Segment(weights[0], domain_weights=weights[1:])
        domains = (bert_language_model,) * len(weights[1:])
        return MergeRecipe(bert_retriever, domains, (segment,), parameters={"normalize": normalize}).fingerprint

    def merge_of(*weights):
        return blend(tensors, get_method("linear"), weights, parameters={"normalize": normalize})

    generator = torch.Generator().manual_seed(0)
    tensors = [torch.randn(300, 300, generator=generator) for _ in range(3)]
    for weights in ((1, 1, 1), (0.3, 0.2, 0.5), (1, 2, -0.1), (-3, 1, 1)):
        for scale, same in ((2, normalize), (0.125, normalize), (3, False)):
            scaled = tuple(scale * weight for weight in weights)
            assert (print_of(*weights) == print_of(*scaled)) == same
            if same:
                assert torch.equal(merge_of(*weights), merge_of(*scaled))
    assert not torch.equal(merge_of(1, 1, 1), merge_of(3, 3, 3))
