import shutil

import pytest
import torch
from mergekit.merge_methods import merge_tensors
from safetensors.torch import load_file, save_file
from transformers import AutoModel

from pyterrier_merge import MergeRecipe
from pyterrier_merge.merging.checkpoint import Checkpoint, is_final_norm, layer_of
from pyterrier_merge.merging.merger import Merger, blend

FAMILIES = ["bert", "mistral"]


@pytest.fixture(params=FAMILIES)
def pair(request):
    return request.getfixturevalue(f"{request.param}_retriever"), request.getfixturevalue(
        f"{request.param}_language_model"
    )


def live(folder, dtype=torch.float32):
    return AutoModel.from_pretrained(folder, dtype=dtype)


def merger(model, pair):
    return Merger(model, Checkpoint(pair[0]), Checkpoint(pair[1]))


def test_every_tensor_is_what_the_formula_says(pair):
    model = live(pair[0])
    merger(model, pair).merge(MergeRecipe.halves(*pair, 0.25, 0.75))
    source, domain = Checkpoint(pair[0]), Checkpoint(pair[1])
    for name, tensor in model.named_parameters():
        layer = layer_of(name)
        if layer is None and not is_final_norm(name):
            expected = source.tensor(name)  # embeddings and pooler are the source's
        else:
            alpha = 0.25 if layer in (0, 1) else 0.75
            expected = alpha * source.tensor(name) + (1 - alpha) * domain.tensor(name)
        torch.testing.assert_close(tensor.detach(), expected, rtol=0, atol=1e-6, msg=name)


def test_the_report_tells_weight_and_distances(pair):
    merges = merger(live(pair[0]), pair).merge(MergeRecipe.halves(*pair, 0.25, 1))
    source, domain = Checkpoint(pair[0]), Checkpoint(pair[1])
    assert {merge.layer for merge in merges if merge.alpha == 0.25} == {0, 1}
    for merge in merges:
        apart = (source.tensor(merge.name) - domain.tensor(merge.name)).norm()
        assert merge.to_source == pytest.approx(
            float((1 - merge.alpha) * apart / source.tensor(merge.name).norm().clamp_min(1e-30)), abs=1e-5
        )
        assert merge.to_domain == pytest.approx(
            float(merge.alpha * apart / domain.tensor(merge.name).norm().clamp_min(1e-30)), rel=1e-4
        )


def test_merging_again_starts_from_the_parents(pair):
    model, fresh = live(pair[0]), live(pair[0])
    again = merger(model, pair)
    for alphas in [(0, 0), (0.5, 1), (1, 0.25), (0.75, 1)]:
        again.merge(MergeRecipe.halves(*pair, *alphas))
    merger(fresh, pair).merge(MergeRecipe.halves(*pair, 0.75, 1))
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), fresh.parameters(), strict=True))
    again.merge(MergeRecipe.halves(*pair, 1, 1))
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), live(pair[0]).parameters(), strict=True))


def test_changing_the_method_merges_everything_again(pair):
    model, fresh = live(pair[0]), live(pair[0])
    again = merger(model, pair)
    again.merge(MergeRecipe.halves(*pair, 0.5, 0.5))
    again.merge(MergeRecipe.halves(*pair, 0.5, 0.5, method="slerp"))
    merger(fresh, pair).merge(MergeRecipe.halves(*pair, 0.5, 0.5, method="slerp"))
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), fresh.parameters(), strict=True))


@pytest.mark.parametrize(
    ("method", "parameters", "base"),
    [
        ("linear", {"weight": [0.25, 0.75]}, None),
        ("slerp", {"t": 0.75}, 0),
        ("nuslerp", {"weight": [0.25, 0.75]}, None),
    ],
)
def test_the_arithmetic_is_mergekits_to_the_bit(method, parameters, base):
    torch.manual_seed(0)
    source, domain = torch.randn(2, 8, 16)
    expected = merge_tensors([source, domain], method, parameters=parameters, base_index=base)
    assert torch.equal(blend(source, domain, 0.25, method=method), expected)
    halves = [source.bfloat16(), domain.bfloat16()]
    exact = merge_tensors([half.float() for half in halves], method, parameters=parameters, base_index=base)
    assert torch.equal(blend(*halves, 0.25, method=method), exact)


def test_slerp_keeps_the_angle_in_proportion():
    source, domain = torch.tensor([1.0, 0.0]), torch.tensor([0.0, 1.0])
    a_third = blend(source, domain, 2 / 3, method="slerp")
    torch.testing.assert_close(a_third, torch.tensor([3**0.5 / 2, 0.5]), rtol=0, atol=1e-6)  # 30 degrees of 90


def test_a_model_in_bfloat16_is_rounded_once(pair):
    model = live(pair[0], torch.bfloat16)
    merger(model, pair).merge(MergeRecipe.halves(*pair, 0.25, 0.25))
    source, domain = Checkpoint(pair[0]), Checkpoint(pair[1])
    name = next(name for name, _ in model.named_parameters() if layer_of(name) == 0)
    exact = blend(source.tensor(name), domain.tensor(name), 0.25, method="linear")
    assert torch.equal(dict(model.named_parameters())[name], exact.bfloat16())


def test_a_copy_of_the_source_as_domain_model_is_an_error(bert_retriever):
    same = (bert_retriever, bert_retriever)
    with pytest.raises(ValueError, match="nothing was merged: all 64 tensors"):
        merger(live(bert_retriever), same).merge(MergeRecipe.halves(*same, 0.5, 0.5))


@pytest.mark.parametrize("poison", [float("nan"), float("inf")])
def test_a_poisoned_parent_is_named(poison, bert_retriever, bert_language_model, tmp_path):
    folder = shutil.copytree(bert_language_model, tmp_path / "poisoned")
    tensors = load_file(folder / "model.safetensors")
    tensors["bert.encoder.layer.3.output.dense.weight"][5, 7] = poison
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    poisoned = (bert_retriever, folder)
    with pytest.raises(ValueError, match=r"encoder\.layer\.3\.output\.dense\.weight.*poisoned holds NaN or infinity"):
        merger(live(bert_retriever), poisoned).merge(MergeRecipe.halves(*poisoned, 0.5, 0.5))


def test_parameters_that_the_source_lacks_are_an_error(bert_retriever, bert_language_model, tmp_path):
    folder = shutil.copytree(bert_retriever, tmp_path / "lacking")
    tensors = load_file(folder / "model.safetensors")
    del tensors["embeddings.LayerNorm.weight"]
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ValueError, match=r"no weights for 1 parameters .*embeddings\.LayerNorm\.weight.*random"):
        merger(live(bert_retriever), (folder, bert_language_model))
