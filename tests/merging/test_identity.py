import shutil

import pytest
import torch

from pyterrier_merge import MergeRecipe, Segment
from pyterrier_merge.fingerprint import fingerprint
from pyterrier_merge.merging.identity import merge_fingerprint
from pyterrier_merge.methods import blend, get_method
from pyterrier_merge.models import fingerprint_model


@pytest.fixture
def named(bert_retriever, bert_language_model):
    def fingerprint(*alphas, source=bert_retriever, domains=bert_language_model, **settings):
        return merge_fingerprint(MergeRecipe(source, domains, tuple(map(Segment, alphas)), **settings))

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
    assert merge_fingerprint(sized) == four
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
        return merge_fingerprint(MergeRecipe(bert_retriever, bert_language_model, (Segment(alpha, parts=parts),)))

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
    assert of(0.5) == named(0.5)
    assert of(1, attention=1) == fingerprint_model(bert_retriever)


def test_a_merge_that_keeps_the_source_has_the_sources_fingerprint(named, bert_retriever):
    assert named(1, 1) == fingerprint_model(bert_retriever)
    assert named(1, 1, method="slerp") == fingerprint_model(bert_retriever)
    assert named(1, 1, embeddings=0.5) != fingerprint_model(bert_retriever)


def test_fingerprint_knows_a_domain_model_from_a_base(named, bert_language_model, mistral_language_model):
    both = named(None, method="sce", domains=(bert_language_model, mistral_language_model))
    assert both != named(None, method="sce", base=mistral_language_model)


def test_fingerprint_knows_the_source_as_base_where_its_weight_counts(named, bert_retriever, bert_language_model):
    domains, bases, parameters = (bert_language_model,) * 2, (None, bert_retriever), {"parameters": {"density": 0.5}}
    tensors = [torch.randn(60, 60, generator=torch.Generator().manual_seed(seed)) for seed in range(3)]
    weights, method = Segment(0.4).weights(2), get_method("dare_linear")
    merged = [blend(tensors, method, weights, base=base, **parameters) for base in (None, tensors[0])]
    assert not torch.equal(*merged)
    prints = [named(0.4, domains=domains, method=method.name, base=base, **parameters) for base in bases]
    assert prints[0] != prints[1]


@pytest.mark.parametrize("scale", [2, 3])
def test_fingerprint_knows_weights_that_are_not_divided_by_their_sum(scale, bert_retriever, bert_language_model):
    def print_of(*weights):
        segment = Segment(weights[0], domain_weights=weights[1:])
        recipe = MergeRecipe(bert_retriever, bert_language_model, (segment,), parameters={"normalize": False})
        return merge_fingerprint(recipe)

    assert print_of(0.25, 0.75) != print_of(0.25 * scale, 0.75 * scale)


def test_domain_weights_that_are_the_default_shares_are_the_same_merge(named, bert_retriever, bert_language_model):
    domains = (bert_language_model,) * 2
    spelled = MergeRecipe(bert_retriever, domains, (Segment(0.5, domain_weights=(0.25, 0.25)),))
    assert merge_fingerprint(spelled) == named(0.5, domains=domains)


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
