"""Replacement layers with the same results and fewer passes over memory."""

from __future__ import annotations

import copy
from inspect import signature
from typing import Any

import torch
from torch import nn

PACKED_BYTES = 1 << 30  # packing copies the layers: not for models that fill the memory
ALIKE = {torch.float32: 1e-5, torch.float16: 2e-3, torch.bfloat16: 2e-2}  # relative differences by rounding
SIZES = (1e-3, 1, 1e3)  # of trial inputs: small numbers reveal an epsilon, large ones a limit
_PACKED, _PACKED_STATE = "_packed", "_packed_state"  # not registered with torch: no parameter, never saved
_FUSED = {  # activation -> oneDNN's names for it and for its algorithm
    "SiLU": ("swish", ""),
    "SiLUActivation": ("swish", ""),
    "GELU": ("gelu", "none"),
    "GELUActivation": ("gelu", "none"),
    "GELUTanh": ("gelu", "tanh"),
    "PytorchGELUTanh": ("gelu", "tanh"),
}


def use_fast_layers(body: nn.Module) -> None:
    """Let a transformer compute RMS norms in one pass and, on a CPU, linear layers with packed weights.

    Gated layers then take two products, with the activation inside. Parameters and their names stay, so that merges
    write to them as before. Gated layers and norms are recognised by their contents, and replaced if a trial on small
    and large random numbers gives the same results.

    Args:
        body: The transformer, on its device, in the type that it computes in. Linear layers of more than 1 GB are not
            changed.
    """
    linear = [module for module in body.modules() if type(module) is nn.Linear]
    first = next(body.parameters())
    dtype = first.dtype
    small = sum(module.weight.nbytes for module in linear) <= PACKED_BYTES
    packed = first.device.type == "cpu" and small and _packs(dtype)
    if packed:
        for layer in linear:
            layer.__class__ = PackedLinear
    alike: dict[tuple[Any, ...], bool] = {}
    for module in list(body.modules()) if dtype in ALIKE else ():
        fitting = next((kind for kind in (GatedLayers, RMSNorm) if kind.fits(module)), None)
        if fitting is None or len(signature(module.forward).parameters) > 1:  # a norm may also take a gate
            continue
        kin = type(module), *_settings(module)
        if kin not in alike:
            alike[kin] = _computes_alike(module, fitting)
        if alike[kin]:
            module.__class__ = fitting


class PackedLinear(nn.Linear):
    """A linear layer that multiplies with a copy of its weights in the processor's preferred order.

    The copy is made at the first text, and again after the weights were changed. If gradients are needed, the original
    weights are used.
    """

    def forward(self, input: torch.Tensor) -> torch.Tensor:  # noqa: A002 (torch's name)
        """Return ``input @ weight.T + bias``."""
        if _needs_gradients():
            return super().forward(input)
        return self.activated(input, "none", "")

    def activated(self, tokens: torch.Tensor, activation: str, algorithm: str) -> torch.Tensor:
        """Return the activation of the result of :meth:`forward`; both arguments are oneDNN's names."""
        return torch.ops.mkldnn._linear_pointwise(tokens, self._weights(), self.bias, activation, [], algorithm)

    def times(self, tokens: torch.Tensor, factor: torch.Tensor) -> torch.Tensor:
        """Return the result of :meth:`forward`, times a tensor of the same shape."""
        return torch.ops.mkldnn._linear_pointwise.binary(tokens, factor, self._weights(), self.bias, "mul")

    def _weights(self) -> torch.Tensor:
        state = self.weight.data_ptr(), self.weight._version
        if self.__dict__.get(_PACKED_STATE) != state:
            self.__dict__[_PACKED] = torch.ops.mkldnn._reorder_linear_weight(self.weight.detach(), None)
            self.__dict__[_PACKED_STATE] = state
        packed: torch.Tensor = self.__dict__[_PACKED]
        return packed

    def __getstate__(self) -> dict[str, Any]:
        """The state for a copy, which packs its weights itself."""
        return {name: value for name, value in self.__dict__.items() if name not in (_PACKED, _PACKED_STATE)}


