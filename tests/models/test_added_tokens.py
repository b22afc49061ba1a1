"""Adapters whose training added tokens, in the forms that peft and sentence-transformers save them in."""

import json
import logging
import shutil

import numpy as np
import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file
from sentence_transformers import SentenceTransformer
from transformers import AutoModel, AutoModelForCausalLM, AutoTokenizer

from pyterrier_merge import E5Encoder, MergedE5Encoder, MergeRecipe, Segment
from pyterrier_merge.merging.checkpoint import Checkpoint
from pyterrier_merge.merging.compatibility import check_compatible
from pyterrier_merge.models import locate_model
from pyterrier_merge.models.vocabulary import read_vocabulary
from pyterrier_merge.storage import cache_folder

ADDED = ["tumour", "<doc>"]
TEXTS = ["kidney failure", "tumour of the kidney <doc>", "fever"]
FORMS = {  # settings of LoraConfig, of save_pretrained
    "resized": ({}, {}),
    "save_embedding_layers": ({}, {"save_embedding_layers": True}),
    "modules_to_save": ({"modules_to_save": ["embed_tokens"]}, {}),
    "trainable_token_indices": ({"trainable_token_indices": [6, 25, 26]}, {}),
    "trainable_token_indices of a module": ({"trainable_token_indices": {"embed_tokens": [26, 3]}}, {}),
    "target_modules": ({"target_modules": ["q_proj", "embed_tokens"]}, {}),
}


def grown(base, out, added, *, model_class=AutoModel, targets=("q_proj",), settings=None, saving=None):
    """Train (at random) an adapter with added tokens, save it with its tokenizer; its tensors once it is merged."""
    torch.manual_seed(7)
    tokenizer = AutoTokenizer.from_pretrained(base)
    tokenizer.add_tokens(list(added))
    model = model_class.from_pretrained(base)
    if added:
        model.resize_token_embeddings(len(tokenizer), mean_resizing=False)
    model = get_peft_model(model, LoraConfig(**{"r": 2, "target_modules": list(targets), **(settings or {})}))
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.copy_(torch.randn_like(parameter) * 0.2)
    model.save_pretrained(out, **(saving or {}))
    tokenizer.save_pretrained(out)
    merged = model.merge_and_unload()
    return getattr(merged, "model", merged).state_dict()


@pytest.mark.parametrize("added", [ADDED, []], ids=["grown", "as large as before"])
@pytest.mark.parametrize("base", ["mistral_retriever", "mistral_language_model"])
@pytest.mark.parametrize("form", FORMS)
def test_whatever_form_the_embeddings_are_saved_in_they_are_merged(form, base, added, request, tmp_path):
    settings, saving = FORMS[form]
    if not added:  # rows that the base has
        rows = {"trainable_token_indices": [6, 24, 2]}
        settings = rows if "trainable_token_indices" in settings else settings
    folder = request.getfixturevalue(base)
    model_class = AutoModel if base == "mistral_retriever" else AutoModelForCausalLM
    expected = grown(folder, tmp_path / "adapter", added, model_class=model_class, settings=settings, saving=saving)
    located = locate_model(f"{folder}+{tmp_path / 'adapter'}")
    merged = Checkpoint(located)
    assert merged.config["vocab_size"] == 25 + len(added)
    for name in merged.body:
        torch.testing.assert_close(merged.tensor(name), expected[name], rtol=0, atol=1e-6, msg=name)
    assert {token: read_vocabulary(located).ids.get(token) for token in added} == dict(
        zip(added, (25, 26), strict=False)
    )
    body = AutoModel.from_pretrained(located)
    assert body.get_input_embeddings().weight.shape == (25 + len(added), 32)


@pytest.fixture
def retriever_adapter(bert_retriever, tmp_path):
    """A retriever that sentence-transformers saved as an adapter with added tokens, and its own vectors."""
    torch.manual_seed(3)
    model = SentenceTransformer(str(bert_retriever), device="cpu")
    model.tokenizer.add_tokens(ADDED)
    model[0].auto_model.resize_token_embeddings(len(model.tokenizer))
    model.add_adapter(LoraConfig(task_type="FEATURE_EXTRACTION", r=2, target_modules=["query", "value"]))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.1)
    model.save_pretrained(str(tmp_path / "adapter"))
    return tmp_path / "adapter", model.encode(TEXTS)


