"""LoRA adapters: trained by nobody, but written by peft, on bodies and on classes with heads."""

import json
import logging
import shutil
import types

import pytest
import torch
from adapters_made import TARGETS, change_tensors, configure, made_adapter
from peft import LoraConfig, PrefixTuningConfig, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import AutoModel, AutoModelForCausalLM, AutoModelForMaskedLM, AutoModelForSequenceClassification

from pyterrier_merge.merging.checkpoint import Checkpoint
from pyterrier_merge.models import adapters, fingerprint_model, locate_model, pinned_name
from pyterrier_merge.models.adapter_checks import _compare_names
from pyterrier_merge.storage import cache_folder


@pytest.mark.parametrize("model_class", [AutoModel, AutoModelForCausalLM])
@pytest.mark.parametrize("base", ["mistral_retriever", "mistral_language_model"])
def test_an_adapter_is_merged_into_its_base(base, model_class, request, tmp_path):
    """By hand: W + (alpha / r) B A for each target, all else the base's, whatever class either was saved from."""
    base = request.getfixturevalue(base)
    adapter = made_adapter(base, tmp_path / "adapter", model_class=model_class)
    merged, plain = Checkpoint(locate_model(f"{base}+{adapter}")), Checkpoint(base)
    root = "base_model.model." + ("model." if model_class is AutoModelForCausalLM else "")
    delta = load_file(adapter / "adapter_model.safetensors")
    assert set(merged.body) == set(plain.body)
    changed = 0
    for name in plain.body:
        expected = plain.tensor(name)
        if name.split(".")[-2] in TARGETS:
            place = root + name.removesuffix(".weight")
            expected = expected + 3 * delta[f"{place}.lora_B.weight"] @ delta[f"{place}.lora_A.weight"]
            changed += 1
        torch.testing.assert_close(merged.tensor(name), expected, rtol=0, atol=1e-6)
    assert changed == 2 * 4


def test_the_result_has_the_bases_files_and_is_made_once(mistral_retriever, tmp_path, monkeypatch):
    adapter = made_adapter(mistral_retriever, tmp_path / "adapter")
    folder = locate_model(f"{mistral_retriever}+{adapter}")
    assert folder.parent == cache_folder("models")
    for file in ("modules.json", "1_Pooling/config.json", "tokenizer.json", "config_sentence_transformers.json"):
        assert (folder / file).read_bytes() == (mistral_retriever / file).read_bytes()
    assert fingerprint_model(folder) != fingerprint_model(mistral_retriever)
    monkeypatch.setattr(adapters, "merge_adapter", None)  # would fail if it were called again
    assert locate_model(f"{mistral_retriever}+{adapter}") == folder
    assert not list(folder.parent.glob(".*.part"))


def test_an_adapter_changes_the_vectors_of_a_retriever(mistral_retriever, tmp_path):
    from pyterrier_merge import E5Encoder

    adapter = made_adapter(mistral_retriever, tmp_path / "adapter")
    plain, adapted = (
        E5Encoder(name, dtype="float32") for name in (mistral_retriever, f"{mistral_retriever}+{adapter}")
    )
    assert plain.contract == adapted.contract
    assert plain.fingerprint != adapted.fingerprint
    assert abs(plain.encode_docs(["kidney failure"]) - adapted.encode_docs(["kidney failure"])).max() > 1e-3


def test_another_content_is_another_model(mistral_retriever, tmp_path):
    adapter = made_adapter(mistral_retriever, tmp_path / "adapter")
    first = locate_model(f"{mistral_retriever}+{adapter}")
    configure(adapter, lora_alpha=12)
    assert locate_model(f"{mistral_retriever}+{adapter}") != first


def test_adapters_can_be_stacked(mistral_retriever, tmp_path):
    one, two = (
        made_adapter(mistral_retriever, tmp_path / name, scale=scale) for name, scale in (("1", 0.1), ("2", 0.2))
    )
    name = "layers.0.self_attn.q_proj.weight"
    start, first, both = (
        Checkpoint(locate_model("+".join(map(str, (mistral_retriever, *some))))).tensor(name)
        for some in ((), (one,), (one, two))
    )
    torch.testing.assert_close(both - first, 4 * (first - start), rtol=1e-3, atol=1e-5)


def test_a_folder_with_an_adapter_alone_stands_for_the_base_that_it_names(mistral_language_model, tmp_path):
    adapter = made_adapter(mistral_language_model, tmp_path / "adapter", model_class=AutoModelForCausalLM)
    assert locate_model(adapter) == locate_model(f"{mistral_language_model}+{adapter}")
    assert pinned_name(adapter) == f"{mistral_language_model}+{adapter}"


