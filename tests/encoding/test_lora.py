"""A source with an adapter in memory, against peft, sentence-transformers, and the folder that a merge reads."""

import copy
import json
import logging
import pickle
import shutil

import numpy as np
import pandas as pd
import pyterrier as pt
import pytest
import torch
from adapters_made import change_tensors, configure, made_adapter
from peft import LoraConfig, PeftModel
from safetensors.torch import load_file, save_file
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Pooling
from transformers import AutoModel, AutoModelForCausalLM

from pyterrier_merge import E5Encoder, LoRAE5Encoder, MergedE5Encoder, list_methods
from pyterrier_merge.merging.checkpoint import Checkpoint
from pyterrier_merge.models import fingerprint_model, locate_model
from pyterrier_merge.storage import cache_folder

TEXTS = ["kidney failure", "the heart rate high and a liver disease of acute pain", "fever"]
SETTINGS = {"dtype": "float32", "device": "cpu"}
TARGETS = {"bert": ["query", "output.dense"], "mistral": ["q_proj", "down_proj"]}


@pytest.fixture(params=["bert", "mistral"])
def source_and_targets(request):
    return request.getfixturevalue(f"{request.param}_retriever"), TARGETS[request.param]


@pytest.mark.parametrize("settings", [{}, {"use_dora": True}, {"use_rslora": True}], ids=str)
def test_vectors_are_those_of_the_merged_folder_to_the_bit(source_and_targets, settings, tmp_path):
    source, targets = source_and_targets
    adapter = made_adapter(source, tmp_path / "adapter", target_modules=targets, **settings)
    kept = sorted(cache_folder("models").iterdir())
    live = LoRAE5Encoder(source, adapter, **SETTINGS)
    vectors = live.encode_docs(TEXTS)
    assert sorted(cache_folder("models").iterdir()) == kept  # no copy of the source
    folder = E5Encoder(locate_model(f"{source}+{adapter}"), **SETTINGS)
    assert np.array_equal(vectors, folder.encode_docs(TEXTS))
    assert live.contract == folder.contract == E5Encoder(source, **SETTINGS).contract
    assert abs(vectors - E5Encoder(source, **SETTINGS).encode_docs(TEXTS)).max() > 1e-3


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_of_bfloat16_weights_too_and_float32_does_not_round_the_sum(mistral_retriever, tmp_path, dtype):
    source = shutil.copytree(mistral_retriever, tmp_path / "source")
    tensors = load_file(source / "model.safetensors")
    save_file({name: t.bfloat16() for name, t in tensors.items()}, source / "model.safetensors", {"format": "pt"})
    config = json.loads((source / "config.json").read_text())
    (source / "config.json").write_text(json.dumps(config | {"dtype": "bfloat16"}))
    adapter = made_adapter(source, tmp_path / "adapter", scale=0.05)
    live = LoRAE5Encoder(source, adapter, dtype=dtype, device="cpu")
    folder = E5Encoder(locate_model(f"{source}+{adapter}"), dtype=dtype, device="cpu")
    assert np.array_equal(live.encode_docs(TEXTS), folder.encode_docs(TEXTS)) == (dtype == "bfloat16")
    name, delta = "layers.1.self_attn.q_proj", load_file(adapter / "adapter_model.safetensors")
    a, b = (delta[f"base_model.model.{name}.lora_{half}.weight"] for half in "AB")
    weight, expected = live._text_model().body.get_submodule(name).weight, tensors[f"{name}.weight"].bfloat16().float()
    tolerance = 1e-6 if dtype == "float32" else 1e-2
    torch.testing.assert_close(weight.float(), expected + 3 * b @ a, rtol=0, atol=tolerance)


@pytest.mark.parametrize("model_class", [AutoModel, AutoModelForCausalLM], ids=["as Tevatron wraps it", "with a head"])
def test_an_adapter_without_modules_has_the_sources_contract(mistral_retriever, tmp_path, model_class):
    """Tevatron's layout, against peft on the bare body with last-token pooling by hand."""
    adapter = made_adapter(mistral_retriever, tmp_path / "adapter", model_class=model_class)
    names = set(load_file(adapter / "adapter_model.safetensors"))
    layer = "layers.0.self_attn.q_proj.lora_A.weight"
    assert f"base_model.model.{'' if model_class is AutoModel else 'model.'}{layer}" in names
    encoder = LoRAE5Encoder(mistral_retriever, adapter, task="find", **SETTINGS)
    reference = PeftModel.from_pretrained(model_class.from_pretrained(mistral_retriever), adapter).eval()
    body = reference.base_model.model if model_class is AutoModel else reference.base_model.model.model
    tokenizer = SentenceTransformer(str(mistral_retriever), device="cpu").tokenizer
    for text, found in zip(TEXTS, encoder.encode_docs(TEXTS), strict=True):
        ids = torch.tensor([[*tokenizer(text)["input_ids"], tokenizer.eos_token_id]])
        with torch.no_grad():
            last = body(input_ids=ids).last_hidden_state[0, -1]
        np.testing.assert_allclose(found, last / last.norm(), atol=1e-5)
    assert encoder.contract == E5Encoder(mistral_retriever, task="find", **SETTINGS).contract


