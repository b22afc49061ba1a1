"""GGUF files, written as llama.cpp's converter writes them."""

import json
import logging
import shutil
from pathlib import Path

import gguf
import numpy as np
import pytest
import torch
from transformers import (
    AutoModel,
    AutoTokenizer,
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    PreTrainedTokenizerBase,
)

from pyterrier_merge.merging.checkpoint import Checkpoint
from pyterrier_merge.models import count_layers, locate_model
from pyterrier_merge.models import gguf as conversion
from pyterrier_merge.storage import cache_folder

SETTINGS = {
    "vocab_size": 40,
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 96,
    "max_position_embeddings": 64,
    "sliding_window": None,
}
PARTS = {
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
    "attn_norm": "input_layernorm",
    "ffn_norm": "post_attention_layernorm",
}
TYPES = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}


def _model(kind="llama", dtype=torch.float32, seed=0):
    torch.manual_seed(seed)
    config, model_class = {"llama": (LlamaConfig, LlamaForCausalLM), "mistral": (MistralConfig, MistralForCausalLM)}[
        kind
    ]
    settings = {key: value for key, value in SETTINGS.items() if key != "sliding_window" or kind == "mistral"}
    model = model_class(config(**settings))
    with torch.no_grad():
        for parameter in model.parameters():  # norms too, which are ones in a fresh model
            parameter.add_(torch.randn_like(parameter) * 0.1)
    return model.to(dtype)


