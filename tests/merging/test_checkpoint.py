import json
import os
import pickle
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

from pyterrier_merge.merging.checkpoint import Checkpoint
from pyterrier_merge.merging.places import is_final_norm, layer_of

COMMON = {
    "vocab_size": 40,
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "max_position_embeddings": 32,
    "pad_token_id": 0,
}
DECODER = COMMON | {"num_key_value_heads": 1, "head_dim": 8}
MODERN = COMMON | {"cls_token_id": 1, "sep_token_id": 2, "bos_token_id": 1, "eos_token_id": 2}
DISTIL = {"vocab_size": 40, "dim": 16, "n_layers": 2, "n_heads": 2, "hidden_dim": 32}
GPT2 = {"vocab_size": 40, "n_embd": 16, "n_layer": 2, "n_head": 2, "n_positions": 32}
OPT = COMMON | {"ffn_dim": 32, "word_embed_proj_dim": 16}
FAMILIES = [  # configuration, body, body with a language-model head
    ("BertConfig", COMMON, "BertModel", "BertForMaskedLM"),
    ("RobertaConfig", COMMON, "RobertaModel", "RobertaForMaskedLM"),
    ("XLMRobertaConfig", COMMON, "XLMRobertaModel", "XLMRobertaForMaskedLM"),
    ("ElectraConfig", COMMON | {"embedding_size": 8}, "ElectraModel", "ElectraForMaskedLM"),
    ("MPNetConfig", COMMON, "MPNetModel", "MPNetForMaskedLM"),
    ("DistilBertConfig", DISTIL, "DistilBertModel", "DistilBertForMaskedLM"),
    ("ModernBertConfig", MODERN, "ModernBertModel", "ModernBertForMaskedLM"),
    ("MistralConfig", DECODER, "MistralModel", "MistralForCausalLM"),
    ("LlamaConfig", DECODER, "LlamaModel", "LlamaForCausalLM"),
    ("Qwen2Config", DECODER, "Qwen2Model", "Qwen2ForCausalLM"),
    ("Qwen3Config", DECODER, "Qwen3Model", "Qwen3ForCausalLM"),
    ("GemmaConfig", DECODER, "GemmaModel", "GemmaForCausalLM"),
    ("Gemma2Config", DECODER, "Gemma2Model", "Gemma2ForCausalLM"),
    ("Gemma3TextConfig", DECODER, "Gemma3TextModel", "Gemma3ForCausalLM"),
    ("GPT2Config", GPT2, "GPT2Model", "GPT2LMHeadModel"),
    ("GPTNeoXConfig", COMMON, "GPTNeoXModel", "GPTNeoXForCausalLM"),
    ("OPTConfig", OPT, "OPTModel", "OPTForCausalLM"),
]
UNTIED = {"MistralForCausalLM", "LlamaForCausalLM", "Qwen2ForCausalLM", "Qwen3ForCausalLM", "GPTNeoXForCausalLM"}


@pytest.mark.parametrize(("config", "settings", "body", "headed"), FAMILIES, ids=[row[2] for row in FAMILIES])
def test_canonical_names_are_those_of_the_live_model(config, settings, body, headed, tmp_path):
    """Whatever class a file was saved from, its tensors go by the names, and have the values, of AutoModel's."""
    for name in (body, headed):
        folder = _random(config, settings, name, tmp_path / name)
        live = transformers.AutoModel.from_pretrained(folder, dtype=torch.float32).state_dict()
        checkpoint = Checkpoint(folder)
        unsaved = {"pooler.dense.weight", "pooler.dense.bias"} if name == headed else set()
        assert set(checkpoint.body) == live.keys() - unsaved
        assert all(torch.equal(checkpoint.tensor(key), live[key]) for key in checkpoint.body)
        assert checkpoint.num_layers == 2
        assert bool(checkpoint.heads) == (name in UNTIED or name.endswith("MaskedLM"))


