"""Adapters that mergekit extracts from two checkpoints, as docs/merging.md shows it."""

import copy
import json

import pytest
import torch
from click.testing import CliRunner
from mergekit.scripts.extract_lora import main as extract
from safetensors.torch import load_file
from transformers import AutoModel, AutoModelForCausalLM, AutoTokenizer

from pyterrier_merge import E5Encoder, LoRAE5Encoder
from pyterrier_merge.merging.checkpoint import Checkpoint
from pyterrier_merge.models import locate_model

LAYERS_ALONE = ("--exclude-regex", "embed|[Nn]orm|lm_head|pooler")


@pytest.fixture(params=["bert_retriever", "mistral_language_model"])
def base_and_tuned(request, tmp_path):
    """A checkpoint, and the same after a training that moved every weight."""
    base = request.getfixturevalue(request.param)
    model_class = AutoModel if request.param == "bert_retriever" else AutoModelForCausalLM
    tuned = copy.deepcopy(model_class.from_pretrained(base))
    torch.manual_seed(4)
    with torch.no_grad():
        for parameter in tuned.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.05)
    tuned.save_pretrained(tmp_path / "tuned")
    AutoTokenizer.from_pretrained(base).save_pretrained(tmp_path / "tuned")
    return base, tmp_path / "tuned"


def extracted(base, tuned, out, *options):
    arguments = ["--model", str(tuned), "--base-model", str(base), "--out-path", str(out), *options]
    result = CliRunner().invoke(extract, arguments, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return out


def test_at_full_rank_it_is_the_tuned_model(base_and_tuned, tmp_path):
    """Biases too, which mergekit writes as lora_B.bias and does not mention; peft leaves them out without a word."""
    base, tuned = base_and_tuned
    adapter = extracted(base, tuned, tmp_path / "adapter", "--max-rank", "32")
    assert "lora_bias" not in json.loads((adapter / "adapter_config.json").read_text())
    merged, expected = Checkpoint(locate_model(f"{base}+{adapter}")), Checkpoint(tuned)
    for name in expected.body:
        if not name.startswith("pooler."):
            torch.testing.assert_close(merged.tensor(name), expected.tensor(name), rtol=0, atol=1e-5)


def test_of_a_low_rank_the_layers_are_nearest_and_the_rest_is_left_out_on_demand(base_and_tuned, tmp_path):
    base, tuned = base_and_tuned
    adapter = extracted(base, tuned, tmp_path / "adapter", "--max-rank", "4", *LAYERS_ALONE)
    assert not any("orm" in name or "embed" in name for name in load_file(adapter / "adapter_model.safetensors"))
    merged, start, end = (Checkpoint(folder) for folder in (locate_model(f"{base}+{adapter}"), base, tuned))
    for name in end.body:
        found, begun, wanted = (checkpoint.tensor(name) for checkpoint in (merged, start, end))
        if begun.ndim == 2 and "embed" not in name and not name.startswith("pooler."):
            u, s, v = torch.linalg.svd(wanted - begun)
            best = begun + u[:, :4] @ torch.diag(s[:4]) @ v[:4]
            torch.testing.assert_close(found, best, rtol=0, atol=1e-5)
        elif "orm" in name or "embed" in name:
            assert found.equal(begun)


def test_the_difference_of_a_domain_is_added_to_a_retriever(mistral_retriever, mistral_language_model, tmp_path):
    """The adapter names the language model as its base: other names are warned of, and it fits all the same."""
    tuned = AutoModelForCausalLM.from_pretrained(mistral_language_model)
    with torch.no_grad():
        tuned.model.layers[2].self_attn.q_proj.weight.add_(torch.ones(32, 1) @ torch.randn(1, 32) * 0.1)
    tuned.save_pretrained(tmp_path / "tuned")
    adapter = extracted(
        mistral_language_model, tmp_path / "tuned", tmp_path / "adapter", "--max-rank", "1", *LAYERS_ALONE
    )
    encoder = LoRAE5Encoder(mistral_retriever, adapter, dtype="float32", device="cpu")
    plain = E5Encoder(mistral_retriever, dtype="float32", device="cpu")
    assert encoder.contract == plain.contract
    name = "layers.2.self_attn.q_proj.weight"
    difference = tuned.model.state_dict()[name] - Checkpoint(mistral_language_model).tensor(name)
    found = encoder._text_model().body.state_dict()[name] - Checkpoint(mistral_retriever).tensor(name)
    torch.testing.assert_close(found, difference, rtol=0, atol=1e-5)
    assert abs(encoder.encode_docs(["fever"]) - plain.encode_docs(["fever"])).max() > 1e-4