class GatedLayers(nn.Module):
    """The feed-forward layers of Llama's family; activation and gate are fused into the products."""

    @staticmethod
    def fits(module: nn.Module) -> bool:
        """Whether a module has exactly these layers, packed."""
        children = dict(module.named_children())
        linear = ("gate_proj", "up_proj", "down_proj")
        return (
            set(children) == {*linear, "act_fn"}
            and all(type(children[name]) is PackedLinear for name in linear)
            and type(children["act_fn"]).__name__ in _FUSED
        )

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """Return ``down(activation(gate(tokens)) * up(tokens))``."""
        layers: Any = self
        gate, up, down, activation = layers.gate_proj, layers.up_proj, layers.down_proj, layers.act_fn
        if _needs_gradients() or not self.fits(self):
            return down(activation(gate(tokens)) * up(tokens))
        return down(up.times(tokens, gate.activated(tokens, *_FUSED[type(activation).__name__])))


class RMSNorm(nn.Module):
    """A root-mean-square norm in float32 (Zhang and Sennrich, 2019): in place on a CPU, in one kernel on a GPU."""

    @staticmethod
    def fits(module: nn.Module) -> bool:
        """Whether a module may be such a norm: a vector of weights, an epsilon, and nothing else."""
        parameters = dict(module.named_parameters())
        return set(parameters) == {"weight"} and parameters["weight"].ndim == 1 and _epsilon(module) is not None

    def forward(self, states: torch.Tensor) -> torch.Tensor:
        """Return ``weight * states / sqrt(mean(states ** 2) + epsilon)``, over the last dimension."""
        weight: Any = self.weight
        if not states.is_cpu and states.dtype == weight.dtype:
            return nn.functional.rms_norm(states, weight.shape, weight, _epsilon(self))
        if _needs_gradients() or states.dtype != weight.dtype:
            wide = states.float()
            wide = wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + _epsilon(self))
            return weight * wide.to(states.dtype)
        wide = states.to(torch.float32, copy=True)
        mean = torch.linalg.vector_norm(wide, dim=-1, keepdim=True).square_().div_(wide.shape[-1])
        return wide.mul_(mean.add_(_epsilon(self)).rsqrt_()).to(states.dtype).mul_(weight)


def _needs_gradients() -> bool:
    return torch.is_grad_enabled() or torch.is_autocast_enabled("cpu")


def _epsilon(norm: nn.Module) -> Any:
    """The number that a norm adds to the mean of squares; None if it has none."""
    found = getattr(norm, "variance_epsilon", getattr(norm, "eps", None))
    return found if isinstance(found, float) else None


def _settings(module: nn.Module) -> list[tuple[str, Any]]:
    """The settings in which layers of one class differ, such as the sparsity of Gemma 3n's first layers."""
    return [(name, value) for name, value in vars(module).items() if isinstance(value, int | float | str)]


def _computes_alike(module: nn.Module, kind: type[nn.Module]) -> bool:
    """Whether a module with random weights gives the same results after conversion to ``kind``."""
    before = copy.deepcopy(module)
    generator = torch.Generator().manual_seed(0)
    weights = list(before.parameters())
    with torch.no_grad():
        for weight in weights:
            weight.copy_(torch.randn(weight.shape, generator=generator) * weight.shape[-1] ** -0.5)
        tokens = torch.randn(3, weights[0].shape[-1], generator=generator) + 1  # shows if a mean is subtracted
        after = copy.deepcopy(before)
        after.__class__ = kind
        tried = [(tokens * size).to(weights[0]) for size in SIZES]
        pairs = [(before(some).float(), after(some).float()) for some in tried]
    return all(
        bool((expected - found).norm() <= ALIKE[weights[0].dtype] * expected.norm()) for expected, found in pairs
    )


def _packs(dtype: torch.dtype) -> bool:
    if not torch.backends.mkldnn.is_available():  # type: ignore[no-untyped-call]
        return False
    return dtype == torch.float32 or (dtype == torch.bfloat16 and torch.ops.mkldnn._is_mkldnn_bf16_supported())