@pytest.mark.parametrize(("config", "settings", "body", "headed"), FAMILIES, ids=[row[2] for row in FAMILIES])
def test_embeddings_that_only_the_head_has_kept_are_found(config, settings, body, headed, tmp_path):
    settings = settings | {"tie_word_embeddings": True}
    whole = Checkpoint(_random(config, settings, headed, tmp_path / "whole"))
    folder = Path(shutil.copytree(whole.folder, tmp_path / "headed"))
    model = getattr(transformers, headed).from_pretrained(folder)
    embeddings = model.get_input_embeddings().weight
    names = {key for key, value in model.state_dict(keep_vars=True).items() if value is embeddings}
    tensors = load_file(folder / "model.safetensors")
    (kept,) = names & tensors.keys()
    (head,) = names - {kept}
    tensors[head] = tensors.pop(kept)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    checkpoint = Checkpoint(folder)
    assert set(checkpoint.body) == set(whole.body)
    assert head in checkpoint.heads
    assert all(torch.equal(checkpoint.tensor(name), whole.tensor(name)) for name in whole.body)


def test_a_head_of_its_own_is_not_taken_for_embeddings(tmp_path):
    folder = _random("LlamaConfig", DECODER | {"tie_word_embeddings": False}, "LlamaForCausalLM", tmp_path)
    tensors = load_file(folder / "model.safetensors")
    del tensors["model.embed_tokens.weight"]
    save_file(tensors, folder / "model.safetensors")
    assert "embed_tokens.weight" not in Checkpoint(folder).body


