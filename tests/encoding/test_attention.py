"""Other kernels, the same arithmetic: against torch's own attention and torch's own linear layers."""

import copy
import platform
import subprocess
import sys

import numpy as np
import pytest
import torch
from transformers import (
    AutoModel,
    BertConfig,
    BertModel,
    Gemma3TextConfig,
    Gemma3TextModel,
    LlamaConfig,
    LlamaModel,
    MistralConfig,
    MistralModel,
    Qwen3Config,
    Qwen3Model,
    T5Config,
    T5EncoderModel,
)
from transformers.models.modernbert import ModernBertConfig, ModernBertModel

from pyterrier_merge import E5Encoder
from pyterrier_merge.encoding import attention
from pyterrier_merge.encoding.attention import ATTENTION, use_fast_kernels
from pyterrier_merge.encoding.fast_layers import GatedLayers, PackedLinear, RMSNorm

SIZES = {"vocab_size": 50, "hidden_size": 32, "num_hidden_layers": 3, "intermediate_size": 64, "num_attention_heads": 4}
BODIES = {
    "bert": (BertModel, BertConfig(**SIZES)),
    "llama, shared keys": (LlamaModel, LlamaConfig(**SIZES, num_key_value_heads=2)),
    "mistral, sliding window": (MistralModel, MistralConfig(**SIZES, num_key_value_heads=2, sliding_window=5)),
    "qwen 3, normed queries": (Qwen3Model, Qwen3Config(**SIZES, num_key_value_heads=2, head_dim=8)),
    "gemma 3, both directions": (
        Gemma3TextModel,
        Gemma3TextConfig(
            **SIZES, num_key_value_heads=2, head_dim=8, sliding_window=4, use_bidirectional_attention=True
        ),
    ),
    "t5, position bias": (
        T5EncoderModel,
        T5Config(vocab_size=50, d_model=32, d_kv=8, d_ff=64, num_layers=2, num_heads=4),
    ),
    "modernbert, local layers": (
        ModernBertModel,
        ModernBertConfig(**SIZES, local_attention=6, global_attn_every_n_layers=2, pad_token_id=0),
    ),
}


@pytest.fixture(autouse=True, params=[False, True], ids=["products", "tiles"])
def tiles(request, monkeypatch):
    """Every test as on a processor without AMX, and as on one with it, whichever runs it."""
    monkeypatch.setattr(attention, "multiplies_tiles", lambda: request.param)
    return request.param


LAYERS = {
    "bert": {PackedLinear},
    "llama, shared keys": {PackedLinear, GatedLayers, RMSNorm},
    "mistral, sliding window": {PackedLinear, GatedLayers, RMSNorm},
    "qwen 3, normed queries": {PackedLinear, GatedLayers, RMSNorm},
    "gemma 3, both directions": {PackedLinear, GatedLayers},  # its norms multiply by one more than their weights
    "t5, position bias": {PackedLinear, RMSNorm},
    "modernbert, local layers": {PackedLinear},
}


def replaced(model):
    return {type(module) for module in model.modules()} & {PackedLinear, GatedLayers, RMSNorm}


def body(name, dtype=torch.float32):
    family, config = BODIES[name]
    torch.manual_seed(0)
    model = family(copy.deepcopy(config)).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 1:  # norms, which are ones or zeros in a fresh model
                parameter.add_(torch.randn(parameter.shape) * 0.1)
    return model.to(dtype)


def batch(padded=True, side="right"):
    torch.manual_seed(1)
    mask = torch.ones(5, 12, dtype=torch.long)
    if padded:
        for row, length in enumerate((12, 9, 5, 1, 7)):
            mask[row, length:] = 0
    if side == "left":
        mask = mask.flip(1)
    return {"input_ids": torch.randint(1, 50, mask.shape) * mask, "attention_mask": mask}


def hidden(model, features):
    with torch.inference_mode():
        states = model(**features).last_hidden_state
    return states[features["attention_mask"].bool()]  # what stands in padding is nobody's


@pytest.mark.parametrize("features", [batch(), batch(padded=False), batch(side="left")], ids=["right", "none", "left"])
@pytest.mark.parametrize("name", BODIES)
@pytest.mark.parametrize("block", [1, 1 << 20])
def test_a_transformer_gives_what_it_gave(name, features, block, monkeypatch):
    monkeypatch.setattr(attention, "BLOCK", block)  # one text at a time, or all
    model = body(name)
    expected = hidden(model, features)
    use_fast_kernels(model)
    assert model.config._attn_implementation == ATTENTION
    assert replaced(model) == LAYERS[name]
    torch.testing.assert_close(hidden(model, features), expected, rtol=0, atol=2e-6)


