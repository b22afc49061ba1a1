"""Adapters that lack something, have too much, or were trained on another source: peft loads all of them."""

import json
import logging

import pytest
import torch
from adapters_made import change_tensors, configure, made_adapter
from peft import PeftModel
from safetensors.torch import load_file
from transformers import AutoModel, AutoModelForCausalLM, AutoModelForMaskedLM, GPT2Config, GPT2Model

from pyterrier_merge.merging.checkpoint import Checkpoint
from pyterrier_merge.models import fingerprint_model, locate_model
from pyterrier_merge.storage import cache_folder


def refused(base, adapter, message):
    kept = sorted(cache_folder("models").iterdir())
    with pytest.raises(ValueError, match=message):
        locate_model(f"{base}+{adapter}")
    assert sorted(cache_folder("models").iterdir()) == kept


def without(adapter, *pieces):
    """Take out the tensors whose names hold one of the pieces; there must be some of each."""

    def drop(tensors):
        for piece in pieces:
            for name in [name for name in tensors if piece in name] or [None]:
                del tensors[name]

    change_tensors(adapter, drop)
    return adapter


SUFFIXES = ["q_proj", "down_proj"]
LAST_QUERY = "layers.3.self_attn.q_proj"


@pytest.mark.parametrize(
    ("settings", "gone", "selected", "lacking", "first"),
    [
        ({"target_modules": SUFFIXES}, ("layers.2.", "layers.3."), 8, 4, "layers.2.self_attn.q_proj"),
        ({"target_modules": SUFFIXES}, ("layers.1.mlp.down_proj.lora_A",), 8, 1, "layers.1.mlp.down_proj"),
        ({"target_modules": r".*layers\.[13]\..*(q|down)_proj"}, ("layers.3.",), 4, 2, "layers.3.self_attn.q_proj"),
        ({"target_modules": "all-linear"}, ("k_proj",), 28, 4, "layers.0.self_attn.k_proj"),
        (
            {"layers_to_transform": [0, 3], "layers_pattern": "layers"},
            ("layers.3.",),
            4,
            2,
            "layers.3.self_attn.q_proj",
        ),
        ({"layers_to_transform": 2, "layers_pattern": ["layers"]}, ("layers.2.mlp",), 2, 1, "layers.2.mlp.down_proj"),
        ({"exclude_modules": r".*layers\.0\..*"}, ("layers.1.",), 6, 2, "layers.1.self_attn.q_proj"),
        ({"rank_pattern": {"down_proj": 4}}, ("down_proj",), 8, 4, "layers.0.mlp.down_proj"),
        ({"use_dora": True}, ("layers.0.self_attn.q_proj.lora_magnitude",), 8, 1, "layers.0.self_attn.q_proj"),
        ({"target_modules": ["embed_tokens", "q_proj"]}, ("lora_embedding_B",), 5, 1, "embed_tokens"),
    ],
    ids=str,
)
@pytest.mark.parametrize("model_class", [AutoModel, AutoModelForCausalLM])
def test_half_an_adapter_is_counted_and_named(
    mistral_retriever, tmp_path, model_class, settings, gone, selected, lacking, first
):
    adapter = made_adapter(mistral_retriever, tmp_path / "adapter", model_class=model_class, **settings)
    if settings.get("target_modules") == "all-linear":
        configure(adapter, target_modules="all-linear")  # peft writes the modules out
    assert locate_model(f"{mistral_retriever}+{adapter}")  # as it was saved, it is whole
    message = rf"of the {selected} modules of .* selects, {lacking} have no or half a LoRA, first '{first}' \(no lora_"
    refused(mistral_retriever, without(adapter, *gone), f"adapter is not whole: {message}")


@pytest.mark.parametrize(
    ("settings", "gone", "message"),
    [
        ({"bias": "all"}, ("LayerNorm.bias",), r"bias='all' says that 'embeddings\.LayerNorm\.bias' was .* \(9 such"),
        (
            {"bias": "lora_only"},
            ("layer.1.attention.self.query.base_layer.bias",),
            "bias='lora_only' says .*1 such",
        ),
        ({"modules_to_save": ["LayerNorm"]}, ("layer.3.output.LayerNorm",), r"modules_to_save says .*layer\.3\.output"),
        ({"trainable_token_indices": {"word_embeddings": [5, 6]}}, ("token_adapter",), r"rows of '\S+' were trained"),
    ],
    ids=str,
)
@pytest.mark.parametrize("model_class", [AutoModel, AutoModelForMaskedLM])
def test_what_was_trained_as_a_whole_must_be_there(bert_retriever, tmp_path, model_class, settings, gone, message):
    adapter = made_adapter(
        bert_retriever, tmp_path / "adapter", model_class=model_class, target_modules=["query"], **settings
    )
    assert locate_model(f"{bert_retriever}+{adapter}")
    refused(bert_retriever, without(adapter, *gone), message)