@pytest.mark.parametrize(
    ("config", "settings", "name", "message"),
    [
        ("AlbertConfig", COMMON | {"embedding_size": 8}, "AlbertModel", "its layers share one set of weights"),
        ("T5Config", {"vocab_size": 40, "d_model": 16, "d_kv": 8, "num_layers": 2}, "T5Model", "two stacks of layers"),
    ],
)
def test_what_has_no_single_stack_of_layers_is_refused(config, settings, name, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        Checkpoint(_random(config, settings, name, tmp_path))


def test_two_stacks_are_refused(bert_retriever, tmp_path):
    folder = _copy(bert_retriever, tmp_path)
    tensors = load_file(folder / "model.safetensors")
    vision = {"vision_tower.encoder.layers.0.weight": torch.ones(2)}
    save_file(tensors | vision, folder / "model.safetensors")
    with pytest.raises(ValueError, match="models of several stacks cannot be merged"):
        Checkpoint(folder)


@pytest.mark.parametrize("family", ["bert", "mistral"])
def test_a_retriever_and_a_language_model_share_the_names_of_their_layers(family, request):
    source = Checkpoint(request.getfixturevalue(f"{family}_retriever"))
    domain = Checkpoint(request.getfixturevalue(f"{family}_language_model"))
    layers = {name for name in source.body if layer_of(name) is not None}
    assert layers == {name for name in domain.body if layer_of(name) is not None}
    assert source.num_layers == domain.num_layers == 4
    assert not source.heads
    assert any("predictions" in name or "lm_head" in name for name in domain.heads)


def test_tensors_are_read_by_canonical_name(mistral_language_model):
    checkpoint = Checkpoint(mistral_language_model)
    stored = load_file(mistral_language_model / "model.safetensors")
    name = "layers.2.mlp.up_proj.weight"
    assert torch.equal(checkpoint.tensor(name), stored[f"model.{name}"])
    assert checkpoint.body[name].shape == (64, 32)


@pytest.mark.parametrize(
    ("name", "layer"),
    [
        ("encoder.layer.11.output.dense.weight", 11),
        ("layers.0.mlp.up_proj.weight", 0),
        ("transformer.layer.3.attention.q_lin.weight", 3),
        ("h.7.attn.c_attn.weight", 7),
        ("embeddings.word_embeddings.weight", None),
        ("pooler.dense.weight", None),
        ("norm.weight", None),
    ],
)
def test_the_layer_of_a_name(name, layer):
    assert layer_of(name) == layer


def test_the_final_norm_is_told_from_other_norms():
    assert is_final_norm("norm.weight")
    assert not is_final_norm("layers.0.input_layernorm.weight")
    assert not is_final_norm("embeddings.LayerNorm.weight")


def test_shards_are_one_checkpoint(mistral_language_model, tmp_path):
    _shard(mistral_language_model, tmp_path)
    whole, sharded = Checkpoint(mistral_language_model), Checkpoint(tmp_path)
    assert set(whole.body) == set(sharded.body)
    for name in whole.body:
        assert torch.equal(whole.tensor(name), sharded.tensor(name))


def test_a_missing_shard_is_named(mistral_language_model, tmp_path):
    _shard(mistral_language_model, tmp_path)
    (tmp_path / "part-2.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match=r"names 'part-2\.safetensors', which is not in the folder"):
        Checkpoint(tmp_path)


DAMAGES = {
    "cut data": lambda content: content[:-100],
    "cut header": lambda content: content[:50],
    "cut length": lambda content: content[:5],
    "empty": lambda content: b"",
    "garbage": lambda content: bytes(range(256)) * 40,
    "another header": lambda content: content[:8] + b"x" * 100 + content[108:],
    "a page of HTML": lambda content: b"<!DOCTYPE html><title>404</title>",
}


@pytest.mark.parametrize("file", ["model.safetensors", "pytorch_model.bin"])
@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_file_is_named(bert_retriever, tmp_path, file, damage):
    folder = _copy(bert_retriever, tmp_path)
    if file == "pytorch_model.bin":
        torch.save(load_file(folder / "model.safetensors"), folder / file)
        (folder / "model.safetensors").unlink()
    (folder / file).write_bytes(DAMAGES[damage]((folder / file).read_bytes()))
    with pytest.raises(ValueError, match=rf"{file} (is not a readable checkpoint|is corrupt)"):
        checkpoint = Checkpoint(folder)
        for name in checkpoint.body:
            checkpoint.tensor(name)


def test_a_tensor_that_its_shard_lacks_is_named(mistral_language_model, tmp_path):
    _shard(mistral_language_model, tmp_path)
    tensors = load_file(tmp_path / "part-2.safetensors")
    lost = sorted(tensors)[0]
    save_file({name: tensor for name, tensor in tensors.items() if name != lost}, tmp_path / "part-2.safetensors")
    with pytest.raises(ValueError, match=rf"names tensor '{lost}' in 'part-2\.safetensors', which does not"):
        Checkpoint(tmp_path)


def test_the_index_says_which_shard_a_tensor_is_read_from(mistral_language_model, tmp_path):
    _shard(mistral_language_model, tmp_path)
    first, second = (tmp_path / f"part-{number}.safetensors" for number in (1, 2))
    name = next(name for name in load_file(first) if ".layers." in name)
    stale = torch.zeros_like(load_file(first)[name])
    save_file({**load_file(second), name: stale}, second)
    canonical = name.removeprefix("model.")
    assert torch.equal(Checkpoint(tmp_path).tensor(canonical), Checkpoint(mistral_language_model).tensor(canonical))


@pytest.mark.parametrize("content", ["", "{", "[]", "{}", '{"weight_map": {}}', '{"weight_map": {"a": 1}}'])
def test_an_index_that_is_none_is_named(mistral_language_model, tmp_path, content):
    _shard(mistral_language_model, tmp_path)
    (tmp_path / "model.safetensors.index.json").write_text(content)
    with pytest.raises(ValueError, match=r"model\.safetensors\.index\.json (has no weight_map|is no)"):
        Checkpoint(tmp_path)


def test_a_folder_without_a_configuration_is_named(bert_retriever, tmp_path):
    folder = _copy(bert_retriever, tmp_path)
    (folder / "config.json").unlink()
    with pytest.raises(FileNotFoundError, match=r"has no config\.json"):
        Checkpoint(folder)


def test_a_folder_without_weights_is_named(bert_retriever, tmp_path):
    folder = _copy(bert_retriever, tmp_path)
    (folder / "model.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match="holds no weights"):
        Checkpoint(folder)


@pytest.mark.parametrize(
    ("quantisation", "method"), [({"quant_method": "bitsandbytes", "load_in_4bit": True}, "bitsandbytes"), ("x", "x")]
)
def test_a_quantised_checkpoint_is_refused_by_its_configuration(bert_retriever, tmp_path, quantisation, method):
    folder = _copy(bert_retriever, tmp_path)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"quantization_config": quantisation}))
    with pytest.raises(ValueError, match=rf"config\.json has a quantization_config \({method}\)"):
        Checkpoint(folder)


@pytest.mark.parametrize(
    ("name", "dtype", "stored"),
    [
        ("layers.0.self_attn.q_proj.qweight", torch.int32, "I32"),
        ("layers.1.mlp.up_proj.weight", torch.float8_e4m3fn, "F8_E4M3"),
        ("layers.1.mlp.up_proj.weight", torch.uint8, "U8"),
    ],
)
def test_a_quantised_tensor_is_named(mistral_language_model, tmp_path, name, dtype, stored):
    folder = _copy(mistral_language_model, tmp_path)
    tensors = load_file(folder / "model.safetensors")
    save_file(tensors | {f"model.{name}": torch.zeros(4, 4).to(dtype)}, folder / "model.safetensors")
    with pytest.raises(ValueError, match=rf"tensor '{name}' \('model\.{name}' of .*model\.safetensors\) is {stored}"):
        Checkpoint(folder)


