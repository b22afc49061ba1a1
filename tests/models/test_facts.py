import json
import shutil

import pytest
from safetensors.torch import load_file, save_file

from pyterrier_merge.models.facts import model_facts


def test_facts_come_from_the_files_of_a_model(bert_retriever, mistral_language_model):
    facts = model_facts(str(bert_retriever))
    weights = load_file(bert_retriever / "model.safetensors").values()
    assert (facts.where, facts.loadable, facts.dtype, facts.dimension) == ("folder", True, "F32", 32)
    assert facts.parameters == sum(tensor.numel() for tensor in weights)
    assert facts.stored_bytes == 4 * facts.parameters
    assert model_facts(str(mistral_language_model)).dimension == 32


def test_half_precision_is_half_as_large(bert_language_model, tmp_path):
    folder = shutil.copytree(bert_language_model, tmp_path / "half")
    tensors = load_file(folder / "model.safetensors")
    save_file({name: tensor.bfloat16() for name, tensor in tensors.items()}, folder / "model.safetensors")
    facts = model_facts(str(folder))
    assert facts.dtype == "BF16"
    assert facts.stored_bytes == 2 * facts.parameters


def test_the_last_projection_says_the_dimension(bert_retriever, tmp_path):
    folder = shutil.copytree(bert_retriever, tmp_path / "projected")
    modules = json.loads((folder / "modules.json").read_text())
    dense = {"idx": 3, "name": "3", "path": "3_Dense", "type": "sentence_transformers.models.Dense"}
    (folder / "modules.json").write_text(json.dumps([*modules, dense]))
    (folder / "3_Dense").mkdir()
    (folder / "3_Dense" / "config.json").write_text(json.dumps({"in_features": 32, "out_features": 8}))
    assert model_facts(str(folder)).dimension == 8


def test_a_model_that_is_not_there_is_an_error():
    with pytest.raises(FileNotFoundError, match="no model at"):
        model_facts("./nowhere")