@pytest.mark.parametrize(
    "settings",
    [
        {"bias": "all"},
        {"bias": "lora_only"},
        {"lora_bias": True},
        {"modules_to_save": ["LayerNorm", "output.dense"]},
        {"use_dora": True, "target_modules": ["word_embeddings", "query"]},
    ],
    ids=str,
)
def test_trained_biases_and_modules_are_what_peft_makes_of_them(bert_retriever, tmp_path, settings):
    settings = {"target_modules": ["query"], **settings}
    adapter = made_adapter(bert_retriever, tmp_path / "adapter", **settings)
    noise = torch.Generator().manual_seed(1)

    def train(tensors):
        for name, tensor in tensors.items():
            tensor.add_(torch.randn(tensor.shape, generator=noise) * (0.0 if "magnitude" in name else 0.1))

    change_tensors(adapter, train)
    merged = Checkpoint(locate_model(f"{bert_retriever}+{adapter}"))
    reference = PeftModel.from_pretrained(AutoModel.from_pretrained(bert_retriever), adapter)
    expected, moved = reference.merge_and_unload().state_dict(), 0
    for name in merged.body:
        if not name.startswith("pooler."):
            torch.testing.assert_close(merged.tensor(name), expected[name], rtol=0, atol=1e-6)
            moved += not merged.tensor(name).equal(Checkpoint(bert_retriever).tensor(name))
    assert moved > 4 or settings["target_modules"] != ["query"]


@pytest.mark.parametrize("targets", [["query", "dense"], "all-linear"])
@pytest.mark.parametrize("there", [True, False])
def test_an_unused_pooler_and_a_head_are_not_missed(bert_retriever, tmp_path, targets, there):
    """BertModel has a pooler, which "dense" selects; BertForMaskedLM does not, and has a dense layer in its head."""
    model_class = AutoModel if there else AutoModelForMaskedLM
    adapter = made_adapter(bert_retriever, tmp_path / "adapter", model_class=model_class, target_modules=targets)
    assert any("pooler" in name for name in load_file(adapter / "adapter_model.safetensors")) == there
    configure(adapter, target_modules=targets)
    merged, plain = Checkpoint(locate_model(f"{bert_retriever}+{adapter}")), Checkpoint(bert_retriever)
    moved = {name for name in plain.body if not merged.tensor(name).equal(plain.tensor(name))}
    assert "encoder.layer.3.output.dense.weight" in moved
    assert not any(name.startswith("pooler.") for name in moved)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"lora_alpha": None}, "expected a number above 0 for 'lora_alpha', found None; set it to the value used in"),
        ({"lora_alpha": 0}, "expected a number above 0 for 'lora_alpha', found 0"),
        ({"lora_alpha": True}, "found True"),
        ({"r": "2"}, "for 'r', found '2'"),
        ({"r": 4}, r"'layers\.0\.self_attn\.q_proj\.lora_A\.weight' is \(2, 32\), .* says rank 4"),
        ({"rank_pattern": {"down_proj": 4}}, r"'layers\.0\.mlp\.down_proj\.lora_A\.weight' is \(2, 64\), .* rank 4"),
        ({"target_modules": ["q_proj"]}, r"8 tensors belong to modules .* not select, .*such as 'layers\.0\.mlp"),
        ({"target_modules": None}, "names no target_modules"),
        ({"target_modules": "(q_proj"}, "target_modules cannot be read"),
        ({"target_modules": ["query"]}, "16 tensors belong to modules that its configuration does not select"),
        ({"layers_to_transform": [0], "layers_pattern": "layers"}, "12 tensors belong to modules"),
        ({"use_dora": True}, r"8 have no or half a LoRA, first '\S+' \(no lora_magnitude_vector\)"),
        ({"lora_bias": True}, r"8 have no or half a LoRA, first '\S+' \(no lora_B\.bias\)"),
        ({"modules_to_save": ["norm"]}, "modules_to_save says that 'norm.weight' was trained"),
        ({"trainable_token_indices": [3]}, "trainable_token_indices says that rows of 'embed_tokens' were trained"),
        ({"target_parameters": ["q_proj.weight"]}, "target_parameters adapts parameters and not modules"),
        ({"alora_invocation_tokens": [3]}, "alora_invocation_tokens adapts only the tokens after"),
    ],
    ids=str,
)
def test_a_configuration_that_the_tensors_contradict_is_refused(mistral_retriever, tmp_path, settings, message):
    adapter = made_adapter(mistral_retriever, tmp_path / "adapter")
    configure(adapter, **settings)
    refused(mistral_retriever, adapter, message)


def test_a_norm_that_the_configuration_does_not_name_is_refused(mistral_retriever, tmp_path):
    adapter = made_adapter(mistral_retriever, tmp_path / "adapter", modules_to_save=["norm"])
    names = [name for name in load_file(adapter / "adapter_model.safetensors") if name.endswith("norm.weight")]
    assert len(names) == 9  # peft's rule: also input_layernorm and post_attention_layernorm end so
    assert locate_model(f"{mistral_retriever}+{adapter}")
    configure(adapter, modules_to_save=None)
    refused(mistral_retriever, adapter, r"9 tensors belong to modules that its configuration does not select")


