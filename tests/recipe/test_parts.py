"""Which tensors attention and feed-forward network are, told by the classes of the modules that hold them."""

import pytest
import torch
import transformers

from pyterrier_merge import Segment
from pyterrier_merge.merging.places import layer_of
from pyterrier_merge.recipe.parts import NEUTRAL_PARTS, belongs_to

SIZES = {
    "hidden_size": 32,
    "num_hidden_layers": 12,
    "num_attention_heads": 4,
    "intermediate_size": 64,
    "vocab_size": 50,
    "pad_token_id": 0,
}
FAMILIES = {
    "Bert": SIZES,
    "Roberta": SIZES,
    "XLMRoberta": SIZES,
    "Electra": {**SIZES, "embedding_size": 32},
    "MPNet": SIZES,
    "DebertaV2": SIZES,
    "DistilBert": {"dim": 32, "n_layers": 12, "n_heads": 4, "hidden_dim": 64, "vocab_size": 50},
    "ModernBert": {**SIZES, "cls_token_id": 1, "sep_token_id": 2, "bos_token_id": 1, "eos_token_id": 2},
    "Llama": SIZES,
    "Mistral": {**SIZES, "num_key_value_heads": 2},
    "Qwen2": {**SIZES, "num_key_value_heads": 2},
    "Qwen3": {**SIZES, "num_key_value_heads": 2, "head_dim": 8},
    "Gemma2": {**SIZES, "num_key_value_heads": 2, "head_dim": 8},
    "Phi3": {**SIZES, "num_key_value_heads": 2},
    "GPT2": {"n_embd": 32, "n_layer": 12, "n_head": 4, "vocab_size": 50},
    "GPTNeoX": SIZES,
    "OPT": {**SIZES, "ffn_dim": 64, "word_embed_proj_dim": 32},
    "Bloom": {"hidden_size": 32, "n_layer": 12, "n_head": 4, "vocab_size": 50},
    "Falcon": SIZES,
}


def by_classes(model, name):
    """An inner norm of attention (of queries and keys) is part of it, a norm around it or the network is of neither."""
    parts = name.split(".")
    modules = [model.get_submodule(".".join(parts[:depth])) for depth in range(1, len(parts))]
    *outer, own = [type(module).__name__ for module in modules]
    if "Norm" in own and parts[-2] not in ("q_norm", "k_norm"):
        return None
    return "attention" if any("Attention" in kind for kind in outer) else "feed_forward"


@pytest.mark.parametrize("family", FAMILIES)
def test_parts_are_what_the_modules_are(family):
    config = getattr(transformers, f"{family}Config")(**FAMILIES[family])
    with torch.device("meta"):
        model = getattr(transformers, f"{family}Model")(config)
    segment, found = Segment(1, parts={"feed_forward": 0.5, "attention": 0.25}), set()
    for name in dict(model.named_parameters()):
        if layer_of(name) is not None:
            assert segment.part_of(name) == by_classes(model, name), name
            found.add(segment.part_of(name))
    assert found == {"attention", "feed_forward", None}


@pytest.mark.parametrize(
    ("name", "part", "expected"),
    [
        ("layers.3.self_attn.q_proj.weight", "self_attn", True),
        ("layers.3.self_attn.q_proj.weight", "q_proj", True),
        ("layers.3.self_attn.q_proj.weight", "model.layers.3.", True),  # as mergekit's names begin
        ("layers.13.self_attn.q_proj.weight", "layers.3.", False),
        ("layers.3.post_attention_layernorm.weight", "attention", False),
        ("layers.3.post_attention_layernorm.weight", "attention_layernorm", True),
        ("encoder.layer.10.output.dense.weight", "feed_forward", True),
        ("encoder.layer.10.attention.output.dense.weight", "feed_forward", False),
        ("encoder.layer.10.attention.output.dense.weight", "output.dense", True),
        ("encoder.layer.10.attention.output.LayerNorm.weight", "attention", False),
        ("encoder.layer.1.attention.self.query.weight", "self_attn", False),
    ],
)
def test_a_part_is_a_piece_of_the_name_or_a_word_for_all_families(name, part, expected):
    assert belongs_to(name, part) is expected


def test_the_words_have_no_tensor_in_common():
    attention, feed_forward = NEUTRAL_PARTS.values()
    assert not [(one, two) for one in attention for two in feed_forward if one in two or two in one]
