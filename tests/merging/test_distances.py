import json
import math
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from pyterrier_merge.merging.checkpoint import Checkpoint
from pyterrier_merge.merging.distances import measure_distances
from pyterrier_merge.merging.places import EMBEDDINGS, FINAL_NORM
from pyterrier_merge.merging.verdict import CAN, CANNOT, DOUBTFUL, UNRELATED, judge


def changed(folder, target, change):
    """A copy of a model with every tensor put through ``change(name, tensor)``."""
    shutil.copytree(folder, target)
    tensors = load_file(target / "model.safetensors")
    save_file(
        {name: change(name, tensor).contiguous() for name, tensor in tensors.items()}, target / "model.safetensors"
    )
    return Checkpoint(target)


def measured(source, domain, names=None):
    found = measure_distances(source, domain, source.body if names is None else names)
    return {distance.place: distance for distance in found}


def test_scaled_weights_are_as_far_as_the_scale_and_in_line(mistral_retriever, tmp_path):
    domain = changed(mistral_retriever, tmp_path / "d", lambda name, tensor: 1.5 * tensor)
    found = measured(Checkpoint(mistral_retriever), domain)
    assert list(found) == [EMBEDDINGS, "layer 0", "layer 1", "layer 2", "layer 3", FINAL_NORM]
    assert [distance.layer for distance in found.values()] == [None, 0, 1, 2, 3, None]
    for place, distance in found.items():
        assert distance.relative == pytest.approx(0.5, abs=1e-6)
        assert distance.cosine is None if place == FINAL_NORM else distance.cosine == pytest.approx(1, abs=1e-6)
        assert not distance.copied


def test_one_changed_layer_is_the_only_one_that_moved(mistral_retriever, tmp_path):
    domain = changed(mistral_retriever, tmp_path / "d", lambda name, t: -t if name.startswith("layers.2.") else t)
    found = measured(Checkpoint(mistral_retriever), domain)
    assert found["layer 2"].relative == pytest.approx(2)
    assert found["layer 2"].cosine == pytest.approx(-1)
    assert [place for place, distance in found.items() if distance.relative == 0] == [
        p for p in found if p != "layer 2"
    ]


def test_figures_are_those_of_the_whole_layer_in_float64(bert_retriever, bert_language_model):
    source, domain = Checkpoint(bert_retriever), Checkpoint(bert_language_model)
    names = [name for name in source.body if name.startswith("encoder.layer.1.")]
    own, other = (torch.cat([c.tensor(n).double().flatten() for n in names]) for c in (source, domain))
    matrices = [name for name in names if len(source.body[name].shape) > 1]
    a, b = (torch.cat([c.tensor(n).double().flatten() for n in matrices]) for c in (source, domain))
    found = measured(source, domain, names)["layer 1"]
    assert found.relative == pytest.approx(((other - own).norm() / own.norm()).item(), rel=1e-12)
    assert found.cosine == pytest.approx(torch.nn.functional.cosine_similarity(a, b, dim=0).item(), rel=1e-9)


def test_tensors_of_many_pieces_are_summed_whole(bert_retriever, bert_language_model, monkeypatch):
    source, domain = Checkpoint(bert_retriever), Checkpoint(bert_language_model)
    whole = measured(source, domain, ["encoder.layer.0.attention.self.query.weight"])["layer 0"]
    monkeypatch.setattr("pyterrier_merge.merging.distances._PIECE", 100)
    pieces = measured(source, domain, ["encoder.layer.0.attention.self.query.weight"])["layer 0"]
    assert pieces.relative == pytest.approx(whole.relative, rel=1e-12)
    assert pieces.cosine == pytest.approx(whole.cosine, rel=1e-12)


def test_nan_names_tensor_and_folder(mistral_retriever, tmp_path):
    def damage(name, tensor):
        return tensor * math.nan if name == "layers.3.mlp.up_proj.weight" else tensor

    domain = changed(mistral_retriever, tmp_path / "damaged", damage)
    with pytest.raises(ValueError, match=r"'layers\.3\.mlp\.up_proj\.weight' of .*damaged holds NaN"):
        measured(Checkpoint(mistral_retriever), domain)


def test_unrelated_models_are_doubtful_although_their_norms_agree(bert_retriever, bert_language_model):
    source, domain = Checkpoint(bert_retriever), Checkpoint(bert_language_model)
    found = measure_distances(source, domain, [name for name in source.body if name.startswith("encoder.layer.")])
    assert all(abs(distance.cosine) < UNRELATED for distance in found)
    verdict = judge((), found)
    assert (verdict.summary, verdict.mergeable) == (DOUBTFUL, True)
    assert verdict.reasons[0].startswith("unrelated weights in 4 of 4 layers")


def test_models_of_one_origin_can_be_merged(mistral_retriever, tmp_path):
    torch.manual_seed(5)
    domain = changed(mistral_retriever, tmp_path / "d", lambda _, tensor: tensor + 0.02 * torch.randn_like(tensor))
    verdict = judge((), tuple(measured(Checkpoint(mistral_retriever), domain).values()))
    assert (verdict.summary, verdict.reasons) == (CAN, ())


def test_a_copy_is_doubtful_and_so_is_one_in_another_precision(mistral_retriever, tmp_path):
    source = Checkpoint(mistral_retriever)
    assert judge((), tuple(measured(source, source).values())).reasons[0].startswith("a copy: ")
    rounded = changed(mistral_retriever, tmp_path / "d", lambda _, tensor: tensor.bfloat16())
    found = measured(source, rounded)
    assert 0 < found["layer 0"].relative < 0.01
    assert found["layer 0"].copied
    assert "but for the rounding" in judge((), tuple(found.values())).reasons[0]


def test_problems_outweigh_everything():
    verdict = judge(("no",), ())
    assert (verdict.summary, verdict.mergeable, verdict.reasons) == (CANNOT, False, ("no",))
    assert json.dumps(verdict.reasons) == '["no"]'