def test_numbers_that_are_none_and_biases_without_a_place_are_refused(mistral_retriever, tmp_path):
    adapter = made_adapter(mistral_retriever, tmp_path / "adapter", modules_to_save=["norm"])
    name = "base_model.model.layers.0.self_attn.q_proj.lora_B.bias"
    change_tensors(adapter, lambda tensors: tensors.update({name: torch.ones(32)}))
    refused(mistral_retriever, adapter, "q_proj' has a change of its bias, and the source's has no bias")
    change_tensors(adapter, lambda tensors: tensors["base_model.model.norm.weight"].fill_(torch.inf))
    refused(mistral_retriever, adapter, r"tensor 'base_model\.model\.norm\.weight' .* NaN or infinity")


def test_a_field_that_is_not_there_is_not_replaced_by_pefts_own(mistral_retriever, tmp_path):
    adapter = made_adapter(mistral_retriever, tmp_path / "adapter")
    content = json.loads((adapter / "adapter_config.json").read_text())
    del content["lora_alpha"]
    (adapter / "adapter_config.json").write_text(json.dumps(content))
    refused(mistral_retriever, adapter, "for 'lora_alpha', found None")


@pytest.mark.parametrize(
    ("rename", "message"),
    [
        (lambda name: name.replace("base_model.model.", ""), "has no name that peft gives"),
        (lambda name: name.replace("lora_A.", "lora_A.default."), r"8 have no or half a LoRA"),
        (lambda name: name.replace("self_attn", "attention"), r"finds no place: .* has no 'layers\.0\.attention"),
        (lambda name: name.replace("model.layers", "model.encoder.layers"), r"has no 'encoder\.layers"),
    ],
)
def test_wrong_keys_are_refused(mistral_retriever, tmp_path, rename, message):
    adapter = made_adapter(mistral_retriever, tmp_path / "adapter")

    def change(tensors):
        for name in list(tensors):
            tensors[rename(name)] = tensors.pop(name)

    change_tensors(adapter, change)
    refused(mistral_retriever, adapter, message)


def test_the_source_that_training_recorded_is_the_only_one(mistral_retriever, mistral_language_model, tmp_path):
    """The same adapter fits both: what it was trained on is known by its content."""
    adapter = made_adapter(mistral_retriever, tmp_path / "adapter")
    assert locate_model(f"{mistral_language_model}+{adapter}")
    record = {"source_fingerprint": fingerprint_model(mistral_retriever)}
    (adapter / "training.json").write_text(json.dumps(record))
    assert locate_model(f"{mistral_retriever}+{adapter}")
    refused(
        mistral_language_model,
        adapter,
        rf"trained on {mistral_retriever} \(content {record['source_fingerprint']}\), and the source here is "
        rf"{mistral_language_model} \(content \w+\): give the source",
    )


def test_an_adapter_of_zeros_that_training_kept_is_the_source(mistral_retriever, tmp_path, caplog):
    adapter = made_adapter(mistral_retriever, tmp_path / "adapter", scale=0)
    (adapter / "training.json").write_text(json.dumps({"best_step": 12}))
    refused(mistral_retriever, adapter, "changes nothing in the model's body")
    (adapter / "training.json").write_text(json.dumps({"best_step": 0}))
    with caplog.at_level(logging.WARNING):
        merged = Checkpoint(locate_model(f"{mistral_retriever}+{adapter}"))
    assert "found no step that was better than the source on dev" in caplog.text
    plain = Checkpoint(mistral_retriever)
    assert all(merged.tensor(name).equal(plain.tensor(name)) for name in plain.body)


def test_a_change_that_the_stored_type_cannot_hold_is_no_change(mistral_retriever, tmp_path):
    adapter = made_adapter(mistral_retriever, tmp_path / "adapter", scale=1e-12)
    refused(mistral_retriever, adapter, r"changes nothing .* or too small for torch\.float32")


def test_layers_that_store_their_weights_transposed(tmp_path):
    """GPT-2's, which peft adapts with fan_in_fan_out."""
    base = tmp_path / "base"
    GPT2Model(GPT2Config(vocab_size=20, n_embd=32, n_layer=2, n_head=2)).save_pretrained(base)
    settings = {"target_modules": ["c_attn", "c_proj"], "fan_in_fan_out": True}
    adapter = made_adapter(base, tmp_path / "adapter", **settings)
    body = AutoModel.from_pretrained(locate_model(f"{base}+{adapter}"))
    expected = PeftModel.from_pretrained(AutoModel.from_pretrained(base), adapter).merge_and_unload()
    for name, tensor in expected.state_dict().items():
        torch.testing.assert_close(body.state_dict()[name], tensor, rtol=0, atol=1e-6)
    refused(
        base, without(adapter, "h.1.attn.c_proj"), r"of the 6 modules .* 1 have no or half a LoRA, first 'h\.1\.attn"
    )
