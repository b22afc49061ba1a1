import pytest

from pyterrier_merge import MergeRecipe, Segment


def recipe(*alphas, **settings):
    return MergeRecipe("source", "domain", tuple(Segment(alpha) for alpha in alphas), **settings)


def test_halves_give_the_lower_layers_the_first_alpha():
    assert MergeRecipe.halves("s", "d", 0.5, 1).layer_alphas(6) == (0.5, 0.5, 0.5, 1, 1, 1)


def test_the_papers_boundary_is_after_layer_16_of_32():
    alphas = MergeRecipe.halves("s", "d", 0.75, 1).layer_alphas(32)
    assert alphas == (0.75,) * 16 + (1,) * 16


def test_an_odd_middle_layer_belongs_to_the_upper_half():
    assert recipe(0, 1).layer_alphas(7) == (0, 0, 0, 1, 1, 1, 1)


def test_sizes_are_proportions():
    segments = (Segment(0, 1), Segment(0.5, 2), Segment(1, 1))
    assert MergeRecipe("s", "d", segments).layer_alphas(8) == (0, 0, 0.5, 0.5, 0.5, 0.5, 1, 1)


def test_one_segment_a_layer():
    assert recipe(0.1, 0.2, 0.3).layer_alphas(3) == (0.1, 0.2, 0.3)


def test_more_segments_than_layers_is_an_error():
    with pytest.raises(ValueError, match="3 segments do not fit 2 layers"):
        recipe(0, 0.5, 1).layer_alphas(2)


@pytest.mark.parametrize("alpha", [-0.01, 1.01, float("nan"), "half", None, True])
def test_an_alpha_outside_the_bounds_is_named(alpha):
    with pytest.raises(ValueError, match="alpha_lower is the weight of the source model"):
        MergeRecipe.halves("s", "d", alpha, 1)


def test_an_unknown_method_lists_the_known():
    with pytest.raises(ValueError, match="linear, slerp, nuslerp"):
        recipe(0.5, method="average")


def test_fingerprint_follows_content_and_weights_not_names(bert_retriever, bert_language_model, tmp_path):
    import shutil

    def named(source, *alphas):
        return MergeRecipe.halves(source, bert_language_model, *alphas).fingerprint

    copy = tmp_path / "copy"
    shutil.copytree(bert_retriever, copy)
    half = named(bert_retriever, 0.5, 1)
    assert half == named(copy, 0.5, 1)
    assert half != named(bert_retriever, 0.25, 1)
    assert half != named(bert_retriever, 1, 0.5)
    config = copy / "config.json"
    config.write_text(config.read_text().replace('"hidden_dropout_prob": 0.1', '"hidden_dropout_prob": 0.2'))
    assert half != named(copy, 0.5, 1)


def test_a_merge_that_keeps_the_source_has_the_sources_fingerprint(bert_retriever, bert_language_model):
    from pyterrier_merge.models import fingerprint_model

    kept = MergeRecipe.halves(bert_retriever, bert_language_model, 1, 1)
    assert kept.fingerprint == fingerprint_model(bert_retriever)