def test_a_retriever_that_sentence_transformers_saved_as_an_adapter_brings_its_own_contract(bert_retriever, tmp_path):
    model = SentenceTransformer(str(bert_retriever), device="cpu")
    model.add_adapter(LoraConfig(r=2, target_modules=["query", "value"], task_type="FEATURE_EXTRACTION"))
    torch.manual_seed(6)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_" in name:
                parameter.add_(torch.randn_like(parameter) * 0.2)
    trained = SentenceTransformer(
        modules=[model[0], Pooling(32, pooling_mode="cls")],
        device="cpu",
        prompts={"query": "fever ", "document": "pain "},
    )
    trained.max_seq_length = 7
    trained.save(str(tmp_path / "adapter"))
    encoder = LoRAE5Encoder(bert_retriever, tmp_path / "adapter", normalize=False, **SETTINGS)
    reference = SentenceTransformer(str(tmp_path / "adapter"), device="cpu")
    for kind, found in (("query", encoder.encode_queries(TEXTS)), ("document", encoder.encode_docs(TEXTS))):
        np.testing.assert_allclose(found, reference.encode(TEXTS, prompt_name=kind), atol=1e-5)
    assert (encoder.contract.pooling, encoder.contract.max_length) == ("cls", 7)


def test_the_name_with_a_plus_is_the_same_model(bert_retriever, tmp_path):
    adapter = made_adapter(bert_retriever, tmp_path / "with+plus", target_modules=["query"])
    kept = sorted(cache_folder("models").iterdir())
    encoder = LoRAE5Encoder(bert_retriever, adapter, **SETTINGS)
    named = E5Encoder(f"{bert_retriever}+{shutil.copytree(adapter, tmp_path / 'adapter')}", **SETTINGS)
    assert encoder.fingerprint == named.fingerprint
    assert np.array_equal(encoder.encode_docs(TEXTS), named.encode_docs(TEXTS))
    assert sorted(cache_folder("models").iterdir()) == kept


def test_identity_is_of_both_names_and_the_fingerprint_of_both_contents(bert_retriever, tmp_path):
    adapter = made_adapter(bert_retriever, tmp_path / "one", target_modules=["query"])
    encoder = LoRAE5Encoder(bert_retriever, adapter, **SETTINGS)
    other = LoRAE5Encoder(bert_retriever, shutil.copytree(adapter, tmp_path / "two"), **SETTINGS)
    assert encoder == LoRAE5Encoder(str(bert_retriever), f"{adapter}/", **SETTINGS)
    assert len({encoder, other, E5Encoder(bert_retriever, **SETTINGS)}) == 3
    assert f"model={str(bert_retriever)!r}, adapter={str(adapter)!r}" in repr(encoder)
    first = encoder.fingerprint
    assert first == other.fingerprint != E5Encoder(bert_retriever, **SETTINGS).fingerprint
    before = encoder.encode_docs(TEXTS)
    configure(adapter, lora_alpha=12)  # twice the weight, in the folder that was loaded
    assert encoder.fingerprint != first
    assert abs(encoder.encode_docs(TEXTS) - before).max() > 1e-3
    encoder.adapter = tmp_path / "two"
    assert encoder == other
    assert np.array_equal(encoder.encode_docs(TEXTS), before)


def test_a_copy_and_another_process_load_it_themselves(bert_retriever, tmp_path):
    adapter = made_adapter(bert_retriever, tmp_path / "adapter", target_modules=["query"])
    encoder = LoRAE5Encoder(bert_retriever, adapter, **SETTINGS)
    vectors = encoder.encode_docs(TEXTS)
    for again in (copy.copy(encoder), pickle.loads(pickle.dumps(encoder))):
        assert again == encoder
        assert again._loaded is None
        assert np.array_equal(again.encode_docs(TEXTS), vectors)
    frame = pd.DataFrame({"qid": ["1"], "query": ["fever"]})
    np.testing.assert_allclose(encoder.transform(frame)["query_vec"][0], vectors[2], atol=1e-5)