@pytest.mark.parametrize("alone", [True, False])
def test_vectors_are_those_of_sentence_transformers(alone, retriever_adapter, bert_retriever):
    adapter, expected = retriever_adapter
    encoder = E5Encoder(adapter if alone else f"{bert_retriever}+{adapter}", dtype="float32", device="cpu")
    np.testing.assert_allclose(encoder.encode_docs(TEXTS), expected, rtol=0, atol=1e-5)
    plain = E5Encoder(bert_retriever, dtype="float32", device="cpu").encode_docs(TEXTS[1:2])
    assert abs(plain - expected[1]).max() > 1e-2


def test_a_merge_into_a_grown_source_keeps_its_tokens_and_saves_them(
    retriever_adapter, bert_retriever, bert_language_model, tmp_path
):
    adapter, own = retriever_adapter
    source = f"{bert_retriever}+{adapter}"
    settings = {"dtype": "float32", "device": "cpu"}
    kept = MergedE5Encoder(source, bert_language_model, alpha_lower=1, alpha_upper=1, **settings)
    np.testing.assert_allclose(kept.encode_docs(TEXTS), own, rtol=0, atol=1e-5)
    encoder = MergedE5Encoder(source, bert_language_model, alpha_lower=0.5, alpha_upper=1, **settings)
    vectors = encoder.encode_docs(TEXTS)
    encoder.save(tmp_path / "saved")
    np.testing.assert_allclose(
        SentenceTransformer(str(tmp_path / "saved"), device="cpu").encode(TEXTS), vectors, atol=1e-5
    )
    assert Checkpoint(tmp_path / "saved").tensor("embeddings.word_embeddings.weight").shape == (27, 32)
    assert read_vocabulary(tmp_path / "saved").ids["tumour"] == 25
    report = check_compatible(source, bert_language_model)
    assert (report.vocabulary.agree, report.vocabulary.only_source) == (False, ("tumour", "<doc>"))
    with pytest.raises(ValueError, match=r"cannot be merged:\n.*\(27, 32\) in the source, \(25, 32\) in the domain"):
        recipe = MergeRecipe(source, bert_language_model, (Segment(0.5),), embeddings=0.5)
        MergedE5Encoder.from_recipe(recipe, **settings).encode_docs(TEXTS)


def test_a_grown_domain_model_gives_its_layers(mistral_retriever, mistral_language_model, tmp_path):
    expected = grown(mistral_language_model, tmp_path / "adapter", ADDED, model_class=AutoModelForCausalLM)
    domain = f"{mistral_language_model}+{tmp_path / 'adapter'}"
    encoder = MergedE5Encoder(mistral_retriever, domain, alpha_lower=0, alpha_upper=0, dtype="float32", device="cpu")
    assert {merge.name: merge.to_domains for merge in encoder.tensor_merges}["layers.0.self_attn.q_proj.weight"] == (0,)
    live = encoder._text_model().body.state_dict()
    torch.testing.assert_close(live["layers.1.self_attn.q_proj.weight"], expected["layers.1.self_attn.q_proj.weight"])
    assert live["embed_tokens.weight"].shape == (25, 32)
    assert encoder.fingerprint


def without_embeddings(adapter):
    """What a plain LoRA leaves where peft cannot look the base's size up: it saves no embeddings then."""
    file = adapter / "adapter_model.safetensors"
    save_file({name: tensor for name, tensor in load_file(file).items() if "lora_" in name}, file)


def remove_tokenizer(adapter):
    for file in adapter.glob("*token*"):
        file.unlink()


def swap_tokens(adapter):
    file = adapter / "tokenizer.json"
    content = json.loads(file.read_text())
    vocabulary = content["model"]["vocab"]
    vocabulary["kidney"], vocabulary["liver"] = vocabulary["liver"], vocabulary["kidney"]
    file.write_text(json.dumps(content))


def refused(base, adapter, message):
    kept = sorted(cache_folder("models").iterdir())
    with pytest.raises(ValueError, match=message):
        locate_model(f"{base}+{adapter}")
    assert sorted(cache_folder("models").iterdir()) == kept  # nothing half-written


