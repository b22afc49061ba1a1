import json
import pickle
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from pyterrier_merge.merging.checkpoint import Checkpoint, is_final_norm, layer_of


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


def test_a_truncated_file_is_named(bert_retriever, tmp_path):
    folder = _copy(bert_retriever, tmp_path)
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(ValueError, match=r"model\.safetensors is not a readable checkpoint"):
        Checkpoint(folder)


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
    """BERTs of 2018: LayerNorm.gamma and .beta, in a PyTorch file that is no zip."""
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


def test_the_head_of_gpt2_is_told_from_its_body(tmp_path):
    tensors = {"transformer.h.0.attn.c_attn.weight": torch.ones(1), "transformer.ln_f.weight": torch.ones(1)}
    save_file({**tensors, "lm_head.weight": torch.ones(1)}, tmp_path / "model.safetensors")
    checkpoint = Checkpoint(tmp_path)
    assert set(checkpoint.body) == {"h.0.attn.c_attn.weight", "ln_f.weight"}
    assert checkpoint.heads == ("lm_head.weight",)


def test_buffers_are_no_weights(mistral_retriever, tmp_path):
    folder = _copy(mistral_retriever, tmp_path)
    tensors = load_file(folder / "model.safetensors")
    save_file({**tensors, "layers.0.self_attn.rotary_emb.inv_freq": torch.ones(4)}, folder / "model.safetensors")
    assert set(Checkpoint(folder).body) == set(tensors)


def test_a_folder_without_layers_is_refused(tmp_path):
    save_file({"weight": torch.zeros(2)}, tmp_path / "model.safetensors")
    with pytest.raises(ValueError, match="expected one stack of transformer layers"):
        Checkpoint(tmp_path)


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
