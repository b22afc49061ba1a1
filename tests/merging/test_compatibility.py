import json
import shutil

import pytest
from transformers import BertForMaskedLM

from pyterrier_merge.merging.checkpoint import Checkpoint
from pyterrier_merge.merging.compatibility import check_compatible


def test_a_retriever_and_a_language_model_are_compatible(mistral_retriever, mistral_language_model):
    verdict = check_compatible(Checkpoint(mistral_retriever), Checkpoint(mistral_language_model))
    assert not verdict.problems
    assert len(verdict.merged) == 4 * 9 + 1  # nine tensors a layer, and the final norm
    assert verdict.kept == ("embed_tokens.weight",)
    assert any("lm_head.weight" in note for note in verdict.notes)
    verdict.require()


def test_another_architecture_is_refused(bert_retriever, mistral_language_model):
    verdict = check_compatible(Checkpoint(bert_retriever), Checkpoint(mistral_language_model))
    with pytest.raises(ValueError, match=r"model_type: 'bert' in .*, 'mistral' in"):
        verdict.require()


def test_another_depth_is_refused(bert_retriever, bert_language_model, tmp_path):
    model = BertForMaskedLM.from_pretrained(bert_language_model)
    model.bert.encoder.layer = model.bert.encoder.layer[:3]
    model.config.num_hidden_layers = 3
    model.save_pretrained(tmp_path)
    verdict = check_compatible(Checkpoint(bert_retriever), Checkpoint(tmp_path))
    with pytest.raises(ValueError, match=r"layers: 4 in .*, 3 in"):
        verdict.require()


def test_another_width_names_a_tensor_and_both_shapes(bert_retriever, bert_language_model, tmp_path):
    from transformers import BertConfig

    config = BertConfig.from_pretrained(bert_language_model)
    config.intermediate_size = 48
    BertForMaskedLM(config).save_pretrained(tmp_path)
    verdict = check_compatible(Checkpoint(bert_retriever), Checkpoint(tmp_path))
    with pytest.raises(ValueError, match=r"encoder\.layer\.0\.intermediate\.dense.*\(64.*\(48"):
        verdict.require()


def test_another_rope_is_noted_in_the_old_way_of_writing_and_the_new(
    mistral_retriever, mistral_language_model, tmp_path
):
    folder = shutil.copytree(mistral_language_model, tmp_path / "copy")
    config = json.loads((folder / "config.json").read_text())
    theta = config.pop("rope_parameters")["rope_theta"]
    for written, noted in ((theta, False), (2 * theta, True)):
        (folder / "config.json").write_text(json.dumps({**config, "rope_theta": written}))
        notes = check_compatible(Checkpoint(mistral_retriever), Checkpoint(folder)).notes
        assert any(note.startswith("rope_theta differs") for note in notes) is noted


def test_another_vocabulary_is_noted_and_does_not_hinder(bert_retriever, bert_language_model, tmp_path):
    folder = shutil.copytree(bert_language_model, tmp_path / "copy")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "vocab_size": 99}))
    verdict = check_compatible(Checkpoint(bert_retriever), Checkpoint(folder))
    assert not verdict.problems
    assert any(note.startswith("vocab_size differs") for note in verdict.notes)


def edited(folder, target, **settings):
    """A copy of a model with other settings in ``config.json``; None takes one out."""
    shutil.copytree(folder, target)
    config = {**json.loads((target / "config.json").read_text()), **settings}
    (target / "config.json").write_text(
        json.dumps({name: value for name, value in config.items() if value is not None})
    )
    return Checkpoint(target)


def test_another_activation_is_refused_with_a_mend(bert_retriever, bert_language_model, tmp_path):
    verdict = check_compatible(
        Checkpoint(bert_retriever), edited(bert_language_model, tmp_path / "d", hidden_act="relu")
    )
    with pytest.raises(ValueError, match=r"hidden_act: 'gelu' in .*, 'relu' in .*; choose a domain model with"):
        verdict.require()


def test_forms_of_gelu_are_near_enough(bert_retriever, bert_language_model, tmp_path):
    domain = edited(bert_language_model, tmp_path / "d", hidden_act="gelu_pytorch_tanh")
    verdict = check_compatible(Checkpoint(bert_retriever), domain)
    assert not verdict.problems
    assert any(note.startswith("hidden_act differs") for note in verdict.notes)


