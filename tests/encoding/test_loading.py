import json
import logging
import shutil

import numpy as np
import pytest
import sentence_transformers
import torch
from safetensors.torch import load_file, save_file
from sentence_transformers import SentenceTransformer, SparseEncoder
from sentence_transformers.sentence_transformer.modules import CNN, Dense, Pooling, Router, Transformer
from tokenizers.processors import TemplateProcessing
from transformers import (
    AutoModel,
    AutoTokenizer,
    Gemma3TextConfig,
    Gemma3TextModel,
    LlamaConfig,
    LlamaModel,
    T5GemmaConfig,
    T5GemmaModel,
)

from pyterrier_merge import E5Encoder, MergedE5Encoder
from pyterrier_merge.encoding.contract import POOLING_MODES
from pyterrier_merge.encoding.loading import load_retriever

TEXTS = ["acute kidney failure", "fever", "pain in the liver and a high heart rate"]
PLAIN = {"dtype": "float32", "device": "cpu"}


def by_hand(folder, pooling, normalize, *, prompt="", end=()):
    """Each text alone through the plain body, its token vectors pooled as the definition says."""
    tokenizer, body = AutoTokenizer.from_pretrained(folder), AutoModel.from_pretrained(folder).eval()
    vectors = []
    for text in TEXTS:
        ids = [*tokenizer(prompt + text)["input_ids"], *end]
        with torch.no_grad():
            states = body(torch.tensor([ids])).last_hidden_state[0].numpy()
        weights = np.arange(1, len(states) + 1)[:, None]
        vectors.append(
            {
                "mean": states.mean(axis=0),
                "cls": states[0],
                "max": states.max(axis=0),
                "lasttoken": states[-1],
                "weightedmean": (weights * states).sum(axis=0) / weights.sum(),
                "mean_sqrt_len_tokens": states.sum(axis=0) / len(states) ** 0.5,
            }[pooling]
        )
    vectors = np.stack(vectors)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True) if normalize else vectors


@pytest.mark.parametrize("normalize", [True, False])
@pytest.mark.parametrize("pooling", POOLING_MODES)
def test_a_plain_checkpoint_is_pooled_as_the_caller_says(pooling, normalize, bert_language_model):
    encoder = E5Encoder(bert_language_model, pooling=pooling, normalize=normalize, **PLAIN)
    np.testing.assert_allclose(encoder.encode_docs(TEXTS), by_hand(bert_language_model, pooling, normalize), atol=1e-5)
    assert (encoder.contract.pooling, encoder.contract.normalize) == (pooling, normalize)


def test_a_causal_language_model_is_taken_without_its_head(mistral_language_model):
    encoder = E5Encoder(mistral_language_model, pooling="lasttoken", task="fever", **PLAIN)
    assert encoder.contract.appended == (2,)
    prompt = "Instruct: fever\nQuery: "
    for encode, before in ((encoder.encode_docs, ""), (encoder.encode_queries, prompt)):
        expected = by_hand(mistral_language_model, "lasttoken", True, prompt=before, end=(2,))
        np.testing.assert_allclose(encode(TEXTS), expected, atol=1e-5)


def test_a_merge_may_start_from_plain_checkpoints(mistral_language_model, mistral_retriever):
    encoder = MergedE5Encoder(
        mistral_language_model,
        mistral_retriever,
        alpha_lower=0.5,
        alpha_upper=1,
        task="t",
        pooling="lasttoken",
        **PLAIN,
    )
    own = E5Encoder(mistral_language_model, pooling="lasttoken", task="t", **PLAIN)
    assert np.abs(encoder.encode_docs(TEXTS) - own.encode_docs(TEXTS)).max() > 0.01
    encoder.alpha_lower = 1
    np.testing.assert_array_equal(encoder.encode_docs(TEXTS), own.encode_docs(TEXTS))


