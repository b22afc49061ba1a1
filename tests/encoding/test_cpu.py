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
    T5Config,
    T5EncoderModel,
)
from transformers.models.modernbert import ModernBertConfig, ModernBertModel

from pyterrier_merge import E5Encoder
from pyterrier_merge.encoding import cpu
from pyterrier_merge.encoding.cpu import ATTENTION, PackedLinear, use_fast_kernels

SIZES = {"vocab_size": 50, "hidden_size": 32, "num_hidden_layers": 3, "intermediate_size": 64, "num_attention_heads": 4}
BODIES = {
    "bert": (BertModel, BertConfig(**SIZES)),
    "llama, shared keys": (LlamaModel, LlamaConfig(**SIZES, num_key_value_heads=2)),
    "mistral, sliding window": (MistralModel, MistralConfig(**SIZES, num_key_value_heads=2, sliding_window=5)),
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
    monkeypatch.setattr(cpu, "multiplies_tiles", lambda: request.param)
    return request.param


def body(name, dtype=torch.float32):
    family, config = BODIES[name]
    torch.manual_seed(0)
    return family(copy.deepcopy(config)).to(dtype).eval()


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
    monkeypatch.setattr(cpu, "BLOCK", block)  # one text at a time, or all
    model = body(name)
    expected = hidden(model, features)
    use_fast_kernels(model)
    assert model.config._attn_implementation == ATTENTION
    assert any(isinstance(module, PackedLinear) for module in model.modules())
    torch.testing.assert_close(hidden(model, features), expected, rtol=0, atol=2e-6)


@pytest.mark.parametrize("features", [batch(), batch(padded=False)], ids=["padded", "full"])
@pytest.mark.parametrize("name", BODIES)
def test_attention_over_filled_up_rows_is_the_same(name, features, monkeypatch, tiles):
    model = body(name, torch.bfloat16)
    use_fast_kernels(model)
    monkeypatch.setattr(cpu, "LANES", 2)  # of 12 tokens nothing is left over
    expected = hidden(model, features)
    filled, pad = [], torch.nn.functional.pad
    monkeypatch.setattr(torch.nn.functional, "pad", lambda tensor, by: filled.append(by) or pad(tensor, by))
    monkeypatch.setattr(cpu, "LANES", 16)
    torch.testing.assert_close(hidden(model, features), expected, rtol=0, atol=0.05)
    assert set(filled) == (set() if name.startswith("t5") or tiles else {(0, 0, 0, 4)})


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="other C libraries have other rules")
def test_freed_memory_is_found_again():
    program = """
import resource, torch
from pyterrier_merge.encoding.cpu import keep_freed_memory
keep_freed_memory()
for turn in range(5):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    batch = [torch.ones(2_000_000) for _ in range(4)]  # 32 MB, 7,800 pages
    del batch
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""
    assert int(subprocess.run([sys.executable, "-c", program], check=True, capture_output=True).stdout) < 100


def test_attention_and_packed_layers_are_really_used(monkeypatch, tiles):
    model = body("bert")
    use_fast_kernels(model)
    expected = hidden(model, batch())
    fused, torchs = [], cpu.sdpa_attention_forward
    monkeypatch.setattr(cpu, "sdpa_attention_forward", lambda *given, **more: fused.append(1) or torchs(*given, **more))
    for largest, calls in ((cpu.LARGEST, 3 if tiles else 0), (0, 3)):
        monkeypatch.setattr(cpu, "LARGEST", largest)
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
        monkeypatch.setattr(cpu, "LARGEST", 4 * 12 * 12 - 1)
        torch.testing.assert_close(hidden(model, batch()), expected, rtol=0, atol=2e-6)


def test_packed_weights_follow_what_is_written_to_them():
    layer = torch.nn.Linear(8, 4)
    plain = copy.deepcopy(layer)
    layer.__class__ = PackedLinear
    tokens = torch.randn(3, 8)
    for _ in range(2):
        with torch.inference_mode():
            torch.testing.assert_close(layer(tokens), plain(tokens))
        with torch.no_grad():
            for parameters in (layer, plain):
                parameters.weight.mul_(2)
                parameters.bias.add_(1)
    copied = copy.deepcopy(layer)
    assert list(copied.state_dict()) == ["weight", "bias"]
    with torch.inference_mode():
        torch.testing.assert_close(copied(tokens), plain(tokens))


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


def test_large_models_and_other_types_are_not_packed(monkeypatch):
    half = body("bert", torch.float16)
    use_fast_kernels(half)
    monkeypatch.setattr(cpu, "PACKED_BYTES", 1000)
    large = body("bert")
    use_fast_kernels(large)
    assert not any(isinstance(module, PackedLinear) for model in (half, large) for module in model.modules())


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