@pytest.mark.parametrize("file", ["config.json", "model.safetensors"])
def test_a_file_that_may_not_be_read_is_named(bert_retriever, tmp_path, monkeypatch, file):
    folder = _copy(bert_retriever, tmp_path)
    folder.chmod(0o755)
    (folder / file).chmod(0)
    monkeypatch.chdir(folder)  # from inside: the folders above may be closed to the user that root becomes
    user = os.geteuid()
    if user == 0:
        os.seteuid(65534)
    try:
        with pytest.raises(ValueError, match=rf"{file} cannot be read: Permission denied"):
            Checkpoint(Path())
    finally:
        os.seteuid(user)


def test_a_file_that_is_rewritten_meanwhile_is_named(bert_retriever, tmp_path):
    folder = _copy(bert_retriever, tmp_path)
    checkpoint = Checkpoint(folder)
    tensors = load_file(folder / "model.safetensors")
    name = "encoder.layer.0.output.dense.bias"
    save_file(tensors | {name: torch.ones(3)}, folder / "other.safetensors")
    (folder / "other.safetensors").replace(folder / "model.safetensors")
    with pytest.raises(ValueError, match=rf"tensor '{name}' of .* was \(32,\) and is \(3,\) now"):
        checkpoint.tensor(name)


@pytest.mark.parametrize("content", [[1, 2], {"state_dict": {"a": torch.ones(1)}}, {"epoch": 3}, torch.ones(2)])
def test_a_pytorch_file_of_something_else_is_named(bert_retriever, tmp_path, content):
    folder = _copy(bert_retriever, tmp_path)
    (folder / "model.safetensors").unlink()
    torch.save(content, folder / "pytorch_model.bin")
    with pytest.raises(ValueError, match=r"pytorch_model\.bin(: '(epoch|state_dict)'| holds a \w+, expected)"):
        Checkpoint(folder)


@pytest.mark.parametrize("kind", ["safetensors", "bin"])
def test_the_header_tells_the_type(bert_retriever, tmp_path, kind):
    folder = _copy(bert_retriever, tmp_path)
    tensors = load_file(folder / "model.safetensors")
    types = [torch.bfloat16, torch.float16, torch.float64, torch.float32]
    tensors = {name: tensor.to(types[number % 4]) for number, (name, tensor) in enumerate(tensors.items())}
    if kind == "bin":
        (folder / "model.safetensors").unlink()
        torch.save(tensors, folder / "pytorch_model.bin")
    else:
        save_file(tensors, folder / "model.safetensors")
    checkpoint = Checkpoint(folder)
    expected = {torch.bfloat16: "BF16", torch.float16: "F16", torch.float64: "F64", torch.float32: "F32"}
    assert {name: stored.dtype for name, stored in checkpoint.body.items()} == {
        name: expected[tensor.dtype] for name, tensor in tensors.items()
    }
    assert all(checkpoint.tensor(name).dtype == tensor.dtype for name, tensor in tensors.items())


READ_ALL = """
import resource, sys, torch
from pyterrier_merge.merging.checkpoint import Checkpoint
from pyterrier_merge.merging.places import is_final_norm, layer_of
torch.set_num_threads(1)
checkpoint = Checkpoint(sys.argv[1])
checkpoint.tensor("layers.0.mlp.weight").float().sum()
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
for name in checkpoint.body:
    checkpoint.tensor(name).view(torch.int16).max()
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024)
"""


@pytest.mark.parametrize("kind", ["safetensors", "bin"])
def test_reading_a_model_does_not_fill_the_memory(tmp_path, kind):
    """600 MB are read; the process grows by the 128 MB after which mappings are let go of, and one tensor of 30 MB."""
    (tmp_path / "config.json").write_text('{"num_hidden_layers": 20}')
    tensors = {f"layers.{layer}.mlp.weight": torch.zeros(15, 2**20, dtype=torch.bfloat16) for layer in range(20)}
    if kind == "bin":
        torch.save(tensors, tmp_path / "pytorch_model.bin")
    else:
        save_file(tensors, tmp_path / "model.safetensors")
    done = subprocess.run([sys.executable, "-c", READ_ALL, tmp_path], capture_output=True, text=True, check=True)
    assert int(done.stdout) < 250