def test_a_plain_checkpoint_of_a_known_family_needs_no_word(bert_language_model, mistral_language_model, tmp_path):
    """Its name is the folder's; the length is the card's where the model has more positions."""
    bge = shutil.copytree(bert_language_model, tmp_path / "bge-small-en-v1.5")
    encoder = E5Encoder(bge, **PLAIN)
    np.testing.assert_allclose(encoder.encode_docs(TEXTS), by_hand(bge, "cls", True), atol=1e-5)
    assert encoder.contract.query_prompt == "Represent this sentence for searching relevant passages: "
    contriever = shutil.copytree(bert_language_model, tmp_path / "contriever")
    expected = by_hand(contriever, "mean", False)
    np.testing.assert_allclose(E5Encoder(contriever, **PLAIN).encode_docs(TEXTS), expected, atol=1e-5)
    qwen = shutil.copytree(mistral_language_model, tmp_path / "qwen3-embedding-0.6b")
    config = json.loads((qwen / "config.json").read_text())
    (qwen / "config.json").write_text(json.dumps({**config, "max_position_embeddings": 32768}))
    contract = load_retriever(qwen, str(qwen), device="meta", task="Find")[1]
    assert (contract.max_length, contract.query_prompt) == (8192, "Instruct: Find\nQuery:")


def test_prompts_of_the_model_that_a_configuration_names_are_warned_about(bert_retriever, tmp_path, caplog):
    """A fine-tune names its base there, as a copy names its original."""
    folder = shutil.copytree(bert_retriever, tmp_path / "mine")
    file = folder / "config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "_name_or_path": "BAAI/bge-small-en-v1.5"}))
    contract = load_retriever(folder, str(folder), device="cpu")[1]
    assert contract.query_prompt.startswith("Represent this sentence")
    assert "those of the model that its configuration names as its origin" in caplog.text
    caplog.clear()
    assert load_retriever(folder, str(folder), device="cpu", query_prompt="")[1].query_prompt == ""
    copied = shutil.copytree(folder, tmp_path / "bge-small-en-v1.5")
    load_retriever(copied, str(copied), device="cpu")
    assert "configuration says" not in caplog.text


def test_a_classifier_made_from_a_known_retriever_is_refused(bert_language_model, tmp_path):
    folder = shutil.copytree(bert_language_model, tmp_path / "reranker")
    file = folder / "config.json"
    classifier = {"architectures": ["BertForSequenceClassification"], "_name_or_path": "BAAI/bge-m3"}
    file.write_text(json.dumps({**json.loads(file.read_text()), **classifier}))
    with pytest.raises(ValueError, match="is a BertForSequenceClassification, and no retrieval model"):
        load_retriever(folder, "reranker", device="cpu")
    assert load_retriever(folder, "reranker", device="cpu", pooling="mean")[1].pooling == "mean"


def test_what_the_caller_says_counts_before_the_family(bert_language_model, tmp_path):
    bge = shutil.copytree(bert_language_model, tmp_path / "bge-m3")
    encoder = E5Encoder(bge, pooling="mean", normalize=False, **PLAIN)
    np.testing.assert_allclose(encoder.encode_docs(TEXTS), by_hand(bge, "mean", False), atol=1e-5)


def test_a_plain_checkpoint_of_no_family_needs_a_pooling(bert_language_model):
    with pytest.raises(ValueError, match=r"has no modules\.json, so its pooling is unknown.* pooling='mean'"):
        load_retriever(bert_language_model, "org/model", device="cpu")


def test_weights_that_are_not_there_are_not_made_up(bert_language_model, tmp_path):
    folder = shutil.copytree(bert_language_model, tmp_path / "model")
    weights = load_file(folder / "model.safetensors")
    del weights["bert.encoder.layer.1.output.dense.weight"]
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ValueError, match=r"no weights for 1 parameters .* 'encoder\.layer\.1\.output\.dense\.weight'"):
        load_retriever(folder, "org/model", device="cpu", pooling="mean")


@pytest.mark.parametrize(("pooling", "normalize"), [("cls", None), ("max", False), (None, False), ("mean", True)])
def test_the_caller_overrides_the_models_own_modules(pooling, normalize, bert_retriever, caplog):
    caplog.set_level(logging.INFO, "pyterrier_merge")
    encoder = E5Encoder(bert_retriever, pooling=pooling, normalize=normalize, **PLAIN)
    expected = by_hand(bert_retriever, pooling or "mean", normalize is not False)
    np.testing.assert_allclose(encoder.encode_docs(TEXTS), expected, atol=1e-5)
    assert ("pooling instead of its own" in caplog.text) == (pooling not in (None, "mean"))
    assert ("normalize=False, other than its files say" in caplog.text) == (normalize is False)