def _permuted(weights, heads):
    """The order of rows that llama.cpp gives queries and keys: its rotary embedding turns neighbours, not halves."""
    return weights.reshape(heads, 2, len(weights) // heads // 2, -1).swapaxes(1, 2).reshape(weights.shape)


def _write(model, file, stored="F32", *, without=(), architecture="llama", tokens=()):
    """Matrices in the type ``stored``, norms in float32: what llama.cpp's converter does."""
    writer = gguf.GGUFWriter(file, architecture)
    writer.add_name("tiny")
    config = model.config
    writer.add_block_count(config.num_hidden_layers)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(10000.0)
    writer.add_vocab_size(config.vocab_size)
    if tokens:
        writer.add_tokenizer_model("llama")
        writer.add_token_list(tokens)
        writer.add_token_scores([-float(number) for number in range(len(tokens))])
        writer.add_token_types([2, 3, 3] + [1] * (len(tokens) - 3))
        writer.add_bos_token_id(1)
        writer.add_eos_token_id(2)
        writer.add_unk_token_id(0)
    tensors = {name: tensor.float().numpy() for name, tensor in model.state_dict().items()}
    names = {"token_embd": "model.embed_tokens", "output_norm": "model.norm", "output": "lm_head"}
    for layer in range(config.num_hidden_layers):
        names |= {f"blk.{layer}.{short}": f"model.layers.{layer}.{part}" for short, part in PARTS.items()}
    for short, name in names.items():
        weights = tensors[f"{name}.weight"]
        if short in without:
            continue
        if short.endswith("attn_q"):
            weights = _permuted(weights, config.num_attention_heads)
        if short.endswith("attn_k"):
            weights = _permuted(weights, config.num_key_value_heads)
        kind = gguf.GGMLQuantizationType["F32" if weights.ndim == 1 else stored]
        data = gguf.quantize(np.ascontiguousarray(weights), kind)
        writer.add_tensor(f"{short}.weight", data, raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return file


@pytest.mark.parametrize("kind", ["llama", "mistral"])
@pytest.mark.parametrize("stored", TYPES)
def test_weights_that_are_not_quantised_come_out_exactly(kind, stored, tmp_path):
    model = _model(kind, TYPES[stored])
    folder = locate_model(_write(model, tmp_path / "tiny.gguf", stored))
    assert folder.parent == cache_folder("models")
    checkpoint, expected = Checkpoint(folder), model.model.state_dict()
    assert set(checkpoint.body) == set(expected)
    for name in checkpoint.body:
        assert torch.equal(checkpoint.tensor(name), expected[name]), name
        assert checkpoint.body[name].dtype == stored
    assert count_layers(folder) == 2


def test_the_converted_model_computes_the_same(tmp_path):
    model = _model()
    loaded = AutoModel.from_pretrained(locate_model(str(_write(model, tmp_path / "tiny.gguf"))), dtype=torch.float32)
    ids = torch.arange(12).view(1, -1)
    with torch.no_grad():
        hidden = model.model(ids).last_hidden_state
        torch.testing.assert_close(loaded(ids).last_hidden_state, hidden, rtol=0, atol=1e-5)


def test_quantised_weights_are_dequantised_and_warned_of(tmp_path, caplog):
    model = _model(seed=1)
    with caplog.at_level(logging.WARNING):
        checkpoint = Checkpoint(locate_model(_write(model, tmp_path / "tiny.gguf", "Q8_0")))
    assert "is quantised (Q8_0): its weights are dequantised" in caplog.text
    expected = model.model.state_dict()
    for name in checkpoint.body:
        tensor = checkpoint.tensor(name)
        assert tensor.dtype == (torch.float32 if tensor.ndim == 1 else torch.float16)
        assert (tensor.float() - expected[name]).norm() / expected[name].norm() < 0.01


def test_the_tokenizer_is_made_where_the_file_has_one(tmp_path):
    file = _write(_model(seed=3), tmp_path / "tiny.gguf", tokens=["<unk>", "<s>", "</s>", "▁", "a", "b", "▁a", "ab"])
    tokenizer = AutoTokenizer.from_pretrained(locate_model(file))
    assert tokenizer.convert_ids_to_tokens(tokenizer("a b", add_special_tokens=False)["input_ids"]) == ["▁a", "▁", "b"]
    assert (tokenizer.bos_token, tokenizer.eos_token) == ("<s>", "</s>")
    assert not (locate_model(_write(_model(seed=4), tmp_path / "bare.gguf")) / "tokenizer.json").exists()


def test_what_lies_beside_the_file_does_not_matter(tmp_path):
    model = _model(seed=6)
    _model(seed=7).save_pretrained(tmp_path / "other")
    adapter = {"peft_type": "LORA", "base_model_name_or_path": str(tmp_path / "other"), "r": 2, "target_modules": ["x"]}
    (tmp_path / "adapter_config.json").write_text(json.dumps(adapter))
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    (tmp_path / "tokenizer_config.json").write_text('{"eos_token": "a"}')
    tokens = ["<unk>", "<s>", "</s>", "▁", "a", "b", "▁a", "ab"]
    folder = locate_model(_write(model, tmp_path / "tiny.gguf", tokens=tokens))
    checkpoint, expected = Checkpoint(folder), model.model.state_dict()
    assert all(torch.equal(checkpoint.tensor(name), expected[name]) for name in checkpoint.body)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    assert (tokenizer.bos_token, tokenizer.eos_token) == ("<s>", "</s>")


def test_a_file_is_converted_once(tmp_path, monkeypatch):
    file = _write(_model(), tmp_path / "tiny.gguf")
    folder = locate_model(file)
    monkeypatch.setattr(conversion, "_convert", None)  # would fail if it were called again
    assert locate_model(shutil.copy(file, tmp_path / "copy.gguf")) == folder


def _refused(file, message, error=ValueError):
    kept = sorted(cache_folder("models").iterdir())
    with pytest.raises(error, match=message):
        locate_model(file)
    assert sorted(cache_folder("models").iterdir()) == kept


def test_a_file_without_some_weights_is_refused(tmp_path):
    file = _write(_model(), tmp_path / "tiny.gguf", without=("blk.1.ffn_up",))
    _refused(
        file, r"tiny\.gguf has no weights for 1 parameters of the model, such as 'layers\.1\.mlp\.up_proj\.weight'"
    )


def test_an_unknown_architecture_is_refused(tmp_path):
    _refused(_write(_model(), tmp_path / "tiny.gguf", architecture="clip"), r"tiny\.gguf cannot be converted")


@pytest.mark.parametrize("keep", [0, 3, 100, 1000, -100])
def test_a_truncated_file_is_named(tmp_path, keep):
    file = _write(_model(), tmp_path / "tiny.gguf")
    file.write_bytes(file.read_bytes()[:keep])
    _refused(file, r"tiny\.gguf is not a readable GGUF file")


def test_garbage_is_named(tmp_path):
    file = tmp_path / "tiny.gguf"
    file.write_bytes(bytes(range(256)) * 10)
    _refused(file, r"tiny\.gguf is not a readable GGUF file")


def test_the_missing_package_is_named(tmp_path, monkeypatch):
    file = _write(_model(seed=2), tmp_path / "tiny.gguf")
    monkeypatch.setattr(conversion.importlib.util, "find_spec", lambda _: None)
    _refused(file, r"pip install 'pyterrier-merge\[gguf\]'", RuntimeError)


@pytest.mark.parametrize(
    ("room", "message"),
    [(20_000, "the weights could not be written into"), (10**9, "the tokenizer could not be written into")],
)
def test_a_disk_that_fills_up_leaves_nothing(tmp_path, small_files, monkeypatch, room, message):
    file = _write(_model(seed=5), tmp_path / "tiny.gguf", tokens=["<unk>", "<s>", "</s>", "▁", "a", "b", "▁a", "ab"])
    if room > 20_000:
        monkeypatch.setattr(PreTrainedTokenizerBase, "save_pretrained", _full)
    with small_files(room):
        _refused(file, message, OSError)


def _full(self, folder):
    """The tokenizers library raises no OSError."""
    (Path(folder) / "tokenizer.json").write_text("half")
    raise Exception("No space left on device (os error 28)")  # noqa: TRY002