def test_other_heads_are_refused_although_every_shape_agrees(mistral_retriever, mistral_language_model, tmp_path):
    domain = edited(mistral_language_model, tmp_path / "d", num_attention_heads=8, num_key_value_heads=4, head_dim=4)
    problems = check_compatible(Checkpoint(mistral_retriever), domain).problems
    assert [problem.split(":")[0] for problem in problems] == ["num_attention_heads", "num_key_value_heads", "head_dim"]


def test_a_setting_that_is_not_written_has_its_default(mistral_retriever, mistral_language_model, tmp_path):
    """10,000 is Mistral's default rope_theta, which old files leave out."""
    default = edited(mistral_language_model, tmp_path / "default", rope_parameters=None)
    assert not any("rope" in note for note in check_compatible(Checkpoint(mistral_retriever), default).notes)


def test_a_scaled_rope_is_noted(mistral_retriever, mistral_language_model, tmp_path):
    rope = {"rope_type": "linear", "factor": 4.0, "rope_theta": 10000.0}
    domain = edited(mistral_language_model, tmp_path / "d", rope_parameters=rope)
    notes = " ".join(check_compatible(Checkpoint(mistral_retriever), domain).notes)
    assert "rope_type differs: 'default' (source, used), 'linear' (domain)" in notes
    assert "rope_factor differs: None (source, used), 4.0 (domain)" in notes
    assert "rope_theta" not in notes


def test_biases_that_the_source_has_no_place_for_are_refused(mistral_retriever, mistral_language_model, tmp_path):
    from safetensors.torch import load_file, save_file

    folder = shutil.copytree(mistral_language_model, tmp_path / "biased")
    tensors = load_file(folder / "model.safetensors")
    biases = {f"model.layers.{layer}.self_attn.q_proj.bias": tensors["model.norm.weight"].clone() for layer in range(4)}
    save_file({**tensors, **biases}, folder / "model.safetensors")
    verdict = check_compatible(Checkpoint(mistral_retriever), Checkpoint(folder))
    with pytest.raises(
        ValueError, match=r"biased has 4 tensors in its layers that the source has no place for, such as"
    ):
        verdict.require()


def test_the_report_reads_and_counts_parameters(mistral_retriever, mistral_language_model):
    report = check_compatible(Checkpoint(mistral_retriever), Checkpoint(mistral_language_model))
    found = report.to_dict()
    layer = 32 * 32 * 2 + 16 * 32 * 2 + 64 * 32 * 3 + 2 * 32  # q and o, k and v, the MLP, two norms
    assert found["tensors"] == {
        "merged": {"number": 37, "parameters": 4 * layer + 32},
        "kept from the source": {"number": 1, "parameters": 25 * 32},
        "left out of the domain": {"number": 1, "parameters": 25 * 32},
    }
    assert json.loads(json.dumps(found, allow_nan=False)) == found
    assert found["source"]["dtypes"] == {"F32": 38}
    assert len(found["distances"]) == 6
    text = str(report)
    for part in (
        "MistralForCausalLM, 4 layers",
        "can be merged, with doubts",
        "rope_theta",
        "<s> 1",
        "layer 3",
        "F32 100%",
    ):
        assert part in text


def test_weights_are_not_read_when_distances_are_not_wanted(mistral_retriever, mistral_language_model, monkeypatch):
    def refuse(*_):
        raise AssertionError("read")

    monkeypatch.setattr(Checkpoint, "tensor", refuse)
    report = check_compatible(Checkpoint(mistral_retriever), Checkpoint(mistral_language_model))
    assert "can be merged (weights not looked at)" in report.text(distances=False)
    assert report.to_dict(distances=False)["distances"] is None


def test_damaged_weights_cannot_be_merged(mistral_retriever, mistral_language_model, tmp_path):
    from safetensors.torch import load_file, save_file

    folder = shutil.copytree(mistral_language_model, tmp_path / "damaged")
    tensors = load_file(folder / "model.safetensors")
    tensors["model.layers.1.mlp.up_proj.weight"][0, 0] = float("inf")
    save_file(tensors, folder / "model.safetensors")
    verdict = check_compatible(Checkpoint(mistral_retriever), Checkpoint(folder)).verdict()
    assert not verdict.mergeable
    assert "'layers.1.mlp.up_proj.weight'" in verdict.reasons[0]