def test_a_model_made_for_cosine_that_does_not_normalise_is_warned_about(bert_retriever, tmp_path, caplog):
    model = SentenceTransformer(str(bert_retriever), device="cpu", similarity_fn_name="cosine")
    del model[-1]
    model.save(str(tmp_path / "model"))
    assert not load_retriever(tmp_path / "model", "m", device="cpu")[1].normalize
    assert "pass normalize=True" in caplog.text
    caplog.clear()
    assert load_retriever(tmp_path / "model", "m", device="cpu", normalize=True)[1].normalize
    assert not load_retriever(tmp_path / "model", "m", device="cpu", normalize=False)[1].normalize
    file = tmp_path / "model" / "config_sentence_transformers.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "similarity_fn_name": "dot"}))
    load_retriever(tmp_path / "model", "m", device="cpu")
    assert "normalize=True" not in caplog.text


def test_a_pooling_that_further_modules_do_not_fit_is_refused(bert_retriever, tmp_path):
    model = SentenceTransformer(str(bert_retriever), device="cpu")
    model[1] = Pooling(32, pooling_mode=("mean", "max"))
    model.append(Dense(64, 8))
    model.save(str(tmp_path / "model"))
    assert E5Encoder(tmp_path / "model", **PLAIN).encode_docs(TEXTS).shape == (3, 8)
    with pytest.raises(ValueError, match=r"pools into 64 values .* pooling='mean' gives 32"):
        load_retriever(tmp_path / "model", "m", device="cpu", pooling="mean")


def test_an_unknown_pooling_is_refused_at_once(bert_retriever):
    with pytest.raises(
        ValueError, match=r"unknown pooling 'last': did you mean 'lasttoken'\? choose one of mean, cls, max"
    ):
        E5Encoder("org/model", pooling="last")
    with pytest.raises(ValueError, match="unknown pooling"):
        load_retriever(bert_retriever, "m", device="cpu", pooling="average")


@pytest.mark.parametrize("source", ["bert_retriever", "bert_language_model"])
def test_a_model_without_weights_has_the_same_contract(source, request):
    folder = request.getfixturevalue(source)
    model, contract = load_retriever(folder, "m", device="meta", pooling="cls")
    assert {parameter.device.type for parameter in model.parameters()} == {"meta"}
    assert contract == load_retriever(folder, "m", device="cpu", pooling="cls")[1]


@pytest.mark.parametrize("normalized", [True, False])
def test_the_first_values_are_taken_where_the_files_say_so(bert_retriever, normalized, tmp_path):
    model = SentenceTransformer(str(bert_retriever), device="cpu", truncate_dim=8)
    if not normalized:
        del model[-1]
    model.save(str(tmp_path / "model"))
    vectors = E5Encoder(tmp_path / "model", **PLAIN).encode_docs(TEXTS)
    expected = model.encode(TEXTS)
    assert expected.shape == vectors.shape == (3, 8)
    if normalized:
        expected /= np.linalg.norm(expected, axis=1, keepdims=True)
    np.testing.assert_allclose(vectors, expected, rtol=0, atol=1e-6 * np.linalg.norm(expected, axis=1).max())


def test_a_module_that_does_not_heed_padding_is_refused(bert_retriever, tmp_path):
    transformer = SentenceTransformer(str(bert_retriever), device="cpu")[0]
    model = SentenceTransformer(modules=[transformer, CNN(32, 8), Pooling(24)], device="cpu")
    model.save(str(tmp_path / "model"))
    with pytest.raises(ValueError, match=r"model has a module that does not heed padding \(CNN\)"):
        E5Encoder(tmp_path / "model", **PLAIN).encode_docs(TEXTS)


def test_a_model_of_two_transformers_is_refused(bert_retriever, tmp_path):
    parts = [[SentenceTransformer(str(bert_retriever), device="cpu")[0], Pooling(32)] for _ in range(2)]
    model = SentenceTransformer(modules=[Router.for_query_document(*parts)], device="cpu")
    model.save(str(tmp_path / "model"))
    with pytest.raises(FileNotFoundError, match="begins with a Router, not with one transformer"):
        E5Encoder(tmp_path / "model", **PLAIN).encode_docs(TEXTS)


def test_weights_that_are_not_there_are_refused(bert_retriever, tmp_path):
    """Of a folder with modules too: transformers would make them up, at random."""
    folder = shutil.copytree(bert_retriever, tmp_path / "model")
    weights = load_file(folder / "model.safetensors")
    lacking = {name: tensor for name, tensor in weights.items() if "layer.3.output.dense" not in name}
    save_file(lacking, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ValueError, match=r"no weights for 2 parameters .* 'encoder\.layer\.3\.output\.dense\.bias'"):
        E5Encoder(folder, **PLAIN).encode_docs(TEXTS)