def test_added_tokens_without_embeddings_are_counted_and_named(mistral_retriever, tmp_path):
    grown(mistral_retriever, tmp_path / "adapter", ADDED)
    without_embeddings(tmp_path / "adapter")
    message = (
        r"added 2 tokens \('tumour', '<doc>'\), .* carry their embeddings \(there are 25 rows\): .*save_embedding_la"
    )
    refused(mistral_retriever, tmp_path / "adapter", message)
    remove_tokenizer(tmp_path / "adapter")  # as the message says
    assert (
        read_vocabulary(locate_model(f"{mistral_retriever}+{tmp_path / 'adapter'}")).ids
        == read_vocabulary(mistral_retriever).ids
    )


def test_embeddings_of_added_tokens_without_a_tokenizer_are_counted(mistral_retriever, tmp_path):
    grown(mistral_retriever, tmp_path / "adapter", ADDED)
    remove_tokenizer(tmp_path / "adapter")
    refused(
        mistral_retriever,
        tmp_path / "adapter",
        r"embeddings for 2 tokens more than its base has \(25\), and no tokenizer",
    )


@pytest.mark.parametrize("kept", ["lora_embedding", "trainable_tokens_delta"])
def test_tensors_for_more_tokens_than_there_are_embeddings_are_counted(kept, mistral_retriever, tmp_path):
    settings = FORMS["target_modules" if kept == "lora_embedding" else "trainable_token_indices"][0]
    grown(mistral_retriever, tmp_path / "adapter", ADDED, settings=settings)
    file = tmp_path / "adapter" / "adapter_model.safetensors"
    tensors = {name: t for name, t in load_file(file).items() if "embed" not in name or kept in name}
    save_file(tensors, file)
    refused(mistral_retriever, tmp_path / "adapter", r"added 2 tokens, and the adapter does not carry their embeddings")


def test_rows_that_the_configuration_does_not_name_are_refused(mistral_retriever, tmp_path):
    adapter = tmp_path / "adapter"
    grown(mistral_retriever, adapter, [], settings={"trainable_token_indices": [3, 4]})
    config = json.loads((adapter / "adapter_config.json").read_text())
    (adapter / "adapter_config.json").write_text(json.dumps(config | {"trainable_token_indices": [3]}))
    refused(mistral_retriever, adapter, r"has 2 trained rows .* trainable_token_indices name others: \[3\]")


def test_embeddings_of_another_width_are_another_bases(mistral_retriever, tmp_path):
    grown(mistral_retriever, tmp_path / "adapter", ADDED)
    file = tmp_path / "adapter" / "adapter_model.safetensors"
    name = "base_model.model.embed_tokens.weight"
    save_file({**load_file(file), name: torch.ones(27, 16)}, file)
    refused(mistral_retriever, tmp_path / "adapter", r"are \(27, 16\), those of its base \(25, 32\): .* another base's")


def test_a_tokenizer_with_other_ids_needs_embeddings_of_its_own(mistral_retriever, tmp_path):
    for name, saving in (("without", {}), ("with", {"save_embedding_layers": True})):
        grown(mistral_retriever, tmp_path / name, [], saving=saving)
        swap_tokens(tmp_path / name)
    refused(
        mistral_retriever, tmp_path / "without", r"gives 2 tokens another id than its base's does \('liver', 'kidney'\)"
    )
    located = locate_model(f"{mistral_retriever}+{tmp_path / 'with'}")
    assert read_vocabulary(located).ids["liver"] == read_vocabulary(mistral_retriever).ids["kidney"]


def test_tokens_that_fit_into_spare_rows_of_the_base_need_no_others(mistral_retriever, tmp_path, caplog):
    base = shutil.copytree(mistral_retriever, tmp_path / "base")
    model = AutoModel.from_pretrained(base)
    model.resize_token_embeddings(32)  # as bases are padded
    model.save_pretrained(base)
    grown(base, tmp_path / "adapter", [])
    tokenizer = AutoTokenizer.from_pretrained(base)
    tokenizer.add_tokens(ADDED)
    tokenizer.save_pretrained(tmp_path / "adapter")
    with caplog.at_level(logging.INFO):
        located = locate_model(f"{base}+{tmp_path / 'adapter'}")
    assert read_vocabulary(located).ids["<doc>"] == 26
    assert "2 tokens more than its base's ('tumour', '<doc>'), 0 fewer, other special tokens: none" in caplog.text