def test_loading_draws_no_random_number_and_leaves_weights_trainable(bert_retriever, tmp_path):
    adapter = made_adapter(bert_retriever, tmp_path / "adapter", target_modules=["query"])
    encoder, state = LoRAE5Encoder(bert_retriever, adapter, **SETTINGS), torch.get_rng_state()
    encoder.encode_queries_torch(TEXTS).sum().backward()
    body = encoder._text_model().body
    assert torch.equal(torch.get_rng_state(), state)
    assert body.get_submodule("encoder.layer.0.attention.self.query").weight.grad.any()
    assert not any("lora" in name for name, _ in body.named_modules())


def drop(*pieces):
    return lambda tensors: [tensors.pop(name) for name in list(tensors) if any(piece in name for piece in pieces)]


def rename(old, new):
    return lambda tensors: [tensors.update({name.replace(old, new): tensors.pop(name)}) for name in list(tensors)]


def add_layer(tensors):
    tensors.update({name.replace("layer.3", "layer.4"): tensor.clone() for name, tensor in tensors.items()})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (drop("layer.2", "layer.3"), r"of the 4 modules .* 2 have no or half a LoRA, first 'encoder\.layer\.2\."),
        (drop("lora_B"), "4 have no or half a LoRA"),
        (add_layer, r"tensor 'encoder\.layer\.4\..*' .* finds no place"),
        (rename("base_model.model.", "encoder."), "has no name that peft gives"),
        (rename("self.query", "self.q_proj"), "finds no place"),
        (lambda tensors: [tensor.zero_() for tensor in tensors.values()], "changes nothing"),
    ],
    ids=["half", "no B", "extra layer", "no root", "other names", "zeros"],
)
def test_what_is_not_whole_gives_no_vector(bert_retriever, tmp_path, change, message):
    adapter = made_adapter(bert_retriever, tmp_path / "adapter", target_modules=["query"])
    change_tensors(adapter, change)
    with pytest.raises(ValueError, match=message):
        LoRAE5Encoder(bert_retriever, adapter, **SETTINGS).encode_docs(TEXTS)


def test_weights_that_no_vector_depends_on_are_no_change(bert_retriever, tmp_path):
    settings = {"target_modules": ["query"], "modules_to_save": ["token_type_embeddings"]}
    adapter = made_adapter(bert_retriever, tmp_path / "adapter", scale=0, **settings)
    name = "base_model.model.embeddings.token_type_embeddings.weight"
    change_tensors(adapter, lambda tensors: tensors[name][1].add_(1))  # of second sentences
    with pytest.raises(ValueError, match=r"changed weights and not the vectors of \('fever', 'acute renal failure"):
        LoRAE5Encoder(bert_retriever, adapter, **SETTINGS).encode_docs(TEXTS)


def test_embeddings_alone_may_be_of_words_that_no_probe_has(mistral_retriever, tmp_path):
    adapter = made_adapter(mistral_retriever, tmp_path / "adapter", target_modules=["embed_tokens"], scale=0.5)
    heart = SentenceTransformer(str(mistral_retriever), device="cpu").tokenizer.convert_tokens_to_ids("heart")

    def train_one_word(tensors):
        rows = tensors["base_model.model.embed_tokens.lora_embedding_A"]
        rows[:, [row for row in range(rows.shape[1]) if row != heart]] = 0

    change_tensors(adapter, train_one_word)
    adapted, plain = LoRAE5Encoder(mistral_retriever, adapter, **SETTINGS), E5Encoder(mistral_retriever, **SETTINGS)
    moved = abs(adapted.encode_docs(TEXTS) - plain.encode_docs(TEXTS)).max(axis=1) > 1e-4
    assert moved.tolist() == ["heart" in text for text in TEXTS]


def test_an_adapter_of_zeros_that_training_kept_is_the_source(bert_retriever, tmp_path, caplog):
    adapter = made_adapter(bert_retriever, tmp_path / "adapter", target_modules=["query"], scale=0)
    (adapter / "training.json").write_text(json.dumps({"best_step": 0}))
    with caplog.at_level(logging.WARNING):
        vectors = LoRAE5Encoder(bert_retriever, adapter, **SETTINGS).encode_docs(TEXTS)
    assert "found no step that was better than the source on dev" in caplog.text
    assert np.array_equal(vectors, E5Encoder(bert_retriever, **SETTINGS).encode_docs(TEXTS))


def test_another_source_than_training_recorded_is_refused_before_it_is_loaded(
    bert_retriever, bert_language_model, tmp_path
):
    adapter = made_adapter(bert_retriever, tmp_path / "adapter", target_modules=["query"])
    record = {"source_fingerprint": fingerprint_model(bert_retriever)}
    (adapter / "training.json").write_text(json.dumps(record))
    assert LoRAE5Encoder(bert_retriever, adapter, **SETTINGS).fingerprint
    encoder = LoRAE5Encoder(bert_language_model, adapter, pooling="mean", **SETTINGS)
    with pytest.raises(ValueError, match=rf"trained on {bert_retriever} .* the source here is {bert_language_model} "):
        encoder.encode_docs(TEXTS)