def test_an_adapter_beside_weights_must_be_named_or_go(mistral_retriever, mistral_language_model, tmp_path):
    """transformers would load the weights of the base that the adapter names, and none of those beside it."""
    folder = made_adapter(mistral_retriever, tmp_path / "adapter")
    shutil.copytree(mistral_retriever, folder, dirs_exist_ok=True)
    for name in (folder, f"{folder}+{folder}"):
        with pytest.raises(ValueError, match=r"not to be seen whether the adapter is in the weights: give a copy"):
            locate_model(name)
    assert locate_model(f"{mistral_retriever}+{folder}").parent == cache_folder("models")
    (folder / "adapter_config.json").unlink()
    assert locate_model(folder) == folder


def test_an_adapter_whose_base_is_gone_says_what_to_do(mistral_retriever, tmp_path):
    adapter = made_adapter(mistral_retriever, tmp_path / "adapter")
    configure(adapter, base_model_name_or_path=str(adapter))  # names itself
    with pytest.raises(FileNotFoundError, match=r"say 'BASE\+ADAPTER'"):
        locate_model(adapter)
    configure(adapter, base_model_name_or_path=None)
    with pytest.raises(ValueError, match=r"names no base_model_name_or_path: say 'BASE\+ADAPTER'"):
        locate_model(adapter)


def test_the_stored_type_stays(mistral_retriever, tmp_path):
    base = shutil.copytree(mistral_retriever, tmp_path / "base")
    tensors = load_file(base / "model.safetensors")
    save_file({name: t.bfloat16() for name, t in tensors.items()}, base / "model.safetensors", {"format": "pt"})
    adapter = made_adapter(mistral_retriever, tmp_path / "adapter")
    merged = Checkpoint(locate_model(f"{base}+{adapter}"))
    assert {stored.dtype for stored in merged.body.values()} == {"BF16"}


def test_an_adapter_of_bert_and_of_a_masked_language_model(bert_retriever, tmp_path):
    plain = Checkpoint(bert_retriever)
    for model_class in (AutoModel, AutoModelForMaskedLM, AutoModelForSequenceClassification):
        adapter = made_adapter(
            bert_retriever, tmp_path / model_class.__name__, model_class=model_class, target_modules=["query", "value"]
        )
        merged = Checkpoint(locate_model(f"{bert_retriever}+{adapter}"))
        moved = {name for name in plain.body if not torch.equal(plain.tensor(name), merged.tensor(name))}
        assert moved == {
            f"encoder.layer.{layer}.attention.self.{part}.weight" for layer in range(4) for part in ("query", "value")
        }


@pytest.mark.parametrize(
    "settings",
    [
        {"use_dora": True},
        {"use_rslora": True},
        {"rank_pattern": {"model.layers.1.self_attn.q_proj": 4}, "alpha_pattern": {"down_proj": 20}},
        {"alpha_pattern": {"^model.layers.1.self_attn.q_proj": 20}, "rank_pattern": {r"model\.layers\.2\.mlp\..*": 1}},
        {"alpha_pattern": {"(model.layers.0|model.layers.2).self_attn.q_proj": 20, "q_proj": 1}},
        {"alpha_pattern": {r"model\.layers\.[01]\.self_attn\.q_proj": 20, "model.+1.self_attn.q_proj": 1}},
        {"target_modules": r"model\.layers\.[12]\..*_proj"},
        {"target_modules": "all-linear"},
        {"target_modules": ["embed_tokens", "q_proj"]},
        {"layers_to_transform": [0, 3], "layers_pattern": "layers"},
        {"modules_to_save": ["norm", "lm_head"]},
        {"trainable_token_indices": [7, 5]},
    ],
    ids=str,
)
def test_what_a_lora_can_be_configured_to_is_what_peft_makes_of_it(mistral_language_model, tmp_path, settings):
    """peft itself, on the class that the adapter was trained on, against the body that is cut off the head."""
    from peft import PeftModel

    adapter = made_adapter(mistral_language_model, tmp_path / "adapter", model_class=AutoModelForCausalLM, **settings)
    merged = Checkpoint(locate_model(f"{mistral_language_model}+{adapter}"))
    reference = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(mistral_language_model), adapter)
    expected = reference.merge_and_unload().model.state_dict()
    for name in merged.body:
        torch.testing.assert_close(merged.tensor(name), expected[name], rtol=0, atol=1e-6)