@pytest.mark.parametrize("kind", ["CrossEncoder", "SparseEncoder", "MultiVectorEncoder"])
def test_what_gives_a_text_no_vector_of_its_own_is_refused(kind, bert_language_model, tmp_path):
    getattr(sentence_transformers, kind)(str(bert_language_model), device="cpu").save(str(tmp_path / "model"))
    with pytest.raises(ValueError, match=f"model is a {kind}, and no model that gives a text one vector"):
        E5Encoder(tmp_path / "model", **PLAIN).encode_docs(TEXTS)


def test_the_transformer_of_a_sparse_encoder_may_be_pooled(bert_language_model, tmp_path):
    SparseEncoder(str(bert_language_model), device="cpu").save(str(tmp_path / "model"))
    encoder = E5Encoder(tmp_path / "model", pooling="cls", normalize=True, **PLAIN)
    np.testing.assert_allclose(encoder.encode_docs(TEXTS), by_hand(bert_language_model, "cls", True), atol=1e-6)


@pytest.mark.parametrize("keep", [4, 1000, -10])
def test_a_damaged_file_is_named(bert_retriever, tmp_path, keep):
    folder = shutil.copytree(bert_retriever, tmp_path / "model")
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:keep])
    with pytest.raises(ValueError, match=r"model\.safetensors is not a readable checkpoint"):
        E5Encoder(folder, **PLAIN).encode_docs(TEXTS)


def test_an_index_that_transformers_does_not_read_is_named(bert_retriever, tmp_path):
    folder = shutil.copytree(bert_retriever, tmp_path / "model")
    names = dict.fromkeys(load_file(folder / "model.safetensors"), "model-1.safetensors")
    (folder / "model.safetensors").rename(folder / "model-1.safetensors")
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": names}))
    with pytest.raises(ValueError, match=r"model\.safetensors\.index\.json has no 'metadata'"):
        E5Encoder(folder, **PLAIN).encode_docs(TEXTS)


def saved_with(folder, plain, tmp_path, template=None, **settings):
    """A retriever as sentence-transformers saves it, its texts read in some way of its own."""
    plain = shutil.copytree(plain, tmp_path / "plain")
    if template:
        (plain / "chat_template.jinja").write_text(template)
    first = Transformer(str(plain), **settings)
    modules = [first, Pooling(first.get_embedding_dimension(), pooling_mode="lasttoken")]
    SentenceTransformer(modules=modules, device="cpu").save(str(folder))
    return folder


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"template": "{% for m in messages %}<s>{{ m['content'] }}</s>{% endfor %}"}, "with a chat template"),
        ({"query_length": 8}, "with query_length"),
        ({"processing_kwargs": {"text": {"max_length": 9}}}, "with processing_kwargs"),
    ],
)
def test_texts_that_are_read_in_another_way_are_refused(settings, message, mistral_language_model, tmp_path):
    folder = saved_with(tmp_path / "model", mistral_language_model, tmp_path, **settings)
    with pytest.raises(ValueError, match=message):
        E5Encoder(folder, **PLAIN).encode_docs(TEXTS)


def test_a_transformer_that_gives_no_vectors_of_tokens_is_refused(bert_retriever, tmp_path):
    pooler = {"text": {"method": "forward", "method_output_name": "pooler_output"}}
    first = Transformer(str(bert_retriever), modality_config=pooler, module_output_name="sentence_embedding")
    SentenceTransformer(modules=[first], device="cpu").save(str(tmp_path / "model"))
    with pytest.raises(ValueError, match="gives a sentence_embedding, and no vectors of tokens"):
        E5Encoder(tmp_path / "model", **PLAIN).encode_docs(TEXTS)


@pytest.mark.parametrize("pooling", [None, "mean"])
def test_types_of_tokens_that_the_model_would_not_be_told_are_refused(pooling, bert_retriever, tmp_path):
    """As XLNet's tokenizer has them; sentence-transformers hands them on."""
    folder = shutil.copytree(bert_retriever, tmp_path / "model")
    names = ["input_ids", "token_type_ids", "attention_mask"]
    tokenizer = AutoTokenizer.from_pretrained(folder, model_input_names=names)
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single="[CLS]:1 $A:0 [SEP]:0", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    tokenizer.save_pretrained(folder)
    if pooling:
        (folder / "modules.json").unlink()
    with pytest.raises(ValueError, match=r"gives tokens of a text several types \(\[1, 0, 0\]\)"):
        E5Encoder(folder, pooling=pooling, **PLAIN).encode_docs(TEXTS)