@pytest.mark.parametrize("features", [batch(), batch(padded=False)], ids=["padded", "full"])
@pytest.mark.parametrize("name", BODIES)
def test_attention_over_filled_up_rows_is_the_same(name, features, monkeypatch, tiles):
    model = body(name, torch.bfloat16)
    use_fast_kernels(model)
    monkeypatch.setattr(attention, "LANES", 2)  # of 12 tokens nothing is left over
    expected = hidden(model, features)
    filled, pad = [], torch.nn.functional.pad
    monkeypatch.setattr(torch.nn.functional, "pad", lambda tensor, by: filled.append(by) or pad(tensor, by))
    monkeypatch.setattr(attention, "LANES", 16)
    torch.testing.assert_close(hidden(model, features), expected, rtol=0, atol=0.05)
    assert set(filled) == (set() if name.startswith("t5") or tiles else {(0, 0, 0, 4)})


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="other C libraries have other rules")
def test_freed_memory_is_found_again():
    program = """
import resource, torch
from pyterrier_merge.encoding.attention import keep_freed_memory
keep_freed_memory()
for turn in range(5):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    batch = [torch.ones(2_000_000) for _ in range(4)]  # 32 MB, 7,800 pages
    del batch
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""
    assert int(subprocess.run([sys.executable, "-c", program], check=True, capture_output=True).stdout) < 100


def noted(monkeypatch):
    """The shapes of the keys that torch's fused kernel is called with."""
    keys, real = [], torch.nn.functional.scaled_dot_product_attention

    def fused(query, key, value, **settings):
        keys.append(tuple(key.shape))
        return real(query, key, value, **settings)

    monkeypatch.setattr(torch.nn.functional, "scaled_dot_product_attention", fused)
    return keys


def test_shared_keys_are_not_repeated_for_the_fused_kernel(monkeypatch, tiles):
    model = body("llama, shared keys")
    use_fast_kernels(model)
    keys = noted(monkeypatch)
    hidden(model, batch())
    heads = model.config.num_key_value_heads
    assert heads < model.config.num_attention_heads
    assert {shape[1] for shape in keys} == ({heads} if tiles else set())


def test_attention_and_packed_layers_are_really_used(monkeypatch, tiles):
    model = body("bert")
    use_fast_kernels(model)
    expected = hidden(model, batch())
    fused = noted(monkeypatch)
    for largest, calls in ((attention.LARGEST, 3 if tiles else 0), (0, 3)):
        monkeypatch.setattr(attention, "LARGEST", largest)
        fused.clear()
        hidden(model, batch())
        assert len(fused) == calls
    model.encoder.layer[0].intermediate.dense.__dict__["_packed"] = torch.ops.mkldnn._reorder_linear_weight(
        torch.zeros(64, 32), None
    )
    assert not torch.equal(hidden(model, batch()), expected)


def test_long_texts_go_to_the_fused_kernel_with_the_same_result(monkeypatch):
    for name in BODIES:
        model = body(name)
        expected = hidden(model, batch())
        use_fast_kernels(model)
        monkeypatch.setattr(attention, "LARGEST", 4 * 12 * 12 - 1)
        torch.testing.assert_close(hidden(model, batch()), expected, rtol=0, atol=2e-6)


def test_gradients_reach_the_weights():
    for name in BODIES:
        model, plain = body(name), body(name)
        use_fast_kernels(model)
        for one in (plain, model):
            one(**batch()).last_hidden_state[:, 0].sum().backward()
        for mine, its in zip(model.parameters(), plain.parameters(), strict=True):
            if its.grad is not None:
                torch.testing.assert_close(mine.grad, its.grad, rtol=0, atol=1e-5)


def test_bfloat16_differs_from_torchs_kernels_by_rounding():
    for name in BODIES:
        exact, model = hidden(body(name), batch()), body(name, torch.bfloat16)
        torchs = (hidden(model, batch()).float() - exact).norm()
        use_fast_kernels(model)
        assert (hidden(model, batch()).float() - exact).norm() < 1.5 * torchs


def test_attention_that_is_not_torchs_fused_one_stays(tmp_path):
    body("bert").save_pretrained(tmp_path)
    eager = AutoModel.from_pretrained(tmp_path, attn_implementation="eager")
    use_fast_kernels(eager)
    assert eager.config._attn_implementation == "eager"


def test_an_encoder_uses_them(bert_retriever):
    encoder = E5Encoder(bert_retriever, dtype="float32", device="cpu")
    encoder.encode_docs(["fever"])
    assert encoder._loaded.body.config._attn_implementation == ATTENTION
    assert np.isfinite(encoder.encode_docs(["pain " * 100, ""])).all()
