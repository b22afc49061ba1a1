"""Layers that stand in for others: what they compute, follow and leave alone. Whole models: test_attention.py."""

import copy

import pytest
import torch
from torch import nn
from transformers import BertConfig, BertModel, Gemma3nTextConfig, LlamaConfig
from transformers.models.gemma3n.modeling_gemma3n import Gemma3nTextMLP
from transformers.models.llama.modeling_llama import LlamaMLP, LlamaRMSNorm

from pyterrier_merge.encoding import fast_layers
from pyterrier_merge.encoding.fast_layers import GatedLayers, PackedLinear, RMSNorm, use_fast_layers

DTYPES = {torch.float32: 1e-5, torch.float16: 2e-3, torch.bfloat16: 2e-2}  # of a result's length


class Kept(nn.Module):
    """What a test looks at, inside something that has other layers too."""

    def __init__(self, layer):
        super().__init__()
        self.other, self.layer = nn.Linear(2, 2), layer

    def forward(self, tokens):
        return self.layer(tokens)


def fast(layer):
    model = Kept(copy.deepcopy(layer))
    use_fast_layers(model)
    return model.layer


def distance(found, expected):
    return float((found.float() - expected.float()).norm() / expected.float().norm())


def gated(activation="silu", dtype=torch.float32, bias=False):
    torch.manual_seed(0)
    config = LlamaConfig(
        hidden_size=24, intermediate_size=40, num_attention_heads=4, hidden_act=activation, mlp_bias=bias
    )
    return LlamaMLP(config).to(dtype)


def norm(width=24, dtype=torch.float32):
    torch.manual_seed(0)
    layer = LlamaRMSNorm(width, eps=1e-3)
    with torch.no_grad():
        layer.weight.normal_()
    return layer.to(dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("activation", ["silu", "gelu", "gelu_pytorch_tanh"])
def test_gated_layers_compute_what_they_did(activation, bias, dtype):
    plain = gated(activation, dtype, bias)
    layer = fast(plain)
    assert type(layer) is GatedLayers
    tokens = torch.randn(2, 5, 24, dtype=dtype)
    with torch.inference_mode():
        assert distance(layer(tokens), plain(tokens)) < DTYPES[dtype]
    assert list(layer.state_dict()) == list(plain.state_dict())


def test_gated_layers_are_really_fused(monkeypatch):
    layer = fast(gated())
    monkeypatch.setattr(type(layer.act_fn), "forward", None)
    with torch.inference_mode():
        layer(torch.randn(3, 24))


def test_gated_layers_that_something_was_put_around_are_called():
    layer = fast(gated())
    expected = gated()
    for one in (layer, expected):
        one.up_proj = nn.Sequential(one.up_proj, nn.ReLU())  # as peft puts an adapter around a layer
    tokens = torch.randn(3, 24)
    with torch.inference_mode():
        torch.testing.assert_close(layer(tokens), expected(tokens))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(24,), (7, 24), (2, 3, 5, 24), (0, 24)])
def test_a_norm_computes_what_it_did(shape, dtype):
    plain = norm(dtype=dtype)
    layer = fast(plain)
    assert type(layer) is RMSNorm
    states = torch.randn(shape, dtype=dtype) * 3 + 1
    before = states.clone()
    with torch.inference_mode():
        torch.testing.assert_close(layer(states), plain(states), rtol=DTYPES[dtype], atol=1e-6)
        turned = states.transpose(0, -1).contiguous().transpose(0, -1)  # the same numbers in another order
        torch.testing.assert_close(layer(turned), plain(states), rtol=DTYPES[dtype], atol=1e-6)
    assert torch.equal(states, before)


def test_a_norm_of_float32_states_with_weights_in_bfloat16_gives_float32():
    plain = norm(dtype=torch.bfloat16)
    states = torch.randn(3, 24)
    with torch.inference_mode():
        found = fast(plain)(states)
        torch.testing.assert_close(found, plain(states))
        assert found.dtype == torch.float32


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_norm_of_another_kind_stays(dtype):
    width = 4096  # so wide that the mean of random numbers is next to nothing
    for plain in (nn.LayerNorm(width, bias=False), nn.RMSNorm(width), nn.LayerNorm(width)):
        assert type(fast(plain.to(dtype))) is type(plain)


def test_what_only_looks_alike_stays():
    class OneMore(LlamaRMSNorm):
        def forward(self, hidden_states):
            return super().forward(hidden_states) * (1 + self.weight) / self.weight

    class TakesAFactor(LlamaMLP):
        def forward(self, x, factor=1):
            return super().forward(x) * factor

    class TurnedRound(LlamaMLP):
        def forward(self, x):
            return self.down_proj(self.act_fn(self.up_proj(x)) * self.gate_proj(x))

    class TakesAGate(LlamaRMSNorm):
        def forward(self, hidden_states, gate=None):
            return super().forward(hidden_states if gate is None else hidden_states * gate)

    class Limited(LlamaMLP):
        def forward(self, x):
            return self.down_proj(self.act_fn(self.gate_proj(x).clamp(max=10)) * self.up_proj(x).clamp(-10, 10))

    class EpsilonOutside(LlamaRMSNorm):
        def forward(self, hidden_states):
            root = hidden_states.square().mean(-1, keepdim=True).sqrt()
            return self.weight * hidden_states / (root + self.variance_epsilon)

    config = LlamaConfig(hidden_size=24, intermediate_size=40, num_attention_heads=4)
    norms, others = (OneMore, TakesAGate, EpsilonOutside), (TakesAFactor, TurnedRound, Limited)
    for plain in (*(kind(24) for kind in norms), *(kind(config) for kind in others), gated("relu")):
        assert type(fast(plain)) is type(plain)


def test_layers_of_a_class_may_compute_otherwise_one_by_one():
    """Gemma 3n's sparse layers and its others are of one class."""
    sizes = {"hidden_size": 24, "intermediate_size": 40, "num_hidden_layers": 2}
    config = Gemma3nTextConfig(**sizes, activation_sparsity_pattern=[0.0, 0.5], layer_types=["full_attention"] * 2)
    layers = nn.ModuleList(Gemma3nTextMLP(config, number) for number in range(2))
    use_fast_layers(layers)
    assert [type(layer) for layer in layers] == [GatedLayers, Gemma3nTextMLP]


def test_gradients_flow():
    for plain in (gated(), norm()):
        layer = fast(plain)
        tokens = torch.randn(3, 24)
        for one in (layer, plain):
            one(tokens).sum().backward()
        for mine, its in zip(layer.parameters(), plain.parameters(), strict=True):
            torch.testing.assert_close(mine.grad, its.grad)


def test_packed_weights_follow_what_is_written_to_them():
    plain = nn.Linear(8, 4)
    layer = fast(plain)
    assert type(layer) is PackedLinear
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


def test_large_models_and_other_types_are_not_packed(monkeypatch):
    config = BertConfig(hidden_size=32, num_hidden_layers=1, intermediate_size=64, num_attention_heads=4, vocab_size=50)
    half, large = BertModel(config).to(torch.float16), BertModel(config)
    use_fast_layers(half)
    monkeypatch.setattr(fast_layers, "PACKED_BYTES", 1000)
    use_fast_layers(large)
    assert not any(isinstance(module, PackedLinear) for model in (half, large) for module in model.modules())