def test_vectors_are_as_long_as_they_come_out(bert_retriever, tmp_path):
    """Not as the pooling's file says: sentence-transformers does not look there either."""
    folder = shutil.copytree(bert_retriever, tmp_path / "model")
    file = folder / "1_Pooling" / "config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "embedding_dimension": 16}))
    found = E5Encoder(folder, **PLAIN)
    np.testing.assert_array_equal(found.encode_docs(TEXTS), E5Encoder(bert_retriever, **PLAIN).encode_docs(TEXTS))
    assert found.encode_docs([]).shape == (0, 32)


def test_the_encoder_of_an_encoder_and_decoder_is_taken(bert_retriever, tmp_path):
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
    half = {**sizes, "num_key_value_heads": 2, "head_dim": 8, "vocab_size": 60}
    T5GemmaModel(T5GemmaConfig(encoder=half, decoder=half, vocab_size=60)).save_pretrained(tmp_path / "model")
    AutoTokenizer.from_pretrained(bert_retriever).save_pretrained(tmp_path / "model")
    first = Transformer(str(tmp_path / "model"))
    modules = [first, Pooling(first.get_embedding_dimension(), pooling_mode="mean")]
    expected = SentenceTransformer(modules=modules, device="cpu").encode(TEXTS)
    encoder = E5Encoder(tmp_path / "model", pooling="mean", normalize=False, **PLAIN)
    np.testing.assert_allclose(encoder.encode_docs(TEXTS), expected, atol=1e-5)


def test_a_template_that_lies_beside_a_plain_checkpoint_is_not_used(mistral_language_model, tmp_path):
    plain = shutil.copytree(mistral_language_model, tmp_path / "plain")
    (plain / "chat_template.jinja").write_text("{% for m in messages %}<s>{{ m['content'] }}</s>{% endfor %}")
    settings = {"pooling": "lasttoken", "task": "t", **PLAIN}
    expected = E5Encoder(mistral_language_model, **settings).encode_docs(TEXTS)
    np.testing.assert_array_equal(E5Encoder(plain, **settings).encode_docs(TEXTS), expected)


def test_numbers_that_a_configuration_gives_are_those_of_the_type_to_compute_in(bert_retriever, tmp_path):
    """Gemma multiplies embeddings by the root of their size: in float32, also where it is stored in bfloat16."""
    sizes = {"vocab_size": 60, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "head_dim": 8}
    model = Gemma3TextModel(Gemma3TextConfig(**sizes, num_attention_heads=4, num_key_value_heads=2))
    model.to(torch.bfloat16).save_pretrained(tmp_path / "model")
    AutoTokenizer.from_pretrained(bert_retriever).save_pretrained(tmp_path / "model")
    encoder = E5Encoder(tmp_path / "model", pooling="mean", **PLAIN)
    encoder.encode_docs(TEXTS)
    assert float(encoder._loaded.body.embed_tokens.embed_scale) == pytest.approx(32**0.5, abs=1e-6)


def test_longrope_ends_where_positions_would_depend_on_the_batch(bert_retriever, tmp_path):
    rope = {"rope_type": "longrope", "rope_theta": 1e4, "short_factor": [1.0] * 4, "long_factor": [4.0] * 4}
    sizes = {"vocab_size": 60, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1}
    config = LlamaConfig(**sizes, num_attention_heads=4, max_position_embeddings=400, rope_parameters=rope)
    config.rope_parameters["original_max_position_embeddings"] = 16
    LlamaModel(config).save_pretrained(tmp_path / "model")
    AutoTokenizer.from_pretrained(bert_retriever).save_pretrained(tmp_path / "model")
    encoder = E5Encoder(tmp_path / "model", pooling="mean", **PLAIN)
    assert encoder.contract.max_length == 16
    with pytest.raises(ValueError, match=r"max_length=17: .* more than 16 tokens \(longrope\)"):
        E5Encoder(tmp_path / "model", pooling="mean", max_length=17, **PLAIN).encode_docs(TEXTS)
