import pytest

from pyterrier_merge.merging.places import place_of

NAMES = {
    "embed_tokens.weight": "embeddings",
    "embeddings.LayerNorm.weight": "embeddings",
    "wte.weight": "embeddings",
    "layers.2.mlp.up_proj.weight": "layer 2",
    "encoder.layer.10.output.dense.bias": "layer 10",
    "h.0.attn.c_attn.weight": "layer 0",
    "norm.weight": "final norm",
    "ln_f.bias": "final norm",
    "head.0.linear.weight": "projection head",
}


@pytest.mark.parametrize("name", NAMES)
def test_a_tensors_place_is_named(name):
    assert str(place_of(name)) == NAMES[name]


def test_places_sort_as_a_text_passes_through_them():
    found = [str(place) for place in sorted(set(map(place_of, sorted(NAMES, reverse=True))))]
    assert found == ["embeddings", "layer 0", "layer 2", "layer 10", "final norm", "projection head"]