def test_the_files_of_a_retriever_come_with_the_adapter_where_the_base_has_none(
    mistral_retriever, mistral_language_model, tmp_path
):
    """A retriever that sentence-transformers saved as an adapter on a plain language model."""
    adapter = made_adapter(mistral_language_model, tmp_path / "adapter")
    for file in ("modules.json", "config_sentence_transformers.json", "sentence_bert_config.json"):
        shutil.copy(mistral_retriever / file, adapter)
    shutil.copytree(mistral_retriever / "1_Pooling", adapter / "1_Pooling")
    folder = locate_model(adapter)
    assert (folder / "1_Pooling" / "config.json").is_file()
    assert (folder / "tokenizer.json").is_file()
    assert not list(folder.glob("adapter_*"))


def _trained_retriever(base, out, *, targets, pooling, dense=False):
    """Save what sentence-transformers makes of a base with an adapter: other pooling, prompts and length than it."""
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import Dense, Pooling

    model = SentenceTransformer(str(base), device="cpu")
    model.add_adapter(LoraConfig(r=2, target_modules=targets, task_type="FEATURE_EXTRACTION"))
    torch.manual_seed(6)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_" in name:
                parameter.add_(torch.randn_like(parameter) * 0.2)
    modules = [model[0], Pooling(32, pooling_mode=pooling), *([Dense(32, 16)] if dense else [])]
    trained = SentenceTransformer(modules=modules, device="cpu", prompts={"query": "fever ", "document": "pain "})
    trained.max_seq_length = 7
    trained.save(str(out))
    return out


@pytest.mark.parametrize("base", ["bert_retriever", "bert_retriever_of_old", "mistral_retriever"])
@pytest.mark.parametrize("dense", [False, True])
def test_a_retriever_that_is_an_adapter_is_the_one_that_was_trained(base, dense, request, tmp_path):
    """Its pooling, prompts, length and dense modules, also on a base that is a retriever; against its own library."""
    from sentence_transformers import SentenceTransformer

    from pyterrier_merge import E5Encoder

    targets, pooling = (["q_proj", "v_proj"], "mean") if base == "mistral_retriever" else (["query", "value"], "cls")
    base = request.getfixturevalue(base)
    adapter = _trained_retriever(base, tmp_path / "adapter", targets=targets, pooling=pooling, dense=dense)
    if (base / "0_Transformer").is_dir():  # sentence-transformers names the folder of the model to peft
        configure(adapter, base_model_name_or_path=str(base / "0_Transformer"))
    texts = ["kidney failure", "the heart rate high and a liver disease of acute pain"]
    reference = SentenceTransformer(str(adapter), device="cpu")
    expected = [
        reference.encode(texts, prompt_name=kind, normalize_embeddings=not dense) for kind in ("query", "document")
    ]
    encoder = E5Encoder(f"{base}+{adapter}", dtype="float32", device="cpu", normalize=not dense)
    assert encoder.contract.max_length == 7
    for found, vectors in zip((encoder.encode_queries(texts), encoder.encode_docs(texts)), expected, strict=True):
        assert abs(found - vectors).max() < 1e-5


def test_of_a_retriever_below_a_retriever_the_tokenizer_alone_stays(mistral_retriever, tmp_path):
    adapter = _trained_retriever(mistral_retriever, tmp_path / "adapter", targets=["q_proj"], pooling="mean")
    for file in (*adapter.glob("tokenizer*"), adapter / "sentence_bert_config.json"):
        file.unlink()
    folder = locate_model(f"{mistral_retriever}+{adapter}")
    assert (folder / "tokenizer.json").is_file()
    assert not (folder / "sentence_bert_config.json").exists()
    assert not (folder / "2_Normalize").exists()
    for file in ("modules.json", "config_sentence_transformers.json", "1_Pooling/config.json"):
        assert (folder / file).read_bytes() == (adapter / file).read_bytes()


def test_an_old_layout_keeps_its_place(bert_retriever_of_old, tmp_path):
    adapter = made_adapter(bert_retriever_of_old / "0_Transformer", tmp_path / "adapter", target_modules=["query"])
    folder = locate_model(f"{bert_retriever_of_old}+{adapter}")
    assert (folder / "0_Transformer" / "model.safetensors").is_file()
    assert (folder / "0_Transformer" / "tokenizer.json").is_file()
    assert not (folder / "model.safetensors").exists()


