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
