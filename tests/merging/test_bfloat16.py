"""Parents that are stored in bfloat16, as models of 7B are: merged in float32, and rounded once."""

import shutil

import pytest
import torch
from mergekit.merge_methods import merge_tensors
from safetensors.torch import load_file, save_file

from pyterrier_merge import MergedE5Encoder, MergeRecipe
from pyterrier_merge.merging import blending

METHODS = {
    "slerp": ({}, {"t": 0.7}),
    "task_arithmetic": ({"lambda": 0.8}, {"weight": [0.7], "lambda": 0.8}),
    "ties": ({"density": 0.6, "normalize": False}, {"weight": [0.35, 0.35], "density": 0.6, "normalize": False}),
}


@pytest.fixture
def parents(mistral_retriever, mistral_language_model, tmp_path):
    """A retriever and two domain models, as float32 copies by canonical name, and their folders."""

    def narrow(folder, name, scale=1.0):
        folder = shutil.copytree(folder, tmp_path / name)
        tensors = load_file(folder / "model.safetensors")
        narrow = {key: (scale * tensor).bfloat16() for key, tensor in tensors.items()}
        save_file(narrow, folder / "model.safetensors", metadata={"format": "pt"})
        return folder, {key.removeprefix("model."): tensor.float() for key, tensor in narrow.items()}

    return (
        narrow(mistral_retriever, "source"),
        narrow(mistral_language_model, "domain"),
        narrow(mistral_language_model, "other", -0.4),
    )


@pytest.mark.parametrize("method", METHODS)
def test_a_merge_is_mergekits_in_float32_rounded_once(method, parents, tmp_path):
    parameters, mergekits = METHODS[method]
    (source, own), *domains = parents[: 3 if method == "ties" else 2]
    recipe = MergeRecipe.halves(source, [folder for folder, _ in domains], 0.3, 1, method=method, parameters=parameters)
    encoder = MergedE5Encoder.from_recipe(recipe, dtype="bfloat16", device="cpu")
    encoder.encode_docs(["fever"])
    live = dict(encoder._text_model().body.named_parameters())
    encoder.save(tmp_path / "saved")
    saved = load_file(tmp_path / "saved" / "model.safetensors")
    assert saved.keys() == live.keys() == own.keys()
    rounded = 0
    for name, tensor in own.items():
        expected = tensor
        if name.startswith(("layers.0.", "layers.1.")):
            others = [tensors[name] for _, tensors in domains]
            expected = merge_tensors([tensor, *others], method, parameters=mergekits, base_index=0)
            assert expected.dtype == torch.float32
            twice = merge_tensors([t.bfloat16() for t in (tensor, *others)], method, parameters=mergekits, base_index=0)
            rounded += not torch.equal(expected.bfloat16(), twice.bfloat16())
        assert live[name].dtype == saved[name].dtype == torch.bfloat16
        assert torch.equal(live[name], expected.bfloat16()), name
        assert torch.equal(saved[name], expected.bfloat16()), name
    assert rounded or method == "slerp"  # mergekit itself computes slerp of bfloat16 in float32


@pytest.mark.parametrize("method", ["linear", *METHODS])
def test_a_device_that_converts_as_it_reads_gets_the_same_merge(method, parents, monkeypatch):
    parameters, _ = METHODS.get(method, ({}, {}))
    (source, _), *domains = parents[: 2 if method == "slerp" else 3]
    recipe = MergeRecipe.halves(
        source, [folder for folder, _ in domains], 0.3, 0.6, method=method, parameters=parameters
    )

    def merged():
        encoder = MergedE5Encoder.from_recipe(recipe, dtype="bfloat16", device="cpu")
        return encoder.tensor_merges, [parameter.clone() for parameter in encoder._text_model().body.parameters()]

    (merges, weights), pieces = merged(), []
    monkeypatch.setattr(blending, "_PIECE", 100)
    monkeypatch.setattr(blending, "_converts_as_it_reads", lambda tensor: bool(pieces.append(tensor.numel())) or True)
    others, direct = merged()
    assert max(pieces) > 100  # whole tensors
    assert all(torch.equal(one, other) for one, other in zip(weights, direct, strict=True))
    for one, other in zip(merges, others, strict=True):
        assert (one.to_source, *one.to_domains, *one.apart) == pytest.approx(
            (other.to_source, *other.to_domains, *other.apart), rel=1e-5
        )