def test_an_adapter_in_a_pytorch_file(mistral_retriever, tmp_path):
    adapter = made_adapter(mistral_retriever, tmp_path / "adapter")
    first = Checkpoint(locate_model(f"{mistral_retriever}+{adapter}"))
    torch.save(load_file(adapter / "adapter_model.safetensors"), adapter / "adapter_model.bin")
    (adapter / "adapter_model.safetensors").unlink()
    second = Checkpoint(locate_model(f"{mistral_retriever}+{adapter}"))
    assert all(torch.equal(first.tensor(name), second.tensor(name)) for name in first.body)


def _refused(base, adapter, message):
    kept = sorted(cache_folder("models").iterdir())
    with pytest.raises(ValueError, match=message):
        locate_model(f"{base}+{adapter}")
    assert sorted(cache_folder("models").iterdir()) == kept  # nothing half-written


def test_an_adapter_of_another_architecture_is_refused(bert_retriever, mistral_retriever, tmp_path):
    adapter = made_adapter(mistral_retriever, tmp_path / "adapter")
    _refused(bert_retriever, adapter, r"tensor 'layers\.0\..*' of .* finds no place: .* another base's")


def test_an_adapter_of_another_width_is_refused(mistral_retriever, tmp_path):
    adapter = made_adapter(mistral_retriever, tmp_path / "adapter")
    name = "base_model.model.layers.0.self_attn.q_proj.lora_A.weight"
    change_tensors(adapter, lambda tensors: tensors.update({name: torch.ones(2, 48)}))
    _refused(mistral_retriever, adapter, r"is it another base's\? .*size mismatch for .*layers\.0\.self_attn\.q_proj")


def test_an_adapter_of_a_deeper_model_is_refused(mistral_retriever, tmp_path):
    adapter = made_adapter(mistral_retriever, tmp_path / "adapter")

    def deepen(tensors):
        tensors.update({name.replace("layers.3", "layers.9"): t.clone() for name, t in tensors.items()})

    change_tensors(adapter, deepen)
    _refused(mistral_retriever, adapter, r"tensor 'layers\.9\..*' of .* finds no place")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda ts: ts.update({"model.layers.0.x": torch.ones(1)}), "has no name that peft gives"),
        (lambda ts: ts.update({"base_model.model.extra.weight": torch.ones(1)}), "'extra.weight' .* finds no place"),
        (
            lambda ts: ts.pop(next(name for name in ts if "lora_B" in name)),
            r"first 'layers\.0\.\S+' \(no lora_B\.weight\)",
        ),
        (lambda ts: [ts[name].zero_() for name in ts if "lora_B" in name], "changes nothing in the model's body"),
        (lambda ts: ts.update({n: t * torch.nan for n, t in ts.items()}), "NaN"),
        (lambda ts: [ts.pop(name) for name in list(ts)], "holds no LoRA tensors"),
    ],
)
def test_an_adapter_with_wrong_tensors_is_refused(mistral_retriever, tmp_path, change, message):
    adapter = made_adapter(mistral_retriever, tmp_path / "adapter")
    change_tensors(adapter, change)
    _refused(mistral_retriever, adapter, message)


@pytest.mark.parametrize(
    ("settings", "changed"),
    [
        ({"modules_to_save": ["lm_head"]}, ()),
        ({"modules_to_save": ["norm"]}, ()),
        ({"target_modules": ["lm_head"]}, ("lm_head",)),
        ({"target_modules": ["lm_head", "q_proj"]}, ("lm_head",)),
        ({"target_modules": ["embed_tokens"]}, ("lora_embedding_B",)),  # of embeddings, A begins with zero
    ],
    ids=str,
)
def test_an_adapter_that_changes_a_head_alone_is_refused(mistral_language_model, tmp_path, settings, changed):
    adapter = made_adapter(mistral_language_model, tmp_path / "adapter", model_class=AutoModelForCausalLM, **settings)

    def untrain(tensors):
        for name, tensor in tensors.items():
            if "lora_" in name and not any(part in name for part in changed):
                tensor.zero_()

    change_tensors(adapter, untrain)
    _refused(mistral_language_model, adapter, r"adapter changes nothing in the model's body: .* a head are not merged")


def test_a_norm_that_was_trained_is_a_change(mistral_language_model, tmp_path):
    settings = {"model_class": AutoModelForCausalLM, "modules_to_save": ["norm"]}
    adapter = made_adapter(mistral_language_model, tmp_path / "adapter", **settings)
    change_tensors(
        adapter, lambda tensors: [t.zero_() if "lora_" in name else t.add_(1) for name, t in tensors.items()]
    )
    norm = Checkpoint(locate_model(f"{mistral_language_model}+{adapter}")).tensor("norm.weight")
    torch.testing.assert_close(norm, Checkpoint(mistral_language_model).tensor("norm.weight") + 1)