def test_a_pytorch_file_is_read_as_safetensors_are(bert_retriever, tmp_path):
    folder = _copy(bert_retriever, tmp_path)
    tensors = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    torch.save(tensors, folder / "pytorch_model.bin")
    checkpoint = Checkpoint(folder)
    assert all(torch.equal(checkpoint.tensor(name), tensor) for name, tensor in tensors.items())


def test_a_pickle_that_runs_code_is_refused(bert_retriever, tmp_path):
    class Trap:
        def __reduce__(self):
            return (open, (str(tmp_path / "sprung"), "w"))

    folder = _copy(bert_retriever, tmp_path)
    (folder / "model.safetensors").unlink()
    torch.save({"encoder.layer.0.x": Trap()}, folder / "pytorch_model.bin", pickle_module=pickle)
    with pytest.raises(ValueError, match="could run code"):
        Checkpoint(folder)
    assert not (tmp_path / "sprung").exists()


def test_old_names_and_old_files_are_read(bert_retriever, tmp_path):
    """BERTs of 2018: LayerNorm.gamma and .beta, in a PyTorch file that is not a zip."""
    folder = _copy(bert_retriever, tmp_path)
    tensors = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    old = {
        name.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta"): tensor
        for name, tensor in tensors.items()
    }
    torch.save(old, folder / "pytorch_model.bin", _use_new_zipfile_serialization=False)
    checkpoint = Checkpoint(folder)
    assert set(checkpoint.body) == set(tensors)
    assert all(torch.equal(checkpoint.tensor(name), tensor) for name, tensor in tensors.items())


def test_buffers_are_no_weights(mistral_retriever, tmp_path):
    folder = _copy(mistral_retriever, tmp_path)
    tensors = load_file(folder / "model.safetensors")
    buffers = {"layers.0.self_attn.rotary_emb.inv_freq": torch.ones(4), "layers.0.attn.bias": torch.ones(4) > 0}
    save_file({**tensors, **buffers}, folder / "model.safetensors")
    assert set(Checkpoint(folder).body) == set(tensors)


@pytest.mark.parametrize("stated", [3, 5])
def test_a_file_with_other_layers_than_its_configuration_states_is_refused(stated, bert_language_model, tmp_path):
    folder = shutil.copytree(bert_language_model, tmp_path / "model")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"num_hidden_layers": stated}))
    with pytest.raises(ValueError, match=rf"has the weights of 4 layers, its config\.json states {stated}"):
        Checkpoint(folder)


@pytest.mark.parametrize(
    "setting", [{"model_type": ["bert"]}, {"rope_scaling": "x"}, {"rope_parameters": 1}, {"text_config": "x"}]
)
def test_a_malformed_configuration_is_named(setting, bert_language_model, tmp_path):
    folder = shutil.copytree(bert_language_model, tmp_path / "model")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | setting))
    with pytest.raises(ValueError, match=rf"model/config\.json: expected an? \w+ for '{next(iter(setting))}', found"):
        Checkpoint(folder)


def test_a_folder_without_layers_is_refused(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    save_file({"weight": torch.zeros(2)}, tmp_path / "model.safetensors")
    with pytest.raises(ValueError, match="expected one stack of transformer layers"):
        Checkpoint(tmp_path)


def _random(config, settings, name, folder):
    torch.manual_seed(0)
    model = getattr(transformers, name)(getattr(transformers, config)(**settings))
    model.save_pretrained(folder)
    return folder


def _copy(folder, tmp_path):
    return shutil.copytree(folder, tmp_path / "copy")


def _shard(folder, out):
    tensors = load_file(folder / "model.safetensors")
    names = sorted(tensors)
    parts = {"part-1.safetensors": names[::2], "part-2.safetensors": names[1::2]}
    for file, keys in parts.items():
        save_file({key: tensors[key] for key in keys}, out / file)
    shutil.copy(folder / "config.json", out)
    index = {"weight_map": {key: file for file, keys in parts.items() for key in keys}}
    (out / "model.safetensors.index.json").write_text(json.dumps(index))