def test_other_special_tokens_come_with_the_adapter(mistral_retriever, tmp_path, caplog):
    grown(mistral_retriever, tmp_path / "adapter", [])
    tokenizer = AutoTokenizer.from_pretrained(mistral_retriever)
    tokenizer.pad_token = tokenizer.eos_token
    tokenizer.save_pretrained(tmp_path / "adapter")
    with caplog.at_level(logging.INFO):
        located = locate_model(f"{mistral_retriever}+{tmp_path / 'adapter'}")
    assert read_vocabulary(located).special["pad"] == ("</s>", 2)
    assert "other special tokens: pad" in caplog.text
    assert (located / "1_Pooling" / "config.json").is_file()  # the base's


def test_a_tokenizer_that_cannot_be_read_is_named(mistral_retriever, tmp_path):
    grown(mistral_retriever, tmp_path / "adapter", [])
    (tmp_path / "adapter" / "tokenizer.json").write_text("{}")
    refused(
        mistral_retriever, tmp_path / "adapter", r"the tokenizer in .*adapter cannot be read, .* remove its files from"
    )


def test_a_base_without_a_tokenizer_gets_the_adapters(mistral_language_model, tmp_path):
    base = shutil.copytree(mistral_language_model, tmp_path / "base")
    grown(base, tmp_path / "adapter", [], model_class=AutoModelForCausalLM)
    remove_tokenizer(base)
    located = locate_model(f"{base}+{tmp_path / 'adapter'}")
    assert read_vocabulary(located).ids == read_vocabulary(mistral_language_model).ids


def with_padding(base, adapter, token, *, also=None):
    """Put a tokenizer with a padding token of its own into an adapter's folder, as trainings of Llama models do."""
    tokenizer = AutoTokenizer.from_pretrained(base)
    tokenizer.add_special_tokens({"pad_token": token, **({also: token} if also else {})})
    tokenizer.save_pretrained(adapter)


@pytest.mark.parametrize("family", ["bert", "mistral"])
def test_a_padding_token_alone_needs_no_embedding(family, request, tmp_path):
    """No text attends to it: vectors are those without it, in batches of several lengths, live and from the folder."""
    base = request.getfixturevalue(f"{family}_retriever")
    target = {"bert": "query", "mistral": "q_proj"}[family]
    grown(base, tmp_path / "adapter", [], targets=[target])
    settings = {"dtype": "float32", "device": "cpu"}
    remove_tokenizer(tmp_path / "adapter")
    expected = E5Encoder(f"{base}+{tmp_path / 'adapter'}", **settings).encode_docs(TEXTS)
    with_padding(base, tmp_path / "adapter", "<padding>")
    located = locate_model(f"{base}+{tmp_path / 'adapter'}")
    for model in (f"{base}+{tmp_path / 'adapter'}", located):
        encoder = E5Encoder(model, **settings)
        np.testing.assert_allclose(encoder.encode_docs(TEXTS), expected, atol=1e-5)
        assert encoder._text_model()._model.tokenizer.pad_token_id == 25
    rows = AutoModel.from_pretrained(located).get_input_embeddings().weight
    assert rows.shape == (26, 32)
    assert not rows[25].any()


def test_a_padding_token_that_ends_texts_needs_its_embedding(mistral_retriever, tmp_path):
    grown(mistral_retriever, tmp_path / "adapter", [])
    with_padding(mistral_retriever, tmp_path / "adapter", "<end>", also="eos_token")
    refused(mistral_retriever, tmp_path / "adapter", r"added 1 token \('<end>'\), and the adapter does not carry")
    tokenizer = AutoTokenizer.from_pretrained(mistral_retriever)
    tokenizer.add_tokens(["tumour"])
    tokenizer.add_special_tokens({"pad_token": "<padding>"})
    tokenizer.save_pretrained(tmp_path / "adapter")
    refused(mistral_retriever, tmp_path / "adapter", r"added 2 tokens \('tumour', '<padding>'\)")