def test_another_kind_of_adapter_is_refused(mistral_language_model, tmp_path):
    model = AutoModelForCausalLM.from_pretrained(mistral_language_model)
    get_peft_model(model, PrefixTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=3)).save_pretrained(tmp_path)
    _refused(
        mistral_language_model, tmp_path, r"adapter_config\.json: peft_type is 'PREFIX_TUNING'; LoRA adapters alone"
    )


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"r": 0}, "expected a number above 0 for 'r', found 0"),
        ({"layer_replication": [[0, 4], [2, 4]]}, "layer_replication makes a model of another depth"),
        ({"alpha_pattern": {"*": 3}}, "alpha_pattern cannot be read: nothing to repeat"),
        ({"r": 16}, r"'layers\.0\.\S+lora_A\.weight' is \(2, \d+\), and adapter_config\.json says rank 16"),
    ],
)
def test_a_wrong_configuration_is_refused(mistral_retriever, tmp_path, settings, message):
    adapter = made_adapter(mistral_retriever, tmp_path / "adapter")
    configure(adapter, **settings)
    _refused(mistral_retriever, adapter, message)


def test_damaged_files_are_named(mistral_retriever, tmp_path):
    adapter = made_adapter(mistral_retriever, tmp_path / "adapter")
    content = (adapter / "adapter_model.safetensors").read_bytes()
    (adapter / "adapter_model.safetensors").write_bytes(content[:-10])
    _refused(mistral_retriever, adapter, r"adapter_model\.safetensors is not a readable checkpoint")
    (adapter / "adapter_model.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match="no weights"):
        locate_model(f"{mistral_retriever}+{adapter}")
    (adapter / "adapter_config.json").write_text("{")
    _refused(mistral_retriever, adapter, r"adapter_config\.json is not valid JSON")


def test_what_cannot_be_merged_is_said_to_be_that_and_not_another_bases(mistral_language_model, tmp_path):
    """With the tensors that peft saves for it, which have no place in the base."""
    setting = {"layer_replication": [[0, 4], [2, 4]]}
    adapter = made_adapter(mistral_language_model, tmp_path / "adapter", model_class=AutoModelForCausalLM, **setting)
    _refused(mistral_language_model, adapter, r"adapter_config\.json: layer_replication .* not supported")


def test_a_quantised_base_is_refused(mistral_retriever, tmp_path):
    base = shutil.copytree(mistral_retriever, tmp_path / "base")
    config = json.loads((base / "config.json").read_text())
    (base / "config.json").write_text(json.dumps(config | {"quantization_config": {"quant_method": "gptq"}}))
    _refused(base, made_adapter(mistral_retriever, tmp_path / "adapter"), r"quantization_config \(gptq\)")


def test_a_full_disk_is_said_before_anything_is_written(mistral_retriever, tmp_path, monkeypatch):
    adapter = made_adapter(mistral_retriever, tmp_path / "adapter", scale=0.3)  # not in the cache yet
    monkeypatch.setattr(shutil, "disk_usage", lambda _: types.SimpleNamespace(free=5_000_000))
    with pytest.raises(OSError, match=r"no room for .* \(0\.07 GB\) needed, 5,000,000 .* free .*; make room, or set"):
        locate_model(f"{mistral_retriever}+{adapter}")


@pytest.mark.parametrize("room", [200, 20_000], ids=["none for the tokenizer", "some for the weights"])
def test_a_disk_that_fills_up_leaves_nothing(mistral_retriever, tmp_path, small_files, room):
    adapter = made_adapter(mistral_retriever, tmp_path / "adapter", scale=0.4)
    kept = sorted(cache_folder("models").iterdir())
    with small_files(room), pytest.raises(OSError, match=r"File too large|weights could not be written into .*models"):
        locate_model(f"{mistral_retriever}+{adapter}")
    assert sorted(cache_folder("models").iterdir()) == kept


def test_another_hub_id_than_the_adapters_own_is_warned_of(tmp_path, caplog):
    with caplog.at_level(logging.WARNING):
        _compare_names("org/model", "ORG/Model", tmp_path)
        _compare_names(str(tmp_path), "org/model", tmp_path)
        assert not caplog.records
        _compare_names("org/model", "org/other", tmp_path)
    assert "was trained on org/other, and is merged into org/model" in caplog.text