def test_a_folder_without_an_adapter_is_named(bert_retriever, tmp_path):
    for adapter, error in ((bert_retriever, ValueError), (tmp_path / "gone", FileNotFoundError)):
        with pytest.raises(error, match=str(adapter)):
            LoRAE5Encoder(bert_retriever, adapter, **SETTINGS).encode_docs(TEXTS)


def test_a_source_that_is_the_adapter_itself_would_count_it_twice(bert_retriever, tmp_path):
    adapter = made_adapter(bert_retriever, tmp_path / "adapter", target_modules=["query"])
    for source in (adapter, f"{bert_retriever}+{adapter}"):  # an adapter's folder alone stands for its base with it
        with pytest.raises(ValueError, match=r"an adapter is named twice, and its change would count double"):
            LoRAE5Encoder(source, adapter, **SETTINGS).encode_docs(TEXTS)


def test_an_adapter_on_a_saved_merge_and_one_on_another_adapter(bert_retriever, bert_language_model, tmp_path):
    merge = MergedE5Encoder(bert_retriever, bert_language_model, alpha_lower=0.5, alpha_upper=1, **SETTINGS)
    saved = merge.save(tmp_path / "merge")
    one, two = (made_adapter(saved, tmp_path / n, target_modules=[n]) for n in ("query", "value"))
    both = LoRAE5Encoder(f"{saved}+{one}", two, **SETTINGS)
    body, plain = both._text_model().body.state_dict(), Checkpoint(saved)
    for name, adapter in (("query", one), ("value", two)):
        delta = load_file(adapter / "adapter_model.safetensors")
        place = f"encoder.layer.1.attention.self.{name}"
        a, b = (delta[f"base_model.model.{place}.lora_{half}.weight"] for half in "AB")
        torch.testing.assert_close(body[f"{place}.weight"], plain.tensor(f"{place}.weight") + 3 * b @ a)
    assert LoRAE5Encoder(saved, one, **SETTINGS).contract == merge.contract


@pytest.mark.parametrize("method", ["linear", "task_arithmetic"])
def test_several_adapters_of_one_source_are_blended(bert_retriever, tmp_path, method):
    """By hand: linear averages the differences to the source, task arithmetic adds them up."""
    assert method in list_methods()
    adapters = [made_adapter(bert_retriever, tmp_path / n, target_modules=[n]) for n in ("query", "key")]
    alpha = 0.5 if method == "linear" else 0
    encoder = MergedE5Encoder(
        bert_retriever,
        [f"{bert_retriever}+{adapter}" for adapter in adapters],
        alpha_lower=alpha,
        alpha_upper=alpha,
        method=method,
        **SETTINGS,
    )
    encoder.encode_docs(TEXTS)
    body, plain = encoder._text_model().body.state_dict(), Checkpoint(bert_retriever)
    for name, adapter in zip(("query", "key"), adapters, strict=True):
        delta, place = load_file(adapter / "adapter_model.safetensors"), f"encoder.layer.3.attention.self.{name}"
        a, b = (delta[f"base_model.model.{place}.lora_{half}.weight"] for half in "AB")
        share = (0.25 if method == "linear" else 0.5) * 3 * b @ a
        torch.testing.assert_close(body[f"{place}.weight"], plain.tensor(f"{place}.weight") + share, atol=1e-6, rtol=0)


def test_a_source_with_an_adapter_is_merged_with_a_domain_model(bert_retriever, bert_language_model, tmp_path):
    adapter = made_adapter(bert_retriever, tmp_path / "adapter", target_modules=["query"])
    source = f"{bert_retriever}+{adapter}"
    kept, halves = (
        MergedE5Encoder(source, bert_language_model, alpha_lower=alpha, alpha_upper=1, **SETTINGS) for alpha in (1, 0.5)
    )
    own = LoRAE5Encoder(bert_retriever, adapter, **SETTINGS).encode_docs(TEXTS)
    assert np.array_equal(kept.encode_docs(TEXTS), own)
    assert abs(halves.encode_docs(TEXTS) - own).max() > 1e-3
    change_tensors(adapter, drop("layer.2"))
    with pytest.raises(ValueError, match=r"adapter is not whole: of the 4 modules"):
        halves.encode_docs(TEXTS)


class TestLoRAE5EncoderCitizenship(pt.testing.transformer_test_class(lambda: LoRAE5Encoder("org/a", "org/b"))):
    pass
