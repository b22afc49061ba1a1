import json
import shutil

import pytest

from pyterrier_merge.models import count_layers, fingerprint_model, transformer_folder


def test_the_fingerprint_sees_a_rewritten_file(bert_retriever, tmp_path):
    folder = shutil.copytree(bert_retriever, tmp_path / "model")
    before = fingerprint_model(folder)
    assert before == fingerprint_model(bert_retriever)
    weights = folder / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    assert fingerprint_model(folder) != before


def test_what_is_not_read_does_not_change_the_fingerprint(bert_retriever, tmp_path):
    folder = shutil.copytree(bert_retriever, tmp_path / "model")
    for name in ("onnx/config.json", "checkpoint-500/model.safetensors", "consolidated.safetensors", "optimizer.bin"):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text("{}")
    (folder / "pytorch_model.bin").write_bytes(b"the same weights in another form")
    assert fingerprint_model(folder) == fingerprint_model(bert_retriever)


@pytest.mark.parametrize("record", ["training.json", "merge.json", "trainer_state.json", "README.md"])
def test_a_record_of_how_a_model_was_made_does_not_change_the_fingerprint(bert_retriever, tmp_path, record):
    folder = shutil.copytree(bert_retriever, tmp_path / "model")
    for seconds in (12.3, 12.4):
        (folder / record).write_text(json.dumps({"seconds": seconds}))
        assert fingerprint_model(folder) == fingerprint_model(bert_retriever)


def test_the_fingerprint_sees_modules_shards_and_adapters(bert_retriever, tmp_path):
    folder = shutil.copytree(bert_retriever, tmp_path / "model")
    (folder / "model.safetensors").rename(folder / "model-1.safetensors")
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": "model-1.safetensors"}}))
    (tmp_path / "adapter").mkdir()
    (tmp_path / "adapter" / "adapter_model.safetensors").write_bytes(b"1")
    for place, name in (
        (folder, "1_Pooling/config.json"),
        (folder, "model-1.safetensors"),
        (tmp_path / "adapter", "adapter_model.safetensors"),
    ):
        before = fingerprint_model(place)
        (place / name).write_bytes((place / name).read_bytes() + b" ")
        assert fingerprint_model(place) != before, name


def test_the_transformer_is_found_in_both_layouts(bert_retriever, bert_retriever_of_old):
    assert transformer_folder(bert_retriever) == bert_retriever
    assert transformer_folder(bert_retriever_of_old) == bert_retriever_of_old / "0_Transformer"


@pytest.mark.parametrize("modules", ["{", "[]", '{"path": ""}', "[1]"])
def test_a_broken_modules_file_is_named(tmp_path, modules):
    (tmp_path / "modules.json").write_text(modules)
    with pytest.raises(ValueError, match=r"modules\.json is not a list of sentence-transformers modules"):
        transformer_folder(tmp_path)


@pytest.mark.parametrize(
    "config",
    [
        {"num_hidden_layers": 6},
        {"n_layer": 6},
        {"n_layers": 6},
        {"num_layers": 6},
        {"num_hidden_layers": None, "text_config": {"num_hidden_layers": 6}},
    ],
)
def test_layers_are_counted_by_the_configuration(tmp_path, config):
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert count_layers(tmp_path) == 6


@pytest.mark.parametrize("config", [{}, {"num_hidden_layers": "6"}, {"num_hidden_layers": True}, {"n_layer": 0}])
def test_a_configuration_without_layers_is_named(tmp_path, config):
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match=r"config\.json states no number of layers"):
        count_layers(tmp_path)


def test_a_missing_or_broken_configuration_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"has no config\.json"):
        count_layers(tmp_path)
    for content, message in (("{", "is not valid JSON"), ("[]", "is not a JSON object")):
        (tmp_path / "config.json").write_text(content)
        with pytest.raises(ValueError, match=message):
            count_layers(tmp_path)
    (tmp_path / "config.json").write_bytes(b"\xff\xfe")
    with pytest.raises(ValueError, match="is not valid JSON"):
        count_layers(tmp_path)
